"""Every model's defaults train on every preset within 4 GB, and what does not fit says which options would help."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest
from small_folders import seal

from seqrec_tf import data, models
from seqrec_tf.config import resolve
from seqrec_tf.models.base_memory import training_bytes
from seqrec_tf.records import DatasetFolder
from seqrec_tf.schema import ITEM_IDS, TARGET_START, TIMESTAMPS, USER_ID, Feature, Schema
from seqrec_tf.training.preflight import learns_by_gradients, preflight

MODELS = sorted(
    file.stem for file in (pathlib.Path(models.__file__).parent).glob("[!_]*.py") if not file.stem.startswith("base")
)
RANKING = ("bst", "din", "wide_deep")
# Items, users, training sequences, their mean length, the longest sequence: what `seqrec prepare --preset` finds.
PRESETS = {
    "movielens-100k": (1_682, 943, 943, 104.045, 737),
    "movielens-1m": (3_706, 6_040, 6_040, 163.598, 2_314),
    "amazon-beauty": (54_542, 40_226, 40_226, 6.799, 293),
    "retailrocket": (36_968, 0, 126_168, 5.437, 285),
}


@pytest.fixture(scope="module")
def presets(tiny_dataset, tmp_path_factory):
    """Folders with the statistics of the presets, by name; their records are those of another dataset."""
    folders = {}
    for name, (items, users, sequences, mean, max_len) in PRESETS.items():
        path = tmp_path_factory.mktemp(name)
        names = [ITEM_IDS, TARGET_START, TIMESTAMPS, *([USER_ID] if users else [])]
        features = [feature for feature in _all_features() if feature.name in names]
        schema = Schema(
            features=tuple(features), num_items=items, num_users=users, max_len=max_len, time_unit="seconds"
        )
        (path / "schema.json").write_text(schema.to_json())
        stats = json.loads((pathlib.Path(tiny_dataset) / "stats.json").read_text())
        stats["splits"]["train"] |= {"sequences": sequences, "length": {"mean": mean, "max": max_len}}
        (path / "stats.json").write_text(json.dumps(stats))
        seal(path)
        folders[name] = DatasetFolder(str(path))
    return folders


def _all_features():
    return (
        Feature(ITEM_IDS, "int64", (None,), "items"),
        Feature(TARGET_START, "int64", (), "first target"),
        Feature(TIMESTAMPS, "int64", (None,), "times"),
        Feature(USER_ID, "string", (), "user"),
    )


def defaults(name, folder):
    """A model's defaults on a dataset without labels, as `train` resolves them."""
    model_class = models.find(name)
    settings = ["model.num_negatives=4"] if name in RANKING else []
    config = resolve(name, model_class.config_class, settings=settings)
    rows = config.data.batch_size or data.sequences_a_batch(folder, config.model)
    return model_class, dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=rows))


@pytest.mark.parametrize("preset", PRESETS)
def test_defaults_fit_in_4_gb(presets, preset):
    folder = presets[preset]
    for name in MODELS:
        model_class, config = defaults(name, folder)
        line = preflight(model_class, config, folder, steps=1, replicas=1)
        needed = float(line.partition("; about ")[2].split(" GB")[0])
        assert needed < 4.0, line


def test_a_batch_of_a_ranking_model_counts_examples(presets):
    """About 1,024 of them: one of each event after the first, up to `max_targets`."""
    for preset, (_, _, _, mean, _) in PRESETS.items():
        _, config = defaults("bst", presets[preset])
        assert config.data.batch_size == round(1024 / min(mean - 1, 200))
        assert defaults("sasrec", presets[preset])[1].data.batch_size == 128
    cls = models.find("bst").config_class
    assert data.sequences_a_batch(presets["movielens-100k"], cls(max_targets=16)) == 64
    assert resolve("bst", cls, settings=["data.batch_size=3"]).data.batch_size == 3


def test_examples_of_sequences_of_like_length_are_counted_once(presets):
    """A batch of long sequences has fewer of them, so that memory goes with the examples, 1,300 at most here."""
    folder = presets["amazon-beauty"]
    model_class, config = defaults("din", folder)
    line = preflight(model_class, config, folder, steps=1, replicas=1)
    needed = training_bytes(model_class, config.model, folder.schema, batch_size=8)  # LEAST_ROWS of 200 examples
    assert f"about {needed / 1e9:.1f} GB" in line
    assert "177 sequences a step with about 6 examples each" in line


def test_models_without_epochs_announce_none(presets):
    folder = presets["movielens-1m"]
    counting = [name for name in MODELS if not learns_by_gradients(*_class_and_config(name, folder))]
    assert counting == ["itemknn", "poprec", "spop"]
    for name in MODELS:
        line = preflight(*defaults(name, folder), folder, steps=48, replicas=1)
        assert ("no epochs, as it learns by counting" in line) == (name in counting)
        assert ("48 steps an epoch, at most 100 epochs" in line) == (name not in counting)


def _class_and_config(name, folder):
    model_class, config = defaults(name, folder)
    return model_class, config.model


@pytest.mark.parametrize(
    ("name", "settings", "advice"),
    [
        (
            "bst",
            ["model.num_negatives=4"],
            "data.batch_size, model.num_negatives, model.max_targets, model.max_len, model.hidden_dims or model.dim.",
        ),
        ("sasrec", [], "data.batch_size, model.num_negatives, model.max_len or model.dim."),
        (
            "sasrec",
            ["model.loss=softmax"],
            "data.batch_size, model.max_len or model.dim, or a sampled loss instead of softmax.",
        ),
        ("gru4rec", [], "data.batch_size, model.num_negatives, model.max_len, model.dim or model.units."),
    ],
)
def test_advice_names_options_that_the_model_has(presets, name, settings, advice):
    folder = presets["movielens-100k"]
    model_class = models.find(name)
    config = resolve(name, model_class.config_class, settings=["data.batch_size=100000000", *settings])
    with pytest.raises(ValueError, match="this cannot fit") as error:
        preflight(model_class, config, folder, steps=1, replicas=1)
    assert str(error.value).endswith(f"Set a smaller {advice}")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_the_defaults_takes_less_than_4_gb(name, tmp_path_factory):
    """On MovieLens 100K, with TensorFlow itself."""
    default = pathlib.Path(__file__).parents[1] / ".." / "shared" / "data"
    root = pathlib.Path(os.environ.get("SEQREC_DATA_DIR", default)) / "ml-100k"
    if not root.is_dir():
        pytest.skip(f"MovieLens 100K is not in {root}; set SEQREC_DATA_DIR")
    dataset = tmp_path_factory.getbasetemp() / "ml-100k"
    if not dataset.exists():
        command = [sys.executable, "-m", "seqrec_tf.cli", "prepare", "--preset", "movielens-100k"]
        subprocess.run([*command, "--input", str(root), "--output", str(dataset)], check=True)
    options = "num_negatives=4" if name in RANKING else ""
    script = (
        "import resource\n"
        "from seqrec_tf import data, models\n"
        "from seqrec_tf.training.preflight import learns_by_gradients\n"
        f"cls = models.find({name!r})\n"
        f"model = cls.from_dataset({str(dataset)!r}, {options})\n"
        "model.compile('adam')\n"
        "if learns_by_gradients(cls, model.config):\n"
        f"    model.fit(data.load({str(dataset)!r}, model), steps_per_epoch=3, verbose=0)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert int(done.stdout.split()[-1]) < 4 * 1024 * 1024

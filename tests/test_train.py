"""Training: it learns, keeps the best model, and refuses before the work what cannot work."""

import shlex
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from small_folders import seal
from small_runs import fit, log_of, make_config

from seqrec_tf import cli, models, run_folder
from seqrec_tf import config as config_lib
from seqrec_tf.records import DatasetFolder
from seqrec_tf.train import preflight, train
from seqrec_tf.training.callbacks import RunKeeper


def test_it_learns_a_chain(finished):
    run, _ = finished
    rows = log_of(run.path)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert max(float(row["val_ndcg@10"]) for row in rows) > 0.7  # by chance 0.33


def test_the_run_folder_is_whole(finished):
    run, _ = finished
    names = {entry.name for entry in run.path.iterdir()}
    files = {"COMPLETED", "best.keras", "config.toml", "dataset.json", "log.csv", "metrics.json"}
    assert names == files | {"checkpoints", "tensorboard"}
    assert run.config == make_config("train.epochs=6")


def test_the_best_model_is_without_the_optimizers_state(finished):
    run, _ = finished
    with zipfile.ZipFile(run.path / "best.keras") as archive:
        archive.extract("model.weights.h5", run.path.parent)
    with h5py.File(run.path.parent / "model.weights.h5") as weights:
        assert "optimizer" not in weights
        assert len(weights) > 0


def test_the_best_model_is_that_of_the_best_epoch(finished, chain_dataset):
    from seqrec_tf import data

    run, _ = finished
    rows = log_of(run.path)
    model = run.load_model()
    model.compile()
    figures = model.evaluate(data.load(chain_dataset, model, "valid"), verbose=0, return_dict=True)
    assert figures["ndcg@10"] == pytest.approx(max(float(row["val_ndcg@10"]) for row in rows), abs=1e-5)


def test_progress_says_rate_and_time_left(finished):
    _, lines = finished
    assert lines[0].startswith("sasrec: 20 items, 200 sequences of")
    assert lines[1] == "Compiling ..."
    assert "(compiling took" in lines[2]
    assert "epoch 6/6" in lines[7]
    assert "sequences/s" in lines[7]
    assert "0:00:00 left" in lines[7]


@pytest.fixture
def keep(chain_dataset, tmp_path):
    """Tells a `RunKeeper` the figures of epochs, each of which leaves its number in all of the model's weights."""
    model = models.SASRec.from_dataset(chain_dataset, dim=4)
    model.compile()
    model.optimizer.build(model.trainable_variables)

    def keep(figures, **options):
        keeper = RunKeeper(tmp_path, model, **{"patience": 0, "has_validation": True, **options})
        keeper.set_model(model)
        model.stop_training = False
        for epoch, figure in enumerate(figures):
            for weight in model.trainable_variables:
                weight.assign(tf.fill(weight.shape, epoch + 1.0))
            keeper.on_epoch_begin(epoch)
            keeper.on_train_batch_end(0)
            keeper.on_epoch_end(epoch, {"loss": 1.0, **({} if figure is None else {"val_ndcg@10": figure})})
            if model.stop_training:
                break
        return len(keeper.epochs), keras.saving.load_model(tmp_path / "best.keras", compile=False).trainable_variables[
            0
        ].numpy().max()

    return keep


@pytest.mark.parametrize(
    ("figures", "best"), [([0.2, 0.3, 0.1], 2), ([0.3, 0.3, 0.3], 1), ([0.1, None, 0.2, None], 3), ([0.0, 0.0], 1)]
)
def test_the_best_model_is_the_first_with_the_best_figure(keep, figures, best):
    assert keep(figures) == (len(figures), best)


def test_without_validation_the_newest_model_is_the_best(keep):
    assert keep([None] * 3, has_validation=False) == (3, 3)


def test_patience_counts_validations(keep):
    """Not epochs, of which every second is validated."""
    assert keep([None, 0.3, None, 0.2, None, 0.3, None, 0.4], patience=2) == (6, 2)
    assert keep([None, 0.3, None, 0.2, None, 0.4, None, 0.3], patience=2) == (8, 6)


def test_a_dataset_without_validation_trains_all_its_epochs(write_dataset, tmp_path):
    write_dataset(tmp_path / "dataset", {str(user): "abcdef" for user in range(20)})
    shutil.rmtree(tmp_path / "dataset" / "valid")
    seal(tmp_path / "dataset")
    folder = DatasetFolder(tmp_path / "dataset")
    lines = []
    run = train(make_config("train.epochs=3"), folder, tmp_path / "run", log=lines.append)
    assert any("There is no validation split" in line for line in lines)
    assert [row["epoch"] for row in log_of(run.path)] == ["1", "2", "3"]
    kept = tf.train.load_checkpoint(str(run.path / "checkpoints"))
    names = [name for name, shape in kept.get_variable_to_shape_map().items() if shape == [7, 16]]
    table = run.load_model().items.table
    assert any(np.array_equal(kept.get_tensor(name), table) for name in names)


def test_training_stops_when_validation_gets_no_better(chain_dataset, tmp_path):
    run, _ = fit(chain_dataset, tmp_path / "run", "train.epochs=40", "train.patience=2", "train.learning_rate=0.0")
    assert len(log_of(run.path)) == 3  # the first is the best, two more bring nothing


def test_what_was_refused_can_be_mended(chain_dataset, tmp_path):
    """A run that was refused leaves nothing that stands in the way of the advice it gave."""
    with pytest.raises(ValueError, match="cannot fit"):
        fit(chain_dataset, tmp_path / "run", "train.epochs=1", "data.batch_size=100000000")
    assert not (tmp_path / "run").exists()


def test_the_last_epoch_is_always_validated(chain_dataset, tmp_path):
    run, _ = fit(chain_dataset, tmp_path / "run", "train.epochs=2", "train.validate_every=5")
    rows = log_of(run.path)
    assert [bool(row["val_ndcg@10"]) for row in rows] == [False, True]
    assert run.load_model() is not None


def test_a_remote_run_folder_is_refused(chain_dataset):
    with pytest.raises(ValueError, match="--output must be a local path"):
        fit(chain_dataset, "gs://bucket/run", "train.epochs=1")


def test_a_loss_that_is_not_finite_stops_the_run_with_advice(chain_dataset, tmp_path):
    expected = r"The loss became NaN at step 2 of epoch 1, of the sequences user-.* Set a smaller train.learning_rate"
    with pytest.raises(RuntimeError, match=expected):
        fit(chain_dataset, tmp_path / "run", "train.epochs=3", "train.learning_rate=1e30")


def test_what_cannot_fit_is_refused_before_the_work(chain_dataset, monkeypatch):
    work = models.find("sasrec"), make_config("data.batch_size=100000000"), DatasetFolder(chain_dataset)
    with pytest.raises(ValueError, match=r"cannot fit. Set a smaller data.batch_size"):
        preflight(*work, steps=1, replicas=1)
    # The memory of this machine is not that of its GPUs.
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: ["a GPU"])
    assert "GB of a GPU's memory" in preflight(*work, steps=1, replicas=1)


@pytest.mark.parametrize(("model", "label", "missing"), [("sasrec", 0, 1), ("din", 0, 1), ("din", 1, 0)])
def test_a_validation_that_would_measure_nothing_is_refused_before_the_work(tmp_path, capsys, model, label, missing):
    lines = [
        f"u{user},i{(user + time) % 7},{time},{label if time == 4 else (user + time) % 2}"
        for user in range(9)
        for time in range(6)
    ]
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,label\n" + "\n".join(lines) + "\n")
    dataset, run = str(tmp_path / "dataset"), tmp_path / "run"
    files = ["--input", str(tmp_path / "events.csv"), "--output", dataset]
    assert cli.main(["prepare", *files, "--label-column", "label"]) == 0
    assert cli.main(["train", "--dataset", dataset, "--model", model, "--output", str(run)]) == 2
    assert f"No event to predict of {dataset}'s split 'valid' has the label {missing}, so" in capsys.readouterr().err
    assert not run.exists()


def test_validation_of_some_sequences_must_measure_something_too(tmp_path, capsys):
    lines = [f"u{user:03},i{(user + time) % 7},{time},{int(user > 40)}" for user in range(60) for time in range(6)]
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,label\n" + "\n".join(lines) + "\n")
    dataset, run = str(tmp_path / "dataset"), tmp_path / "run"
    files = ["--input", str(tmp_path / "events.csv"), "--output", dataset, "--num-shards", "1"]
    assert cli.main(["prepare", *files, "--label-column", "label"]) == 0
    arguments = [
        "train",
        "--dataset",
        dataset,
        "--model",
        "din",
        "--output",
        str(run),
        "--set",
        "data.valid_sequences=1",
    ]
    assert cli.main(arguments) == 2
    assert "of the first 1 sequences (data.valid_sequences) of" in capsys.readouterr().err


@pytest.mark.parametrize("number", ["bfloat16", "float16"])
def test_mixed_precision_and_a_schedule_train(chain_dataset, tmp_path, number):
    import keras

    run, _ = fit(
        chain_dataset,
        tmp_path / "run",
        "train.epochs=4",
        f"train.precision=mixed_{number}",
        "train.schedule=cosine",
        "train.warmup_steps=5",
        "train.clip_norm=1.0",
    )
    assert keras.mixed_precision.dtype_policy().name == "float32"  # as it was before
    assert run.load_model().compute_dtype == number
    rows = log_of(run.path)
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_what_to_run_next_is_quoted_for_the_shell(chain_dataset, tmp_path, capsys):
    words = ["--dataset", chain_dataset, "--model", "poprec", "--output", str(tmp_path / "a run"), "--no-report"]
    assert cli.main(["train", *words]) == 0
    newest = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(newest) == ["next:", "seqrec", "evaluate", "--run", str(tmp_path / "a run")]


def test_popularity_needs_no_training(chain_dataset, tmp_path):
    config = config_lib.resolve("poprec", models.find("poprec").config_class)
    lines = []
    run = train(config, DatasetFolder(chain_dataset), tmp_path / "a run", log=lines.append)
    assert "; no epochs, as it learns by counting; about" in lines[0]
    assert lines[-1].startswith("Best model: ")
    assert run.load_model().counts.numpy()[1] == DatasetFolder(chain_dataset).item_counts[0]
    assert not (run.path / run_folder.LOG_FILE).exists()

import dataclasses

import keras
import pytest

from seqrec_tf import models, options
from seqrec_tf.config import resolve
from seqrec_tf.layers.transformer import ACTIVATIONS


def described(cls):
    return [(field.name, field.type, field.default, options.meaning_of(cls, field.name)) for field in fields(cls)]


def fields(cls):
    return dataclasses.fields(cls)


@pytest.mark.parametrize("name", models.names())
def test_the_options_of_a_model_without_keras_are_those_with_it(name):
    assert described(options.config_class(name)) == described(models.find(name).config_class)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("sasrec", "model.num_heads=3"),
        ("sasrec", "model.temperature=2.0"),
        ("gru4rec", "model.dim=3"),
        ("bst", "model.age_dim=0"),
        ("bert4rec", "model.mask_rate=1.5"),
        ("sasrec", "model.item_vectors=frozen"),
        ("caser", "model.window=two"),
    ],
)
def test_a_wrong_option_is_refused_with_the_same_words_as_with_keras(name, setting):
    said = []
    for cls in (options.config_class(name), models.find(name).config_class):
        with pytest.raises(ValueError, match="model") as error:
            resolve(name, cls, settings=[setting])
        said.append(str(error.value))
    assert said[0] == said[1]


def test_a_model_of_one_s_own_is_read_without_being_imported(tmp_path, monkeypatch):
    (tmp_path / "their").mkdir()
    (tmp_path / "their" / "model.py").write_text(
        "import dataclasses\n"
        "import no_such_library\n"
        "from seqrec_tf.learning.objective import ObjectiveConfig\n"
        "from seqrec_tf.models.base import SequenceModel\n"
        "WIDTH = 7\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class TheirConfig(ObjectiveConfig):\n"
        "    width: int = WIDTH\n"
        "class Theirs(SequenceModel):\n"
        "    config_class = TheirConfig\n"
        "    layer = no_such_library.Layer()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cls = options.config_class("their.model")
    assert cls.__name__ == "TheirConfig"
    assert cls(loss="bpr").width == 7


def test_what_takes_an_import_is_left_to_it(tmp_path, monkeypatch):
    (tmp_path / "made.py").write_text("from seqrec_tf.models import SASRec\nclass Made(make(SASRec)): pass\n")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "made.py").write_text((tmp_path / "made.py").read_text())
    monkeypatch.syspath_prepend(tmp_path)
    assert options.config_class("package.made") is None
    with pytest.raises(ValueError, match=r"--model package\.no: there is no module package\.no"):
        options.config_class("package.no")


def test_the_activations_are_those_of_keras():
    assert all(callable(keras.activations.get(name)) for name in ACTIVATIONS)

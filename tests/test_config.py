import dataclasses
import pathlib
import tomllib

import pytest

from seqrec_tf import models
from seqrec_tf.config import (
    Config,
    DataConfig,
    ItemFeaturesConfig,
    ModelConfig,
    TrainConfig,
    check_choice,
    from_values,
    resolve,
)


@dataclasses.dataclass(frozen=True)
class TinyConfig(ModelConfig):
    """Every type of option.

    Attributes:
        dim: An integer.
        rate: A float.
        is_tied: A truth value.
        loss: A word.
        widths: Several integers.
        names: Several strings.
        limit: An integer, or nothing.
    """

    dim: int = 8
    rate: float = 0.5
    is_tied: bool = True
    loss: str = "bce"
    widths: tuple[int, ...] = (4, 2)
    names: tuple[str, ...] = ()
    limit: int | None = None


def resolve_tiny(toml="", *settings):
    return resolve("tiny", TinyConfig, toml=toml, toml_name="tiny.toml", settings=settings)


def other_value(value):
    """A value of the same type as an option's default that is not its default."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value * 2 + 2
    if isinstance(value, float):
        return value / 2 + 0.125  # a rate stays a rate
    return value


def test_without_anything_the_defaults_hold():
    assert resolve_tiny() == Config("tiny", TinyConfig(), DataConfig(), TrainConfig())


def test_toml_overrides_the_defaults():
    config = resolve_tiny("[model]\ndim = 16\n[train]\nepochs = 3\n")
    assert config.model == TinyConfig(dim=16)
    assert config.train == TrainConfig(epochs=3)
    assert config.data == DataConfig()


def test_settings_override_toml_and_leave_the_rest_of_it():
    config = resolve_tiny('[model]\ndim = 16\nloss = "softmax"\n', "model.dim=32", "data.batch_size=4")
    assert config.model == TinyConfig(dim=32, loss="softmax")
    assert config.data == DataConfig(batch_size=4)


def test_the_last_of_two_settings_holds():
    assert resolve_tiny("", "model.dim=32", "model.dim=64").model.dim == 64


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("model.dim=3", TinyConfig(dim=3)),
        ("model.rate=1e-3", TinyConfig(rate=0.001)),
        ("model.rate=2", TinyConfig(rate=2.0)),
        ("model.is_tied=false", TinyConfig(is_tied=False)),
        ("model.loss=softmax", TinyConfig(loss="softmax")),
        ('model.loss="a = b"', TinyConfig(loss="a = b")),
        ("model.widths=[1, 2, 3]", TinyConfig(widths=(1, 2, 3))),
        ('model.names=["a", "b"]', TinyConfig(names=("a", "b"))),
        ("model.names=[a, b]", TinyConfig(names=("a", "b"))),  # what a shell leaves of it
        ("model.names=a,b", TinyConfig(names=("a", "b"))),
        ("model.names=[*]", TinyConfig(names=("*",))),
        ("model.names=*", TinyConfig(names=("*",))),
        ("model.names=[]", TinyConfig()),
        ("model.limit=7", TinyConfig(limit=7)),
        ("model.max_len=9", TinyConfig(max_len=9)),
        (" model.dim = 3 ", TinyConfig(dim=3)),
    ],
)
def test_a_setting_is_read_as_the_type_of_its_option(setting, expected):
    assert resolve_tiny("", setting).model == expected


def test_an_integer_for_a_float_becomes_a_float():
    assert isinstance(resolve_tiny("[model]\nrate = 2").model.rate, float)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.dim=2.0", r"model\.dim must be of type int, got 2\.0 \(float\)\."),
        ("model.dim=true", r"model\.dim must be of type int, got True \(bool\)\."),
        ("model.dim=wide", r"model\.dim must be of type int, got 'wide' \(str\)\."),
        ("model.rate=true", r"model\.rate must be of type float, got True \(bool\)\."),
        ("model.rate=high", r"model\.rate must be of type float, got 'high' \(str\)\."),
        ("model.is_tied=1", r"model\.is_tied must be of type bool, got 1 \(int\)\."),
        ("model.is_tied=yes", r"model\.is_tied must be of type bool, got 'yes' \(str\)\."),
        ("model.loss=1", r"model\.loss must be of type str, got 1 \(int\)\."),
        ("model.widths=3", r"model\.widths must be of type tuple\[int, \.\.\.\], got 3 \(int\)\."),
        ("model.widths=[1, 2.5]", r"model\.widths must be of type .*got 2\.5 \(float\)\."),
        ("model.limit=low", r"model\.limit must be of type int \| None, got 'low' \(str\)\."),
        ("model.dim=[3]", r"model\.dim must be of type int, got \[3\] \(list\)\."),
        ("train.learning_rate=fast", r"train\.learning_rate must be of type float"),
    ],
)
def test_a_value_of_the_wrong_type_is_an_error_with_both_types(setting, message):
    with pytest.raises(ValueError, match=message):
        resolve_tiny("", setting)


def test_an_option_that_would_do_nothing_is_refused():
    with pytest.raises(
        ValueError, match=r"train\.momentum is an option of train\.optimizer=adagrad and sgd, not of adam"
    ):
        resolve_tiny("", "train.momentum=0.9")
    assert resolve_tiny("", "train.momentum=0.9", "train.optimizer=sgd").train.momentum == 0.9
    with pytest.raises(ValueError, match=r"train\.beta_2 is an option of train\.optimizer=adam, not of adagrad"):
        resolve_tiny("", "train.beta_2=0.98", "train.optimizer=adagrad")
    with pytest.raises(ValueError, match=r"model\.item_id_dropout_rate needs model\.item_features"):
        ItemFeaturesConfig(item_id_dropout_rate=0.1)


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown configuration key train\.epoch\. Did you mean 'epochs'\?"):
        resolve_tiny("", "train.epoch=3")


def test_an_unknown_key_like_no_other_lists_the_keys():
    with pytest.raises(ValueError, match=r"key model\.xyzzy\. The keys of \[model\] are max_len, dim, rate, .*limit\."):
        resolve_tiny("[model]\nxyzzy = 1")


def test_an_unknown_section_names_the_nearest():
    with pytest.raises(ValueError, match=r"section must be one of model, data, train, got 'modle'\..* 'model'\?"):
        resolve_tiny("[modle]\ndim = 3")


@pytest.mark.parametrize("setting", ["epochs=3", "train.epochs", "train", "", "epochs"])
def test_a_malformed_setting_says_what_is_expected(setting):
    with pytest.raises(ValueError, match=r"--set expects section\.key=value, such as train\.epochs=20, got"):
        resolve_tiny("", setting)


def test_broken_toml_names_the_file():
    with pytest.raises(ValueError, match=r"^tiny\.toml is not valid TOML: "):
        resolve_tiny("[model\n")


@pytest.mark.parametrize("settings", [[], ["train.epochs=3"]])
def test_a_section_that_is_a_value_is_refused(settings):
    with pytest.raises(ValueError, match="train"):
        resolve_tiny("train = 3", *settings)


def test_the_toml_of_another_model_is_refused():
    with pytest.raises(ValueError, match=r"tiny\.toml is for the model 'gru', but --model is 'tiny'"):
        resolve_tiny('model_name = "gru"')


def test_a_word_outside_the_choices_of_an_option_names_the_nearest():
    with pytest.raises(ValueError, match=r"train\.schedule must be one of .* got 'cosin'\. Did you mean 'cosine'\?"):
        resolve_tiny("", "train.schedule=cosin")


def test_check_choice_accepts_a_choice():
    check_choice("--color", "red", ("red", "blue"))


def test_from_values_leaves_missing_options_at_their_defaults():
    assert from_values(TinyConfig, {"dim": 3}, section="model") == TinyConfig(dim=3)


def test_toml_gives_the_configuration_back():
    config = Config("tiny", TinyConfig(dim=3, rate=1e-9, is_tied=False, loss='a "b" \\ é', widths=(), limit=4))
    assert resolve_tiny(config.to_toml()) == config


def test_an_option_that_is_none_survives_toml():
    config = Config("tiny", TinyConfig(limit=None))
    assert resolve_tiny(config.to_toml()) == config


def acceptable(config_class, options):
    """These options, or none where a model refuses them together, such as heads that do not divide its dimension."""
    try:
        config_class(**options)
    except ValueError:
        return {}
    return options


@pytest.mark.parametrize("name", models.names())
def test_toml_gives_every_model_s_configuration_back(name):
    config_class = models.find(name).config_class
    changed = {}
    for field in dataclasses.fields(config_class):
        changed |= acceptable(config_class, {**changed, field.name: other_value(field.default)})
    assert changed
    data = {field.name: other_value(field.default) for field in dataclasses.fields(DataConfig)}
    train = {"optimizer": "sgd"}
    for field in dataclasses.fields(TrainConfig):
        train |= acceptable(TrainConfig, {**train, field.name: other_value(field.default)})
    for config in (
        Config(name, config_class()),
        Config(name, config_class(**changed), DataConfig(**data), TrainConfig(**train)),
    ):
        assert resolve(name, config_class, toml=config.to_toml()) == config


CONFIGS = sorted((pathlib.Path(__file__).parent.parent / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=[path.stem for path in CONFIGS])
def test_every_file_in_configs_is_of_the_model_that_it_names(path):
    text = path.read_text()
    name = tomllib.loads(text)["model_name"]
    assert path.stem.startswith(name)
    assert resolve(name, models.find(name).config_class, toml=text).model_name == name


def test_every_model_has_a_file_in_configs():
    assert {tomllib.loads(path.read_text())["model_name"] for path in CONFIGS} == set(models.names())


def test_a_name_in_any_script_survives_toml():
    config = resolve(
        "sasrec", models.find("sasrec").config_class, settings=['model.item_features=["\U0001f3ac", "größe"]']
    )
    assert resolve("sasrec", type(config.model), toml=config.to_toml()) == config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('model.activation="gelo"', 'model.activation must be "swiglu" or an activation of Keras'),
        ("model.feed_forward_ratio=0.0", "model.feed_forward_ratio must be at least"),
    ],
)
def test_options_of_the_encoder_are_checked(setting, message):
    with pytest.raises(ValueError, match=message):
        resolve("sasrec", models.find("sasrec").config_class, settings=[setting])


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        (
            "[model]\ndim = 3\nrtae = 0.1\n",
            r"^tiny\.toml, line 3: Unknown configuration key model\.rtae\. Did",
        ),
        ("[model]\ndim = 'x'\n", r"^tiny\.toml, line 2: model\.dim must be of type int"),
        ("[model]\ndim = 3\n\n[tarin]\nseed = 1\n", r"^tiny\.toml, line 4: The configuration section must be one of"),
        ("[model]\ndim = \n", r"^tiny\.toml is not valid TOML: line 2, column 7: Invalid value"),
        ("[model\n", r"^tiny\.toml is not valid TOML: line 1"),
    ],
)
def test_an_error_in_a_file_names_the_line(toml, message):
    with pytest.raises(ValueError, match=message):
        resolve_tiny(toml)

"""Configuration of a run: dataclass defaults, overridden by a TOML file, overridden by `--set section.key=value`.

Three sections: `model` (the model's own dataclass), `data` and `train` (here). Every option is listed once, in its
dataclass, with its default and what it means. An unknown key or a wrong type is an error at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeVar

T = TypeVar("T")


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise a ValueError unless `value` is one of `choices`."""
    choices = tuple(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}.{nearest(value, choices)}")


def check_at_least(name: str, value: float, least: float) -> None:
    """Raise a ValueError where `value` is less than `least`."""
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}.")


def check_rate(name: str, value: float) -> None:
    """Raise a ValueError unless `value` is in [0, 1)."""
    if not 0.0 <= value < 1.0:
        raise ValueError(f"{name} must be in [0, 1), got {value}.")


def nearest(word: str, words: Iterable[str]) -> str:
    """A question whether the nearest of some words was meant; empty where none is near."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


VECTOR_USES = ("projected", "frozen", "trained")


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large a model is, as far as the memory that training takes depends on it.

    Attributes:
        dim: Width of the vectors of items and of the states of events.
        user_dim: Width of the vectors of users, 0 where they have none; None stands for `dim` where the model's class
            `reads` the user's id, and else for 0.
        num_blocks: Attention blocks.
        num_heads: Attention heads of a block.
        hidden_dim: Units of all hidden layers that a candidate passes, beside the blocks.
        num_examples: Examples that a sequence makes at most, each with a history of its own.
        num_candidates: Candidates of an example that pass the whole model.
    """

    dim: int
    user_dim: int | None = None
    num_blocks: int = 0
    num_heads: int = 1
    hidden_dim: int = 0
    num_examples: int = 1
    num_candidates: int = 1


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """What every model has; each model's file extends it.

    Attributes:
        max_len: Newest events of a sequence that the model sees.
    """

    data_defaults: ClassVar[Mapping[str, Any]] = {}
    """Defaults of the section `data` that are others for this model."""

    max_len: int = 50

    def __post_init__(self):
        check_at_least("model.max_len", self.max_len, 1)

    @property
    def examples_a_sequence(self) -> int:
        """Examples that a training sequence makes at most, each with a history of its own; 1 where it is one itself."""
        return 1

    def sizes(self) -> Sizes:
        """How large the model is; here `dim` wide, and without blocks.

        A configuration whose width is not called `dim`, or which has more to declare, overrides this.

        Raises:
            ValueError: There is no option `dim`.
        """
        dim = getattr(self, "dim", None)
        if dim is None:
            raise ValueError(
                f"{type(self).__name__} has no option `dim`, so the memory that training needs cannot be told. Give it "
                "a method `sizes` that declares how wide the model is, such as `return Sizes(dim=self.width)`, with "
                "Sizes from seqrec_tf.config."
            )
        return Sizes(dim=dim)


@dataclasses.dataclass(frozen=True)
class ItemFeaturesConfig(ModelConfig):
    """Options of models that know items by their side features too.

    Attributes:
        item_features: Side features of items to read, by name; ["*"] is all that the dataset has.
        item_vectors: How the model reads those that are vectors: "projected" by weights that it learns, from their full
            width; "frozen", projected from their principal components, as many as the model is wide, so that a step
            costs the same for vectors of any width; "trained", which are these components at the start.
        item_id_dropout_rate: Share of the items that a lookup in training knows by their features alone, as it must
            know new ones (DropoutNet, Volkovs et al. 2017). 0 suits catalogues that do not change.
    """

    item_features: tuple[str, ...] = ()
    item_vectors: str = "projected"
    item_id_dropout_rate: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_choice("model.item_vectors", self.item_vectors, VECTOR_USES)
        check_rate("model.item_id_dropout_rate", self.item_id_dropout_rate)
        for name in ("item_id_dropout_rate", "item_vectors"):
            if getattr(self, name) != getattr(type(self), name) and not self.item_features:
                raise ValueError(f"model.{name} needs model.item_features, to know items by.")

    @property
    def scores_by_features(self) -> bool:
        """Whether items are scored by a table that is made of their features."""
        return bool(self.item_features)


WINDOWS = ("newest", "random")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """How records become batches.

    Attributes:
        batch_size: Sequences a step, over all replicas; on average, where batches are of like length. 0, which is the
            default of ranking models, stands for as many as make about 1,024 examples: a sequence makes up to
            `model.max_targets` of them. A model whose sequences are one example each takes 128 then.
        eval_batch_size: Events to predict, each with its history, a step of validation.
        valid_sequences: Sequences that a validation looks at, the same each time, at random unless they lie in order
            of time; all where 0. For splits so large that to rank all items for each would take longer than an epoch.
        sort_by_length: Whether a training batch holds sequences of like length, for little padding, and about as many
            events as any other: long sequences make small batches.
        window: What an epoch sees of a sequence that is longer than the model's: its "newest" events, or "random":
            these half of the time, else as many from a random place.
        exclude_history: Whether items of the history may not be recommended (in validation, evaluation and export).
    """

    batch_size: int = 128
    eval_batch_size: int = 256
    valid_sequences: int = 0
    sort_by_length: bool = True
    window: str = "newest"
    exclude_history: bool = True

    def __post_init__(self):
        check_at_least("data.batch_size", self.batch_size, 0)
        check_at_least("data.eval_batch_size", self.eval_batch_size, 1)
        check_at_least("data.valid_sequences", self.valid_sequences, 0)
        check_choice("data.window", self.window, WINDOWS)


STRATEGIES = ("auto", "none", "mirrored", "multi-worker")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How the model is fitted.

    Attributes:
        epochs: Passes over the training split, at most.
        optimizer: "adam", "adagrad" or "sgd"; each changes only the rows of embeddings that a batch touches.
        learning_rate: At its highest.
        warmup_steps: Steps over which the learning rate grows from 0.
        schedule: "constant", or "cosine" and "linear" decay to 0 at the last epoch.
        beta_2: Decay of the second moment, of "adam".
        momentum: How much of the last step the next one keeps, for "adagrad" and "sgd".
        weight_decay: Decoupled, as in AdamW.
        clip_norm: Largest global norm of the gradients; 0 does not clip.
        patience: Validations without a better figure (NDCG@10; of ranking models AUC or, where they do not learn from
            labels, NDCG@10 among 100 drawn items) before training stops; 0 never stops early.
        validate_every: Epochs between validations.
        precision: "float32", "mixed_bfloat16" or "mixed_float16".
        strategy: "auto" (mirrored where there are several GPUs), "none", "mirrored" or "multi-worker".
        seed: Decides initial weights, shuffling, dropout and negatives; the last two depend on the cores too.
    """

    epochs: int = 100
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    schedule: str = "constant"
    beta_2: float = 0.999
    momentum: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    patience: int = 10
    validate_every: int = 1
    precision: str = "float32"
    strategy: str = "auto"
    seed: int = 0

    def __post_init__(self):
        for name, least in (("epochs", 1), ("validate_every", 1), ("learning_rate", 0.0), ("warmup_steps", 0)):
            check_at_least(f"train.{name}", getattr(self, name), least)
        for name in ("weight_decay", "clip_norm", "patience", "seed"):
            check_at_least(f"train.{name}", getattr(self, name), 0)
        check_choice("train.optimizer", self.optimizer, ("adam", "adagrad", "sgd"))
        check_rate("train.beta_2", self.beta_2)
        check_rate("train.momentum", self.momentum)
        if self.momentum and self.optimizer == "adam":
            raise ValueError("train.momentum is an option of train.optimizer=adagrad and sgd, not of adam.")
        if self.beta_2 != type(self).beta_2 and self.optimizer != "adam":
            raise ValueError(f"train.beta_2 is an option of train.optimizer=adam, not of {self.optimizer}.")
        if self.seed >= 2**31:
            raise ValueError(f"train.seed must be below 2^31, got {self.seed}.")
        check_choice("train.schedule", self.schedule, ("constant", "cosine", "linear"))
        check_choice("train.precision", self.precision, ("float32", "mixed_bfloat16", "mixed_float16"))
        check_choice("train.strategy", self.strategy, STRATEGIES)


@contextlib.contextmanager
def computing_in(precision) -> Iterator[None]:
    """Layers that are made here compute in a `train.precision`, or by a `keras.DTypePolicy`."""
    import keras

    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.mixed_precision.set_dtype_policy(policy)


@dataclasses.dataclass(frozen=True)
class Config:
    """A resolved configuration: everything that decides what a run computes, but the data."""

    model_name: str
    model: ModelConfig
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()

    def to_toml(self) -> str:
        """This configuration as TOML, readable by `resolve`."""
        lines = [f"model_name = {json.dumps(self.model_name)}"]
        for section in ("model", "data", "train"):
            lines += ["", f"[{section}]"]
            # JSON's scalars and lists are TOML's too; what is None is left out, as TOML has no word for it.
            lines += [
                f"{key} = {json.dumps(value, ensure_ascii=False)}"
                for key, value in dataclasses.asdict(getattr(self, section)).items()
                if value is not None
            ]
        return "\n".join(lines) + "\n"


def resolve(
    model_name: str,
    model_config: type[ModelConfig],
    *,
    toml: str = "",
    toml_name: str = "the configuration",
    settings: Iterable[str] = (),
) -> Config:
    """Merge the defaults, a TOML text and `section.key=value` settings.

    Args:
        model_name: Name of the model, as given to `--model`.
        model_config: The dataclass of the section `model`.
        toml: Text of a configuration file; empty for none.
        toml_name: Name of that file, for messages.
        settings: Such as `"train.epochs=20"`; the value is read as TOML, or else as a string, and where several strings
            are expected as these, with commas between them.

    Raises:
        ValueError: Unknown section or key, or a value of the wrong type.
    """
    values = read_toml(toml, toml_name)
    named = values.pop("model_name", model_name)
    if named != model_name:
        raise ValueError(f"{toml_name} is for the model {named!r}, but --model is {model_name!r}.")
    for section, content in values.items():
        if not isinstance(content, dict):
            raise ValueError(f"{toml_name}: {section} must be a section, such as [train], got {content!r}.")
    places = {
        (section, key): f"{toml_name}, line {_line_of(toml, section, key)}: "
        for section, content in values.items()
        for key in content or [""]
    }
    for setting in settings:
        key, equals, text = setting.partition("=")
        section, dot, name = key.strip().partition(".")
        if not equals or not dot:
            raise ValueError(f"--set expects section.key=value, such as train.epochs=20, got {setting!r}.")
        values.setdefault(section, {})[name] = _parse_value(text.strip())
        places.pop((section, name), None)
    sections = {"model": model_config, "data": DataConfig, "train": TrainConfig}
    for section in values:
        place = f"{toml_name}, line {_line_of(toml, section)}: " if f"[{section}]" in toml else ""
        check_choice(f"{place}The configuration section", section, sections)
    values["data"] = {**model_config.data_defaults, **values.get("data", {})}
    parts: dict[str, Any] = {
        name: from_values(cls, values.get(name, {}), section=name, places=places) for name, cls in sections.items()
    }
    return Config(model_name, **parts)


def read_toml(text: str, name: str) -> dict[str, Any]:
    """The values of a TOML text; `name` is that of its file, for the error.

    Raises:
        ValueError: It is no TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.fullmatch(r"(.*) \(at (.*)\)", str(error))  # what is wrong (at line 1, column 2)
        what, where = place.groups() if place else (str(error), "")
        where = where.replace("end of document", f"line {max(len(text.splitlines()), 1)}, at its end")
        raise ValueError(f"{name} is not valid TOML: {where}{': ' if where else ''}{what}.") from error


def _line_of(toml: str, section: str, key: str = "") -> int:
    """The line of a TOML text that sets a key of a section; that of the section's heading where it is not found."""
    current, heading = "", 1
    for number, line in enumerate(toml.splitlines(), start=1):
        text = line.strip()
        if text.startswith("["):
            current = text.strip("[] ")
            heading = number if current == section else heading
        elif key and current == section and text.partition("=")[0].strip(" \"'") == key:
            return number
    return heading


def from_values(
    cls: type[T], values: Mapping[str, Any], *, section: str, places: Mapping[tuple[str, str], str] | None = None
) -> T:
    """A configuration dataclass from plain values, each checked against its field.

    Args:
        cls: The dataclass.
        values: Key to value.
        section: What the keys are of, for errors.
        places: Of (section, key), where it stands, for errors; none that came otherwise.

    Raises:
        ValueError: Unknown key or wrong type.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    checked = {}
    for key, value in values.items():
        place = (places or {}).get((section, key), "")
        if key not in names:
            raise ValueError(
                f"{place}Unknown configuration key {section}.{key}.{nearest(key, names) or _list(section, names)}"
            )
        checked[key] = _check_type(value, hints[key], f"{place}{section}.{key}")
    return cls(**checked)


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        pass
    if text in ("True", "False"):
        return text == "True"
    try:
        return float(text)  # such as .001, which TOML does not take
    except ValueError:
        return text


def _check_type(value: Any, expected: Any, name: str) -> Any:
    if isinstance(expected, types.UnionType):
        for option in typing.get_args(expected):
            try:
                return _check_type(value, option, name)
            except ValueError:
                continue
    elif expected == tuple[str, ...] and isinstance(value, str):  # a shell takes the quotes off a list
        return tuple(part.strip(" \"'") for part in value.strip("[]").split(",") if part.strip(" \"'"))
    elif typing.get_origin(expected) is tuple and isinstance(value, (list, tuple)):
        return tuple(_check_type(element, typing.get_args(expected)[0], name) for element in value)
    elif expected is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value)
    elif isinstance(expected, type) and isinstance(value, expected) and isinstance(value, bool) == (expected is bool):
        return value
    kind = getattr(expected, "__name__", str(expected)) if typing.get_origin(expected) is None else str(expected)
    raise ValueError(f"{name} must be of type {kind}, got {value!r} ({type(value).__name__}).")


def _list(section: str, names: Iterable[str]) -> str:
    return f" The keys of [{section}] are {', '.join(names)}."

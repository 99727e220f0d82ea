"""Side features of items and users: columns of text to what models read. Standard library only.

`number`      standardised by the mean and deviation of training items; NaN where missing.
`category`    0 where missing, 1 where no training item has it, from 2 in order of frequency.
`categories`  several of them, each as one; an empty list where missing.
`text`        as it came; what a text encoder embeds.
`image-path`  as it came; what an image encoder embeds.

What is learned (which categories there are, means and deviations) comes from items and users with training
events alone.
"""

from __future__ import annotations

import collections
import dataclasses
import decimal
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from seqrec_tf import ids
from seqrec_tf.config import check_choice
from seqrec_tf.schema import Feature

KINDS = ("number", "category", "categories", "text", "image-path")
# Those whose fields can be wrong; others take any text.
CHECKED_KINDS = ("number", "categories")

# Ids of a category that is not there, and of one that training has not seen.
MISSING, UNKNOWN = 0, 1

# Characters of a field of CSV, as a description of an item may be longer than the 131,072 that Python's reader takes.
LONGEST_FIELD = 1 << 30

# How files write truth values, in any case.
TRUE_WORDS, FALSE_WORDS = frozenset(["true", "t", "yes", "y"]), frozenset(["false", "f", "no", "n"])
_TRUTHS = ("True", "TRUE", "False", "FALSE")

_SEPARATORS = re.compile(r"[|,;]")
_IMAGE_NAME = re.compile(r".\.(jpe?g|png|gif|webp|bmp)$", re.IGNORECASE)
# The greatest number that is a float32.
_LARGEST = 3.4028234e38
# A column whose fields repeat, with at most so many values or so small a share of its rows, holds a category.
_FEW, _SMALL_SHARE = 20, 0.2


def name_of(column: str) -> str:
    """The name of a column's feature, for layers and inputs of served models: letters and digits of ASCII, and _.

    Raises:
        ValueError: Nothing of the column's name is left.
    """
    name = re.sub(r"[^A-Za-z0-9_]+", "_", column).strip("_")
    if not name:
        raise ValueError(f"The column {column!r} needs a name with ASCII letters, digits or _. Rename it.")
    return name if name[0].isalpha() else f"column_{name}"


def feature_of(name: str, kind: str) -> Feature:
    """The feature of a column.

    Raises:
        ValueError: There is no such kind.
    """
    check_choice(f"The kind of the feature {name!r}", kind, KINDS)
    dtype, shape, doc = {
        "number": ("float32", (), "standardised; NaN where missing"),
        "category": ("int64", (), "0 where missing, 1 where unknown in training"),
        "categories": ("int64", (None,), "1 where unknown in training"),
        "text": ("string", (), "as it came"),
        "image-path": ("string", (), "as it came"),
    }[kind]
    return Feature(name, dtype, shape, doc, kind)


def text_of(value: Any) -> str:
    """A value of JSON or Parquet as the text of a field: empty where it is missing or NaN, "5" for 5.0."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, (float, decimal.Decimal)) and value == value // 1:
        value = int(value)  # of a column that lacks some, as pandas writes it
    if isinstance(value, decimal.Decimal):
        return f"{value.normalize():f}"
    is_nested = isinstance(value, (list, dict, bool))
    return json.dumps(value, default=str, ensure_ascii=False) if is_nested else str(value)


def truth_of(value: Any) -> bool | None:
    """A truth value, or the word for one that files have; None for anything else, such as 1."""
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    return True if word in TRUE_WORDS else False if word in FALSE_WORDS else None


def category_of(text: str) -> str:
    """The name of a category, which is one in CSV, JSON and Parquet: "5" for 5.0, "true" for True."""
    return text.lower() if text in _TRUTHS else ids.without_fraction(text)


def spellings_of(category: str) -> list[str]:
    """What requests may hold for a category, beside its name."""
    others = [word for word in _TRUTHS if word.lower() == category]
    return [*others, *([f"{category}.0"] if ids.without_fraction(f"{category}.0") == category else [])]


def parse(kind: str, text: str) -> Any:
    """The value of a field: a float, a string, a list of strings; None (or an empty list) where the field is empty.

    A number may be a truth value (true, t and yes are 1), or a word for none, such as NULL. Several categories are a
    JSON list, or are separated by |, comma or semicolon.

    Raises:
        ValueError: A number is none, is NaN, or is more than a float32 can hold; a list is no JSON, or holds what is no
            text: halves of letters, which JSON can escape.
    """
    text = text.strip()
    if kind == "categories":
        if text.startswith("["):
            try:
                values = json.loads(text)
            except RecursionError:
                raise ValueError("the list is nested too deeply") from None
            texts = [text_of(value) for value in values]
            "".join(texts).encode()
        else:
            texts = _SEPARATORS.split(text)
        return [category_of(text.strip()) for text in texts if text.strip()]
    if kind != "number":
        return (category_of(text) if kind == "category" else text) or None
    if text in ids.NULLS:
        return None
    truth = truth_of(text)
    if truth is not None:
        return float(truth)
    number = float(text) if "_" not in text else math.nan  # Python takes 10_12 for 1012
    if not abs(number) <= _LARGEST:
        raise ValueError(f"expected a finite number that float32 can hold, got {text!r}")
    return number


def _is_number(text: str) -> bool:
    try:
        return parse("number", text) is not None
    except ValueError:
        return False


def infer(column: Iterable[str]) -> str:
    """The kind that a column looks like, by some of its fields."""
    fields = [text.strip() for text in column if text.strip() not in ids.NULLS]
    if not fields:
        return "text"
    if all(truth_of(text) is None and _is_number(text) for text in fields):
        return "number"
    if all(_IMAGE_NAME.search(text) for text in fields):
        return "image-path"
    if any("|" in text for text in fields) or all(text.startswith("[") for text in fields):
        return "categories"
    distinct = len(set(fields))
    repeats = distinct < len(fields) and distinct <= max(_FEW, _SMALL_SHARE * len(fields))
    return "category" if repeats else "text"


@dataclasses.dataclass
class Learner:
    """What one column teaches; learners of parts of the items merge, in any order, to that of all of them.

    Attributes:
        kind: The feature's kind, one of `KINDS`.
        counts: Items of each category.
        most: Categories that an item has at most.
        number: Items with a number.
        mean: The mean of the numbers.
        squares: Sum of the squared differences from the mean.
    """

    kind: str
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    most: int = 0
    number: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, text: str) -> None:
        """Learn from one field."""
        value = parse(self.kind, text)
        if self.kind == "number" and value is not None:
            self.merge(Learner(self.kind, number=1, mean=value))
        elif self.kind == "category" and value is not None:
            self.counts[value] += 1
        elif self.kind == "categories":
            self.counts.update(value)
            self.most = max(self.most, len(value))

    def merge(self, other: Learner) -> None:
        """Learn what another has learned (Chan et al., 1983, for the variance)."""
        self.counts.update(other.counts)
        self.most = max(self.most, other.most)
        total = self.number + other.number
        if total:
            difference = other.mean - self.mean
            self.squares += other.squares + difference**2 * self.number * other.number / total
            self.mean += difference * other.number / total
            self.number = total

    def result(self) -> dict[str, Any]:
        """What `Encoder` needs, as JSON-serialisable values."""
        if self.kind == "number":
            # 9 digits, so that the order in which parts were merged leaves no trace; of a mean near 0, as many as the
            # deviation's say anything.
            deviation = math.sqrt(self.squares / self.number) if self.number else 0.0
            deviation = float(f"{deviation:.9g}") or 1.0
            mean = round(self.mean, 9 - math.ceil(math.log10(deviation)))
            return {"mean": float(f"{mean:.9g}") + 0.0, "deviation": deviation}
        if self.kind in ("category", "categories"):
            values = sorted(self.counts, key=lambda value: (-self.counts[value], value))
            return {"values": values, **({"most": max(self.most, 1)} if self.kind == "categories" else {})}
        return {}


class Encoder:
    """Fields to values, by what was learned, and back.

    Args:
        features: The features, each with its kind.
        learned: Name of a feature to the `result` of its learner.
    """

    def __init__(self, features: Sequence[Feature], learned: Mapping[str, Mapping[str, Any]]):
        self._features = tuple(features)
        self._learned = learned
        self._ids = {
            name: {value: number for number, value in enumerate(what["values"], start=UNKNOWN + 1)}
            for name, what in learned.items()
            if "values" in what
        }

    def __call__(self, fields: Sequence[str]) -> dict[str, Any]:
        """One item's values by the names of the features, from its fields in the same order."""
        pairs = zip(self._features, fields, strict=True)
        return {feature.name: self.value(feature, text) for feature, text in pairs}

    def value(self, feature: Feature, text: str) -> Any:
        """The value of one field."""
        value = parse(feature.kind, text)
        if feature.kind == "number":
            learned = self._learned[feature.name]
            return math.nan if value is None else (value - learned["mean"]) / learned["deviation"]
        if feature.kind == "category":
            return MISSING if value is None else self._ids[feature.name].get(value, UNKNOWN)
        if feature.kind == "categories":
            return [self._ids[feature.name].get(one, UNKNOWN) for one in value]
        return text

    def request(self, feature: Feature, value: Any) -> Any:
        """The inverse of `value`, as `Feature.in_requests` has it: a number, a string, a list of strings.

        Args:
            feature: A number, a category or several.
            value: A number, or an array, of what the records hold.
        """
        learned = self._learned[feature.name]
        if feature.kind == "number":
            return float(value * learned["deviation"] + learned["mean"])
        # What training has not seen is any string that it has not seen.
        names = {MISSING: "", UNKNOWN: "\0", **dict(enumerate(learned["values"], start=UNKNOWN + 1))}
        return [names[int(one)] for one in value] if feature.is_list else names[int(value)]


def with_sizes(features: Iterable[Feature], learned: Mapping[str, Mapping[str, Any]]) -> tuple[Feature, ...]:
    """The features with the number of ids that their categories have, missing and unknown counted."""

    def sized(feature: Feature) -> Feature:
        what = learned.get(feature.name, {})
        if "values" not in what:
            return feature
        num_values = len(what["values"]) + UNKNOWN + 1
        return dataclasses.replace(feature, num_values=num_values, max_length=what.get("most", 0))

    return tuple(sized(feature) for feature in features)

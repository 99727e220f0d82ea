"""Rules of merchandisers: categories that an exported model never shows, and how many items of one a list may hold.

Categories are those of the items file that the dataset was prepared with, and of the file of new items.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrec_tf.features import UNKNOWN, name_of
from seqrec_tf.schema import Feature

if TYPE_CHECKING:
    from seqrec_tf.exporting.choosing import Limit
    from seqrec_tf.records import DatasetFolder

MAX_PER, EXCLUDE_CATEGORY = "--max-per", "--exclude-category"


@dataclasses.dataclass(frozen=True)
class Rules:
    """What of a catalogue may be shown.

    Attributes:
        is_banned: bool [V], of each item by its id, whether it is never shown; None where all may be.
        limits: How many items of a category a list may hold, `choosing.Limit`s with arrays.
    """

    is_banned: Any
    limits: tuple[Limit, ...]


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the options say.

    Attributes:
        most: Name of a feature to the items of one category in a list.
        excluded: A feature's name and a category, of each that is never shown.
    """

    most: Mapping[str, int] = dataclasses.field(default_factory=dict)
    excluded: Sequence[tuple[str, str]] = ()

    @property
    def names(self) -> list[str]:
        """The features that decide."""
        return sorted({*self.most, *(name for name, _ in self.excluded)})


def parse(max_per: Sequence[str], exclude_category: Sequence[str]) -> Wanted:
    """What `--max-per COLUMN=M` and `--exclude-category COLUMN=VALUE` say.

    Raises:
        ValueError: One is not of that form.
    """
    most: dict[str, int] = {}
    for text in max_per:
        column, _, number = text.rpartition("=")
        if not column or not number.isdecimal() or int(number) < 1:
            raise ValueError(f"{MAX_PER} expects COLUMN=M with M from 1, such as brand=2, got {text!r}.")
        if most.setdefault(name_of(column), int(number)) != int(number):
            raise ValueError(f"{MAX_PER} gives two numbers for the column {column!r}: leave one out.")
    excluded = []
    for text in exclude_category:
        column, is_given, value = text.partition("=")
        if not column or not is_given or not value.strip():
            raise ValueError(f"{EXCLUDE_CATEGORY} expects COLUMN=VALUE, such as brand=acme, got {text!r}.")
        excluded.append((name_of(column), value.strip()))
    return Wanted(most, excluded)


def make(wanted: Wanted, folder: DatasetFolder, new_values: Mapping[str, np.ndarray]) -> Rules | None:
    """The rules of a catalogue; None where there are none.

    Args:
        wanted: What the options say.
        folder: The dataset, with an items file.
        new_values: Values of the features of items that came after training, [number, ...]; empty where there are none.

    Raises:
        ValueError: The items have no such feature, or it has no such category.
    """
    from seqrec_tf.exporting.choosing import Limit

    if not wanted.names:
        return None
    features = {feature.name: feature for feature in folder.schema.item_features}
    for name in wanted.names:
        _check(name, features, MAX_PER if name in wanted.most else EXCLUDE_CATEGORY, folder)
    values = {
        name: np.concatenate([known, new_values[name]] if name in new_values else [known])
        for name, known in folder.item_values(wanted.names).items()
    }
    values = {name: value if value.ndim == 2 else value[:, None] for name, value in values.items()}  # [V, W]
    is_banned = np.zeros(len(next(iter(values.values()))), bool)
    for name, category in wanted.excluded:
        known = folder.learned_of_items[name]["values"]
        if category not in known:
            near = difflib.get_close_matches(category, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {len(known)} others, such as {known[0]!r}."
            raise ValueError(f"{EXCLUDE_CATEGORY} {name}={category}: no item has this category; {hint}")
        is_banned |= np.any(values[name] == known.index(category) + UNKNOWN + 1, axis=1)
    limits = tuple(
        # Categories that training has not seen are not told apart, so they limit nothing.
        Limit(np.where(values[name] == UNKNOWN, 0, values[name]).astype(np.int32), features[name].num_values, most)
        for name, most in wanted.most.items()
    )
    return Rules(is_banned if is_banned.any() else None, limits)


def _check(name: str, features: Mapping[str, Feature], option: str, folder: DatasetFolder) -> None:
    """Raise a ValueError where items have no such categories."""
    if name not in features or not features[name].num_values:
        there = [feature.name for feature in features.values() if feature.num_values]
        raise ValueError(
            f"{option} needs a column of categories of the items file of {folder.path}, got {name!r}; there are: "
            f"{', '.join(there) or 'none'}."
        )

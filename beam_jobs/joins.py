"""Whether the ids of events meet those of the items or users files; if they do not, why.

Where few meet, each bucket hands on some ids of both sides that have no partner: of each side those that come first by
a hash of what differing spellings of an id have in common. So the spellings of one id are all handed on, or none is,
and a few hundred ids of millions are enough to see what tells them apart.

Example: `sku-007` of the events and `7` of the items file have the 7 in common; they differ by a prefix.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import Any

from seqrec_tf import ids

# Ids of either side that are handed on.
_SAMPLED = 200
# What a sample holds: the sides, and columns of the files that hold ids of the events.
EVENTS, FILES, COLUMNS = "events", "files", "columns"
# Below this share of ids with a row something is probably wrong.
_FEW = 0.5

_NUMBERS, _LETTERS, _FRACTION = re.compile(r"\d+"), re.compile(r"[^\W\d_]+"), re.compile(r"\.0+$")

# What is to be done, by what tells the ids apart.
_REMEDIES = {
    "blanks around them": "Leave out --raw-ids.",
    "letters and accents apart, or in one": "Leave out --raw-ids.",
    "a fraction, as of 7.0": "Write them alike: a tool took whole numbers for floats, where a value was missing.",
    "upper and lower case": "Write them alike.",
    "leading zeros": "Write them alike: a tool took codes for numbers.",
}


class Sample(dict[tuple[str, str], list[tuple[str, str]]]):
    """Ids by (table, side), each with the hash that it comes in order by; the same whatever the order of the parts."""

    def update(self, other: Mapping[tuple[str, str], list[tuple[str, str]]]) -> None:  # type: ignore[override]
        """Take the ids of another sample, as far as there is room."""
        for key, pairs in other.items():
            self[key] = sorted({*self.get(key, ()), *pairs})[:_SAMPLED]

    def add(self, table: str, side: str, names: Iterable[str]) -> None:
        """Take some ids, as far as there is room."""
        self.update({(table, side): [(_hash(in_common(name)), name) for name in names]})


def in_common(name: str) -> str:
    """What the spellings of an id have in common: its last number or, where it has none, its last letters."""
    text = _without_fraction(name).casefold()
    parts = _NUMBERS.findall(text) or _LETTERS.findall(text)
    return (parts[-1].lstrip("0") or "0") if parts else ""


def _without_fraction(name: str) -> str:
    return _FRACTION.sub("", ids.tidy(name))


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def difference(ours: str, theirs: str) -> str:
    """What tells two spellings of an id apart, in words; empty where they may be of two ids."""
    for what, form in (
        ("blanks around them", str.strip),
        ("letters and accents apart, or in one", ids.tidy),
        ("a fraction, as of 7.0", _without_fraction),
        ("upper and lower case", lambda text: ids.tidy(text).casefold()),
        ("punctuation", lambda text: "".join(filter(str.isalnum, _without_fraction(text).casefold()))),
        ("leading zeros", lambda text: _without_fraction(text).lstrip("0")),
    ):
        if form(ours) == form(theirs):
            return what
    longer, shorter = sorted([ours, theirs], key=len, reverse=True)
    if longer.endswith(shorter):
        return f"the prefix {longer.removesuffix(shorter)!r}"
    return f"the suffix {longer.removeprefix(shorter)!r}" if longer.startswith(shorter) else ""


def unjoined(sample: Sample, table: str) -> dict[str, str]:
    """An id of the events and one of the files without a partner, for `stats.json`, and what tells them apart."""
    ours, theirs = sample.get((table, EVENTS), []), sample.get((table, FILES), [])
    if not ours or not theirs:
        return {"in_events": ours[0][1]} if ours else {}
    columns = sample.get((table, COLUMNS), [])
    pair, differ = (ours[0][1], theirs[0][1]), ""
    for (key, name), (other_key, other) in itertools.product(ours, theirs):
        if key == other_key and (differ := difference(name, other)):
            pair = name, other
            break
    found = {"in_events": pair[0], "in_files": pair[1], "differ_by": differ}
    return found | ({"column_with_ids": columns[0][1]} if columns and not differ else {})


def sentence(stats: Mapping[str, Any], table: str) -> str:
    """That few ids of the events have a row in the items or users files, and why; empty where most have one."""
    about = stats.get(table, {})
    without, there = about.get("without_side_information", 0), about.get("with_side_information", 0)
    found = about.get("unjoined")
    if not without or there >= _FEW * (there + without) or not found:
        return ""
    one = table.removesuffix("s")
    how_many = f"Only {there:,} of {there + without:,} {table}" if there else f"None of the {without:,} {table}"
    if "in_files" not in found:
        return f"{how_many} of the events have a row in the {table} files; one that has none is {found['in_events']!r}."
    differ = found["differ_by"]
    remedy = _REMEDIES.get(differ, "Write them alike.")
    if column := found.get("column_with_ids"):
        remedy = f"Their column {column!r} has ids of the events: give --{one}-id-column {column}."
    elif not differ:
        remedy = f"These have nothing in common: look whether --{one}-column and --{one}-id-column are the right ones."
    return (
        f"{how_many} of the events have a row in the {table} files: the events have {found['in_events']!r}, the files "
        f"{found['in_files']!r}" + (f"; they differ by {differ}" if differ else "") + f". {remedy}"
    )


def failure(stats: Mapping[str, Any]) -> str:
    """Why a dataset whose items or users files describe nothing must not be used; empty where they do."""
    sentences = [sentence(stats, table) for table in ("items", "users")]
    return " ".join(
        text for text, table in zip(sentences, ("items", "users"), strict=True) if text and not _described(stats, table)
    )


def warnings(stats: Mapping[str, Any]) -> list[str]:
    """A sentence of each table that describes few of the events' items or users."""
    return [text for table in ("items", "users") if _described(stats, table) and (text := sentence(stats, table))]


def _described(stats: Mapping[str, Any], table: str) -> int:
    return stats.get(table, {}).get("with_side_information", 0)

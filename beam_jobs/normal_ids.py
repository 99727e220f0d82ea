"""Ids in the normal form of `seqrec_tf.ids`, a whole column at once.

Blanks and accents are mended where ids are read. Whether `7.0` is `7`, only all files together tell: the readers note
whether a column has an id that is no number, and leave `7.0` as it is; `tables.bucket_of` lets `7.0` and `7` meet in
one bucket; and the steps that group a bucket are told what all readers have noted, and mend it there. So the files are
read once, and whatever the number of workers, the result is the same.

A column whose bytes are all printable ASCII, and its first id no number, takes two passes over its bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from beam_jobs.counting import Tally
from beam_jobs.tables import Coded, EventRows, FieldRows, string_buffers, without_fractions
from seqrec_tf import ids
from seqrec_tf import schema as schema_lib
from seqrec_tf.schema import Schema

# What is mended, as stats and summary call it.
BLANKS, ACCENTS, FRACTIONS = "blanks", "accents", "fractions"

_ZERO, _NINE, _BLANK, _LAST_PRINTABLE = 48, 57, 32, 126


def mend_events(rows: EventRows, tally: Tally) -> EventRows:
    """The same events, ids without blanks around them and composed; what was seen is counted."""
    return dataclasses.replace(
        rows,
        users=None if rows.users is None else _mend_coded(rows.users, "user", tally),
        sessions=None if rows.sessions is None else _mend_coded(rows.sessions, "session", tally),
        items=_mend_strings(rows.items, "item", tally),
    )


def mend_table(rows: FieldRows, one: str, tally: Tally) -> FieldRows:
    """The same rows of an items or users file; `one` is "item" or "user"."""
    return dataclasses.replace(rows, ids=_mend_strings(rows.ids, one, tally))


def fractions_to_drop(tally: Tally) -> frozenset[str]:
    """Which of "item", "user" and "session" have ids such as 7.0 among numbers alone."""
    return frozenset(one for one, what in tally.mended_ids if what == FRACTIONS) - tally.text_ids


def numeric(tally: Tally, schema: Schema) -> tuple[str, ...]:
    """`Schema.numeric_ids`, by what all readers have noted."""
    if schema.id_form == schema_lib.RAW_IDS:
        return ()
    there = {"item": True, "user": schema_lib.USER_ID in schema, "session": schema_lib.SESSION_ID in schema}
    return tuple(one for one, is_there in there.items() if is_there and one not in tally.text_ids)


def described(tally: Tally) -> list[dict[str, Any]]:
    """What was mended, for `stats.json`: of which ids, in how many rows, with an example."""
    rows = []
    for (one, what), number in sorted(tally.mended_ids.items()):
        if what != FRACTIONS or one not in tally.text_ids:
            example = tally.examples[one, what]
            normal = ids.normal(example, is_numeric=what == FRACTIONS)
            rows.append({"of": one, "mended": what, "rows": number, "example": example, "normal": normal})
    return rows


def lines(described_ids: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was mended, for people; a line of each."""
    words = {
        BLANKS: "had blanks around them",
        ACCENTS: "had letters and accents apart",
        FRACTIONS: "were whole numbers with a fraction",
    }
    return [
        f"ids: {row['rows']:,} {row['of']} ids {words[row['mended']]}, such as {row['example']!r}, now "
        f"{row['normal']!r} (--raw-ids keeps them)"
        for row in described_ids
    ]


def drop_fractions(rows: EventRows, of: frozenset[str]) -> EventRows:
    """The same events, with whole numbers for the ids of those that `fractions_to_drop` has named."""
    users, sessions = (
        _with_values(column, without_fractions(column.values)) if column is not None and one in of else column
        for one, column in (("user", rows.users), ("session", rows.sessions))
    )
    items = without_fractions(rows.items) if "item" in of else rows.items
    return dataclasses.replace(rows, users=users, sessions=sessions, items=items)


def _mend_strings(strings: pa.StringArray, one: str, tally: Tally) -> pa.StringArray:
    if _is_plain(strings, one, tally):
        return strings
    coded = Coded.of(strings)
    mended = _mend_values(coded, one, tally)
    return strings if mended is coded.values else mended.take(pa.array(coded.codes))


def _mend_coded(column: Coded, one: str, tally: Tally) -> Coded:
    if _is_plain(column.values, one, tally):
        return column
    return _with_values(column, _mend_values(column, one, tally))


def _is_plain(strings: pa.StringArray, one: str, tally: Tally) -> bool:
    """Whether there is nothing to mend or to count; notes whether these ids are text, where that is easily told."""
    data = string_buffers(strings)[1]
    if not len(data):
        return True
    least, most = int(data.min()), int(data.max())
    if least <= _BLANK or most > _LAST_PRINTABLE:
        return False
    if one not in tally.text_ids and not ids.is_number(strings[0].as_py()):
        _note_text(one, tally)
    return one in tally.text_ids or (least >= _ZERO and most <= _NINE and not _has_leading_zero(strings))


def _has_leading_zero(strings: pa.StringArray) -> bool:
    offsets, data = string_buffers(strings)
    return bool(((data[offsets[:-1]] == _ZERO) & (np.diff(offsets) > 1)).any())


def _mend_values(column: Coded, one: str, tally: Tally) -> pa.StringArray:
    """The mended values of a column, perhaps equal ones; counts what it mended, and notes whether they are text."""
    values = column.values.to_pylist()
    stripped = [value.strip() for value in values]
    tidy = [ids.tidy(value) for value in values]
    changes = [(BLANKS, values, stripped), (ACCENTS, stripped, tidy)]
    if one not in tally.text_ids:
        if all(map(ids.is_number, tidy)):
            changes.append((FRACTIONS, tidy, [ids.without_fraction(value) for value in tidy]))
        else:
            _note_text(one, tally)
    num_rows = np.bincount(column.codes, minlength=len(values))
    for what, before, after in changes:
        changed = [place for place, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
        if changed:
            tally.mended_ids[one, what] += int(num_rows[changed].sum())
            tally.examples.update({(one, what): min(before[place] for place in changed)})
    return column.values if tidy == values else pa.array(tidy, pa.string())


def _note_text(one: str, tally: Tally) -> None:
    """Note that not all ids of a column are numbers, so that their fractions stay."""
    tally.text_ids.add(one)
    tally.mended_ids.pop((one, FRACTIONS), None)
    tally.examples.pop((one, FRACTIONS), None)


def _with_values(column: Coded, values: pa.StringArray) -> Coded:
    """The column with other values, of which some may be equal."""
    if values is column.values:
        return column
    coded = Coded.of(values)
    return Coded(coded.codes[column.codes], coded.values)

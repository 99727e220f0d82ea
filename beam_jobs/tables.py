"""What flows between the steps of the job: tables of many events, sequences, items or users.

Nobody handles single events here. A reader makes `EventRows` of a piece of a file; all rows of the users of one bucket
come together as `Sequences`, on which each step works as a whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seqrec_tf import ids

# What Arrow's own allocator gives back to the system after each table, it must ask for, and have cleared, at the next.
pa.set_memory_pool(pa.system_memory_pool())

# Names of the columns that an event may have beside its item. Time is in the unit of the input, rounded down to an
# integer; FRACTION is what that left of it, in [0, 1), where some time has one. POSITION orders events of equal times
# as the input does: the rank of the file, and the byte offset of the line (in Parquet: the record) in it.
TIME, FRACTION, POSITION, LABEL = "time", "fraction", "position", "label"

# What a column holds where the events of some files have none.
_DTYPES = {TIME: np.int64, FRACTION: np.float64, POSITION: np.int64, LABEL: np.int8}

_HASHED_BYTES = 512
_POINT = ord(".")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
# Masks of the first so many bytes of eight.
_LOW_BYTES = np.array([(1 << 8 * number) - 1 for number in range(9)], np.uint64)

# The split that a file was given for; the first where the job splits.
ROLES = ("", "train", "valid", "test")


@dataclasses.dataclass(frozen=True)
class Coded:
    """A column of strings as numbers: row k is `values[codes[k]]`.

    Attributes:
        codes: int32 [n].
        values: string [m], each once.
    """

    codes: np.ndarray
    values: pa.StringArray

    @classmethod
    def of(cls, strings: pa.Array | pa.ChunkedArray) -> Coded:
        """The codes of strings."""
        coded = strings.dictionary_encode()
        if isinstance(coded, pa.ChunkedArray):
            coded = _one_chunk(coded)
        return cls(coded.indices.to_numpy(zero_copy_only=False), coded.dictionary)

    @classmethod
    def concatenated(cls, parts: Sequence[Coded]) -> Coded:
        """One column after the other, with common values."""
        arrays = [pa.DictionaryArray.from_arrays(pa.array(part.codes), part.values) for part in parts]
        column = _one_chunk(pa.chunked_array(arrays, pa.dictionary(pa.int32(), pa.string())).unify_dictionaries())
        return cls(column.indices.to_numpy(), column.dictionary)

    def take(self, rows: np.ndarray) -> pa.StringArray:
        """The strings of some rows."""
        return self.values.take(pa.array(self.codes[rows]))


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


@dataclasses.dataclass(frozen=True)
class EventRows:
    """Events as they were read, a row each, in any order.

    Attributes:
        role: One of `ROLES`, of all of them.
        users: Coded [n], None where the data has no users.
        sessions: Coded [n], None where the data has no sessions.
        items: string [n].
        columns: Name to numpy [n], of what else events have.
    """

    role: str
    users: Coded | None
    sessions: Coded | None
    items: pa.StringArray
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.items)


@dataclasses.dataclass(frozen=True)
class Sequences:
    """Whole sequences, each a user's or a session's; its events lie side by side, oldest first.

    Attributes:
        roles: uint8 [S], places in `ROLES`.
        users: string [S], None where the data has no users.
        sessions: string [S], None where the data has no sessions.
        offsets: int64 [S + 1]; the events of sequence k are `offsets[k]` to `offsets[k + 1]`.
        items: int32 [E], places in `names`.
        names: string [V], the items; empty once `items` are ids of the vocabulary.
        columns: Name to numpy [E], of what else events have.
        starts: int64 [3, S], for each of `schema.SPLITS` where the targets of its record begin; None before the split.
        ends: int64 [3, S], and where the record ends, counted from the sequence's first event; 0 where it has none.
        fields: Name of a feature of users to string [S]; none where the users have no files.
    """

    roles: np.ndarray
    users: pa.StringArray | None
    sessions: pa.StringArray | None
    offsets: np.ndarray
    items: np.ndarray
    names: pa.StringArray
    columns: Mapping[str, np.ndarray]
    starts: np.ndarray | None = None
    ends: np.ndarray | None = None
    fields: Mapping[str, pa.StringArray] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.roles)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [S], events of each sequence."""
        return np.diff(self.offsets)

    @property
    def last(self) -> np.ndarray:
        """int64 [S], the row of the newest event of each sequence."""
        return self.offsets[1:] - 1

    @property
    def sequence_of(self) -> np.ndarray:
        """int64 [E], the sequence of each event."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def places(self) -> np.ndarray:
        """int64 [E], place of each event in its sequence, from 0."""
        return np.arange(len(self.items)) - np.repeat(self.offsets[:-1], self.lengths)

    def is_same_as_before(self, *columns: np.ndarray) -> np.ndarray:
        """bool [E], True where an event has an event before it in its sequence, and all columns repeat its values."""
        same = np.ones(len(self.items), bool)
        for column in columns:
            same[1:] &= column[1:] == column[:-1]
        same[self.offsets[:-1]] = False
        return same

    def count_items(self, rows: np.ndarray | None = None) -> ItemCounts:
        """Events of each item, of those events alone that `rows`, bool [E], says."""
        items = self.items if rows is None else self.items[rows]
        return ItemCounts(self.names, np.bincount(items, minlength=len(self.names)))

    def identities(self) -> Iterator[tuple[str, str, str]]:
        """Role, user and session of each sequence, "" where the data has none."""
        nothing = [""] * len(self)
        users = nothing if self.users is None else self.users.to_pylist()
        sessions = nothing if self.sessions is None else self.sessions.to_pylist()
        return zip([ROLES[role] for role in self.roles.tolist()], users, sessions, strict=True)

    def without(self, column: str) -> Sequences:
        """The same without a column that no later step needs."""
        return dataclasses.replace(self, columns={name: of for name, of in self.columns.items() if name != column})

    def keep_events(self, rows: np.ndarray) -> Sequences:
        """The events that `rows`, bool [E], says, and the sequences of which some are left. Not after the split."""
        if rows.all():
            return self
        lengths = np.add.reduceat(rows, self.offsets[:-1], dtype=np.int64) if len(self) else self.lengths
        return self._kept(rows, lengths, lengths > 0)

    def keep(self, sequences: np.ndarray) -> Sequences:
        """The sequences that `sequences`, bool [S], says, with all their events."""
        if sequences.all():
            return self
        return self._kept(np.repeat(sequences, self.lengths), np.where(sequences, self.lengths, 0), sequences)

    def by(self, groups: np.ndarray) -> Iterator[tuple[int, np.ndarray, Sequences]]:
        """The sequences of each group, with their numbers here; `groups` is int64 [S]."""
        order = np.argsort(groups, kind="stable")
        numbers, firsts = np.unique(groups[order], return_index=True)
        for number, chosen in zip(numbers.tolist(), np.split(order, firsts[1:]), strict=True):
            is_chosen = np.zeros(len(self), bool)
            is_chosen[chosen] = True
            yield number, chosen, self.keep(is_chosen)

    def _kept(self, rows: np.ndarray, lengths: np.ndarray, sequences: np.ndarray) -> Sequences:
        """The events that `rows` says, of the sequences that `sequences` says; `lengths` are those that are left."""
        chosen = pa.array(sequences)
        return dataclasses.replace(
            self,
            roles=self.roles[sequences],
            users=None if self.users is None else self.users.filter(chosen),
            sessions=None if self.sessions is None else self.sessions.filter(chosen),
            offsets=np.append(0, np.cumsum(lengths[sequences])),
            items=self.items[rows],
            columns={name: column[rows] for name, column in self.columns.items()},
            starts=None if self.starts is None else self.starts[:, sequences],
            ends=None if self.ends is None else self.ends[:, sequences],
            fields={name: column.filter(chosen) for name, column in self.fields.items()},
        )


def group(parts: Sequence[EventRows]) -> Sequences:
    """Rows of the same users, from all over the input, as sequences.

    Args:
        parts: Rows with the same columns, but that some may lack FRACTION.
    """
    names = {name: None for part in parts for name in part.columns}
    columns = {name: np.concatenate([_column(part, name) for part in parts]) for name in names}
    items = Coded.of(pa.chunked_array([part.items for part in parts]))
    users = _coded([part.users for part in parts])
    sessions = _coded([part.sessions for part in parts])
    roles = np.concatenate([np.full(len(part), ROLES.index(part.role), np.uint8) for part in parts])
    codes = np.zeros(len(roles), np.int64)
    for more, number in (
        (None if users is None else users.codes, 0 if users is None else len(users.values)),
        (None if sessions is None else sessions.codes, 0 if sessions is None else len(sessions.values)),
        (roles if len({part.role for part in parts}) > 1 else None, len(ROLES)),
    ):
        if more is not None:
            codes = codes * number + more
    rows = time_order(codes, columns[TIME], columns.get(FRACTION), columns[POSITION])
    codes = codes[rows]
    is_first = np.ones(len(codes), bool)
    is_first[1:] = codes[1:] != codes[:-1]
    firsts = np.flatnonzero(is_first)
    first_rows = rows[firsts]
    return Sequences(
        roles=roles[first_rows],
        users=None if users is None else users.take(first_rows),
        sessions=None if sessions is None else sessions.take(first_rows),
        offsets=np.append(firsts, len(codes)),
        items=items.codes[rows],
        names=items.values,
        columns={name: column[rows] for name, column in columns.items()},
    )


def _column(part: EventRows, name: str) -> np.ndarray:
    column = part.columns.get(name)
    return np.zeros(len(part), _DTYPES[name]) if column is None else column


def _coded(parts: Sequence[Coded | None]) -> Coded | None:
    present = [part for part in parts if part is not None]
    return Coded.concatenated(present) if present else None


def time_order(codes: np.ndarray, times: np.ndarray, fractions: np.ndarray | None, positions: np.ndarray) -> np.ndarray:
    """The rows in the order of (code, time, fraction, position): as `np.lexsort`, but in a tenth of its time.

    One 64-bit key holds code and time, NumPy's vectorised sort puts that in order, and only rows with equal keys are
    looked at again.
    """
    least = int(times.min(initial=0))
    time_bits = (int(times.max(initial=0)) - least).bit_length()
    if time_bits + int(codes.max(initial=0)).bit_length() > 63:
        return np.lexsort([positions, *([] if fractions is None else [fractions]), times, codes])
    keys = (codes << time_bits) | (times - least)
    rows = np.argsort(keys)
    keys = keys[rows]
    equal = keys[1:] == keys[:-1]
    if equal.any():
        tied = np.zeros(len(keys), bool)
        tied[1:] |= equal
        tied[:-1] |= equal
        places = np.flatnonzero(tied)
        of = rows[places]
        rows[places] = of[np.lexsort([positions[of], *([] if fractions is None else [fractions[of]]), keys[places]])]
    return rows


@dataclasses.dataclass(frozen=True)
class ItemCounts:
    """Events of each item.

    Attributes:
        items: string [n], each once.
        counts: int64 [n].
    """

    items: pa.StringArray
    counts: np.ndarray

    @classmethod
    def sum(cls, parts: Sequence[ItemCounts]) -> ItemCounts:
        """All counts of each item together; items without events are left out."""
        coded = Coded.of(pa.chunked_array([part.items for part in parts], pa.string()))
        weights = np.concatenate([part.counts for part in parts]) if parts else None
        counts = np.bincount(coded.codes, weights, minlength=len(coded.values)).astype(np.int64)  # exact below 2^53
        present = counts > 0
        return cls(coded.values.filter(pa.array(present)), counts[present])

    @property
    def num_items(self) -> int:
        """How many items have events."""
        return int(np.count_nonzero(self.counts))

    @property
    def num_events(self) -> int:
        """Events of all items."""
        return int(self.counts.sum())


@dataclasses.dataclass(frozen=True)
class FieldRows:
    """Rows of an items or users file.

    Attributes:
        ids: string [n], of items or users.
        positions: int64 [n], orders them as the input does.
        fields: The other columns, each string [n].
    """

    ids: pa.StringArray
    positions: np.ndarray
    fields: tuple[pa.StringArray, ...]

    def __len__(self) -> int:
        return len(self.ids)


def bucket_of(strings: pa.StringArray, num_buckets: int) -> np.ndarray:
    """int64 [n], in which bucket the rows of each id meet: the same everywhere and always, and for 7.0 that of 7.

    A hash of the id's first `_HASHED_BYTES`, of eight at a time.
    """
    if num_buckets == 1 or not len(strings):
        return np.zeros(len(strings), np.int64)
    strings = without_fractions(strings)
    offsets, data = string_buffers(strings)
    padded = np.append(data, np.zeros(8, np.uint8))
    words = np.ndarray(len(padded) - 7, "<u8", padded, strides=(1,))  # that begin at each byte
    starts, lengths = offsets[:-1], np.diff(offsets)
    hashes = lengths.astype(np.uint64)
    for place in range(0, min(int(lengths.max()), _HASHED_BYTES), 8):
        rows = slice(None) if place == 0 else np.flatnonzero(lengths > place)
        used = _LOW_BYTES[np.minimum(lengths[rows] - place, 8)]
        mixed = (hashes[rows] ^ (words[starts[rows] + place] & used)) * _MULTIPLIER
        hashes[rows] = mixed ^ (mixed >> np.uint64(32))
    return ((hashes * _MULTIPLIER >> np.uint64(33)) % np.uint64(num_buckets)).astype(np.int64)


def without_fractions(strings: pa.StringArray) -> pa.StringArray:
    """Ids as `ids.without_fraction` gives them."""
    if not (string_buffers(strings)[1] == _POINT).any():
        return strings
    coded = Coded.of(strings)
    values = pc.replace_substring_regex(coded.values, ids.FRACTION, ids.WITHOUT_FRACTION)
    if pc.any(pc.match_substring_regex(values, ids.JAVA_FLOAT)).as_py():
        values = pa.array([ids.without_fraction(value) for value in values.to_pylist()], pa.string())
    return values.take(pa.array(coded.codes))


def string_buffers(strings: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """Where each string begins, int64 [n + 1], and the bytes of all, uint8."""
    _, offsets, data = strings.buffers()
    if not len(strings):
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    places = np.frombuffer(offsets, np.int32)[strings.offset : strings.offset + len(strings) + 1].astype(np.int64)
    used = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)[places[0] : places[-1]]
    return places - places[0], used

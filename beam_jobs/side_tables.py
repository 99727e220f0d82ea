"""Items and users files to side features: rows that meet what they describe, and what these teach."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import examples, joins
from beam_jobs.counting import STEPS, WRITING, Counting, Tally, timed
from beam_jobs.storage import RecordFiles, Written
from beam_jobs.store import Store, Stored
from beam_jobs.tables import Coded, FieldRows, ItemCounts, Sequences, bucket_of, without_fractions
from seqrec_tf import features
from seqrec_tf import schema as schema_lib
from seqrec_tf.ids import NULLS
from seqrec_tf.schema import Feature

# Name of the output with what rows teach: lists of `features.Learner`.
LEARNED = "learned"
# And of that with the items that have what is required of them.
COMPLETE = "complete"


@dataclasses.dataclass(frozen=True)
class FirstRows:
    """Of several rows of one id the first, in the order of the input; but what it lacks, a later one may give.

    Attributes:
        ids: string [n], each once.
        fields: The other columns, each string [n].
        num_rows: int64 [n], rows of the id.
        conflicts: int64 [n], the number of the first column whose values differ; -1 where the rows agree.
        others: string [n], another value that is there, "" where the rows agree.
    """

    ids: pa.StringArray
    fields: tuple[pa.StringArray, ...]
    num_rows: np.ndarray
    conflicts: np.ndarray
    others: pa.StringArray

    def fields_of(self, ids: pa.StringArray) -> tuple[list[pa.StringArray], np.ndarray]:
        """The fields of each id, "" where it has no row, and bool [n] whether it has one."""
        places = pc.index_in(ids, self.ids)
        return [field.take(places).fill_null("") for field in self.fields], _bools(places.is_valid())

    def count(self, tally: Tally, table: str, ids: pa.StringArray, of: Sequence[Feature]) -> None:
        """Count what is odd about the rows of the features `of`, `ids`, each once, being those that have events."""
        has_events = _bools(pc.is_in(self.ids, ids))
        num_joined = int(has_events.sum())
        tally.duplicates[table] += int((self.num_rows - 1).sum())
        tally.without_events[table] += len(self.ids) - num_joined
        tally.without_side_information[table] += len(ids) - num_joined
        tally.with_side_information[table] += num_joined
        conflicts = np.flatnonzero((self.conflicts >= 0) & has_events)
        tally.conflicts[table] += len(conflicts)
        if len(conflicts):
            row = conflicts[pc.array_sort_indices(self.ids.take(pa.array(conflicts)))[0].as_py()].item()
            number = self.conflicts[row]
            of_row = (column[row].as_py() for column in (self.fields[number], self.others))
            tally.examples.update({(table, "conflict"): (self.ids[row].as_py(), of[number].name, *of_row)})
        if num_joined <= len(ids) / 2:
            tally.unjoined.add(table, joins.FILES, self.ids.filter(pa.array(~has_events)).to_pylist())
            alone = ids.filter(pc.invert(pc.is_in(ids, self.ids)))
            tally.unjoined.add(table, joins.EVENTS, alone.to_pylist())
            for feature, field in zip(of, self.fields, strict=True):
                if pc.any(pc.is_in(field, alone)).as_py():
                    tally.unjoined.add(table, joins.COLUMNS, [feature.name])


def first_rows(parts: Sequence[FieldRows], of: Sequence[Feature], *, drop_fractions: bool = False) -> FirstRows:
    """The rows of features, one of each id, which is 7 in a row of 7.0 where fractions are dropped."""
    arrays = [without_fractions(part.ids) if drop_fractions else part.ids for part in parts]
    ids = Coded.of(pa.chunked_array(arrays, pa.string()))
    positions = np.concatenate([np.zeros(0, np.int64), *(part.positions for part in parts)])
    order = np.lexsort([positions, ids.codes])
    codes = ids.codes[order]
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    num_rows = np.diff(np.append(starts, len(codes)))
    conflicts = np.full(len(starts), -1)
    others = np.full(len(starts), "", object)
    fields = []
    for number, feature in enumerate(of):
        field = Coded.of(pa.chunked_array([part.fields[number] for part in parts], pa.string()))
        if len(starts) == len(codes):
            fields.append(field.take(order))
            continue
        values = field.codes[order]
        is_blank = np.array([_is_blank(feature.kind, text) for text in field.values.to_pylist()], bool)[values]
        places = np.where(is_blank, len(codes), np.arange(len(codes)))
        chosen = np.minimum.reduceat(places, starts)
        chosen = np.where(chosen < len(codes), chosen, starts)
        fields.append(field.take(order[chosen]))
        differing = np.flatnonzero(~is_blank & (values != np.repeat(values[chosen], num_rows)))
        rows, first = np.unique(np.repeat(np.arange(len(starts)), num_rows)[differing], return_index=True)
        is_new = conflicts[rows] < 0
        conflicts[rows[is_new]] = number
        others[rows[is_new]] = field.take(order[differing[first[is_new]]]).to_pylist()
    return FirstRows(ids.take(order[starts]), tuple(fields), num_rows, conflicts, pa.array(others, pa.string()))


def _is_blank(kind: str, text: str) -> bool:
    text = text.strip()
    return not text or (kind == "number" and text in NULLS)


def _bools(array: pa.BooleanArray) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False).astype(bool)


def learn(of: Sequence[Feature], fields: Sequence[pa.StringArray]) -> list[features.Learner]:
    """What some rows teach of each feature."""
    learners = []
    for feature, field in zip(of, fields, strict=True):
        learner = features.Learner(feature.kind)
        for text in field.to_pylist():
            learner.add(text)
        learners.append(learner)
    return learners


def encoded(
    of: Sequence[Feature], fields: Sequence[pa.StringArray], learned: Mapping[str, Mapping[str, Any]]
) -> list[tuple[Feature, examples.Pieces]]:
    """Each feature with its entries, from its fields, one a record. Equal fields are encoded once."""
    encoder = features.Encoder(of, learned)
    pairs = []
    for feature, field in zip(of, fields, strict=True):
        coded = Coded.of(field)
        values = [encoder.value(feature, text) for text in coded.values.to_pylist()]
        pairs.append((feature, examples.of_records(feature, [values[code] for code in coded.codes.tolist()])))
    return pairs


class LearnFeatures(beam.CombineFn):
    """What parts of the rows taught to what was learned of each feature, by its name.

    Args:
        of: The features, in the order of the fields.
    """

    def __init__(self, of: Sequence[Feature]):
        self._features = tuple(of)

    def create_accumulator(self) -> list[features.Learner]:
        """Nothing learned yet."""
        return [features.Learner(feature.kind) for feature in self._features]

    def add_input(self, learners: list[features.Learner], others: list[features.Learner]) -> list[features.Learner]:
        """Learn what others have learned."""
        for learner, other in zip(learners, others, strict=True):
            learner.merge(other)
        return learners

    def merge_accumulators(self, parts: Iterable[list[features.Learner]]) -> list[features.Learner]:
        """Learn what all have learned."""
        merged = self.create_accumulator()
        for learners in parts:
            merged = self.add_input(merged, learners)
        return merged

    def extract_output(self, learners: list[features.Learner]) -> dict[str, dict[str, Any]]:
        """What the encoder needs."""
        return {feature.name: learner.result() for feature, learner in zip(self._features, learners, strict=True)}


class FirstItems(beam.DoFn):
    """(bucket, stored `FieldRows`s, and None once) to (bucket, stored `FirstRows`).

    Outputs beside the main one: COMPLETE, the ids of the items that have all required features.

    Args:
        store: Where tables are.
        of: The features of items, without the item itself.
        required: Names of those that an item must have.
    """

    def __init__(self, store: Store, of: Sequence[Feature], required: Sequence[str]):
        self._store = store
        self._features = tuple(of)
        self._required = tuple(required)

    @timed(STEPS)
    def process(self, element: tuple[int, Iterable[Stored | None]], numeric: frozenset[str]) -> Iterator[Any]:
        """Look at the items of one bucket; `numeric` is what `normal_ids.fractions_to_drop` has said."""
        bucket, parts = element
        several = [self._store.take(stored) for stored in parts if stored]
        rows = first_rows(several, self._features, drop_fractions="item" in numeric)
        is_complete = np.ones(len(rows.ids), bool)
        for feature, field in zip(self._features, rows.fields, strict=True):
            if feature.name in self._required:
                empty = [
                    text for text in field.unique().to_pylist() if features.parse(feature.kind, text) in (None, [])
                ]
                is_complete &= ~_bools(pc.is_in(field, pa.array(empty, pa.string())))
        yield beam.pvalue.TaggedOutput(COMPLETE, rows.ids.filter(pa.array(is_complete)))
        yield bucket, self._store.put(rows)


class JoinUsers(Counting):
    """The sequences and the rows of the users of a bucket to the sequences with the fields of their users.

    An element is (bucket, {"sequences": [stored `Sequences`], "rows": stored `FieldRows`s}). Outputs beside the main
    one: LEARNED, of users with training records.

    Args:
        store: Where tables are.
        of: The features of users.
    """

    def __init__(self, store: Store, of: Sequence[Feature]):
        self._store = store
        self._features = tuple(of)

    @timed(STEPS)
    def process(self, element: tuple[int, Mapping[str, Iterable[Stored]]], numeric: frozenset[str]) -> Iterator[Any]:
        """Join one bucket; `numeric` is what `normal_ids.fractions_to_drop` has said."""
        bucket, grouped = element
        of_users = [self._store.take(stored) for stored in grouped["rows"]]
        rows = first_rows(of_users, self._features, drop_fractions="user" in numeric)
        several: list[Sequences] = [self._store.take(stored) for stored in grouped["sequences"]]  # one, or none
        names = [feature.name for feature in self._features]
        if not several:
            rows.count(self.tally, "users", pa.array([], pa.string()), self._features)
        for sequences in several:
            users, ends = sequences.users, sequences.ends
            assert users is not None
            assert ends is not None
            rows.count(self.tally, "users", users.unique(), self._features)
            fields, _ = rows.fields_of(users)
            trained = users.filter(pa.array(ends[0] > 0)).unique()
            yield beam.pvalue.TaggedOutput(LEARNED, learn_from(self._features, rows, trained))
            yield bucket, dataclasses.replace(sequences, fields=dict(zip(names, fields, strict=True)))


def learn_from(of: Sequence[Feature], rows: FirstRows, ids: pa.StringArray) -> list[features.Learner]:
    """What the rows of these ids, of those that have some, teach."""
    fields, has_row = rows.fields_of(ids)
    chosen = pa.array(has_row)
    return learn(of, [field.filter(chosen) for field in fields])


class MatchItems(Counting):
    """(bucket, stored `FirstRows`) and the items of the vocabulary that belong there to (shard, stored `MatchedItems`).

    A shard has a run of ids. Outputs beside the main one: LEARNED, of items with training events.

    Args:
        store: Where tables are.
        of: The features of items, without the item itself.
        num_buckets: How many buckets there are, and shards.
    """

    def __init__(self, store: Store, of: Sequence[Feature], num_buckets: int):
        self._store = store
        self._features = tuple(of)
        self._num_buckets = num_buckets

    @timed(STEPS)
    def process(self, element: tuple[int, Stored], vocabulary: ItemCounts) -> Iterator[Any]:
        """Match one bucket."""
        bucket, stored = element
        rows: FirstRows = self._store.take(stored)
        is_here = bucket_of(vocabulary.items, self._num_buckets) == bucket
        items = vocabulary.items.filter(pa.array(is_here))
        rows.count(self.tally, "items", items, self._features)
        trained = items.filter(pa.array(vocabulary.counts[is_here] > 0))
        yield beam.pvalue.TaggedOutput(LEARNED, learn_from(self._features, rows, trained))
        fields, _ = rows.fields_of(items)
        numbers = np.flatnonzero(is_here)
        shards = numbers * self._num_buckets // max(len(vocabulary.items), 1)
        for shard in np.unique(shards).tolist():
            chosen = pa.array(shards == shard)
            kept = tuple(field.filter(chosen) for field in fields)
            yield shard, self._store.put(MatchedItems(numbers[shards == shard], items.filter(chosen), kept))


@dataclasses.dataclass(frozen=True)
class MatchedItems:
    """Items of the vocabulary with their fields.

    Attributes:
        numbers: int64 [n], their places in the vocabulary.
        items: string [n].
        fields: The other columns, each string [n].
    """

    numbers: np.ndarray
    items: pa.StringArray
    fields: tuple[pa.StringArray, ...]


class WriteItems(beam.DoFn):
    """(shard, stored `MatchedItems`s) to a file of the items folder; gives (its path in the dataset, what was written).

    Args:
        store: Where tables are.
        item_features: The item's id, then its other columns.
        write: Takes a folder, a shard and Examples.
    """

    def __init__(self, store: Store, item_features: Sequence[Feature], write: RecordFiles):
        self._store = store
        self._features = tuple(item_features)
        self._write = write

    @timed(WRITING)
    def process(
        self, element: tuple[int, Iterable[Stored]], learned: dict[str, dict[str, Any]]
    ) -> Iterator[tuple[str, Written]]:
        """Write one file."""
        shard, parts = element
        matched: list[MatchedItems] = [self._store.take(part) for part in parts]
        order = np.argsort(np.concatenate([part.numbers for part in matched]))
        items, *fields = (
            pa.concat_arrays(arrays).take(pa.array(order))
            for arrays in zip(*((part.items, *part.fields) for part in matched), strict=True)
        )
        item = self._features[0], examples.of_records(self._features[0], items.to_pylist())
        written = examples.write_examples([item, *encoded(self._features[1:], fields, learned)])
        yield self._write(schema_lib.ITEMS_FOLDER, shard, written)

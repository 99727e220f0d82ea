"""The Beam graph of `seqrec prepare`, and the checked plan that it is built from."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow as pa
from apache_beam.pvalue import AsDict, AsList, AsSingleton

from beam_jobs import (
    inputs,
    normal_ids,
    oddities,
    parsing,
    read_events,
    sequences,
    side_tables,
    splits,
    write_dataset,
)
from beam_jobs import steps as steps_lib
from beam_jobs.counting import ITEM_COUNTS, TALLY, Counting, SumItems, Tally
from beam_jobs.inputs import EventsInput, TableInput
from beam_jobs.lines import Range
from beam_jobs.options import Options, check_options
from beam_jobs.read_events import LINES, REJECTED
from beam_jobs.side_tables import COMPLETE, LEARNED
from beam_jobs.storage import RecordFiles
from beam_jobs.store import Store, Stored
from beam_jobs.tables import ItemCounts, Sequences
from seqrec_tf import schema as schema_lib
from seqrec_tf.schema import Schema

# One shard for so much plain input: enough files to shuffle by, none of them tiny.
_SHARD_BYTES = 64 << 20
# One bucket of users for so much of it: some 200 MB while it is worked on. A record of Parquet counts as a line.
_BUCKET_BYTES = 64 << 20
_LINE_BYTES = 24


@dataclasses.dataclass(frozen=True)
class Plan:
    """A job whose options have been checked against its input."""

    options: Options
    events: EventsInput
    tables: dict[str, TableInput]  # of "items" and "users", those that there are
    splitter: splits.Splitter
    schema: Schema
    num_shards: int
    num_buckets: int
    output: str

    @property
    def num_item_shards(self) -> int:
        """Files of items, and buckets."""
        return -(-self.tables["items"].num_bytes // _SHARD_BYTES) or 1

    @property
    def parts(self) -> tuple[Range, ...]:
        """All ranges."""
        return sum((table.parts for table in self.tables.values()), self.events.parts)

    @property
    def num_bytes(self) -> int:
        """What there is to read; 0 where the ranges do not tell their bytes."""
        if any(part.is_parquet for part in self.parts):
            return 0
        return self.events.num_bytes + sum(table.num_bytes for table in self.tables.values())

    @property
    def units_per_second(self) -> int:
        """Of the events' times; 1 where they are just an order."""
        return parsing.units_per_second(self.events.time_format)


def make_plan(options: Options, output: str) -> Plan:
    """Check the options against each other and against the input.

    Args:
        options: What the user wants.
        output: Folder that the job writes.

    Raises:
        ValueError: An option is wrong.
        FileNotFoundError: An input matches no file.
    """
    check_options(options)
    events = inputs.inspect_events(options)
    tables: dict[str, TableInput] = {}
    for one in ("item", "user"):
        if getattr(options, f"{one}s").files:
            number = len(events.parts) + sum(len(table.parts) for table in tables.values())
            tables[f"{one}s"] = inputs.inspect_table(options, one, first_number=number)
    features = [schema_lib.ITEM_IDS_FEATURE, schema_lib.TARGET_START_FEATURE]
    for column, feature in (
        (events.time_format or None, schema_lib.TIMESTAMPS_FEATURE),
        (events.columns.label, schema_lib.LABELS_FEATURE),
        (events.columns.user, schema_lib.USER_ID_FEATURE),
        (events.columns.session, schema_lib.SESSION_ID_FEATURE),
    ):
        if column is not None:
            features.append(feature)
    num_records = sum(part.num_records for part in events.parts)
    time_unit = {"": schema_lib.NO_TIME, "order": schema_lib.ORDER}.get(events.time_format, schema_lib.SECONDS)
    return Plan(
        options=options,
        events=events,
        tables=tables,
        splitter=splits.RULES[options.split].of(options, events.time_format),
        schema=Schema(
            num_items=0,
            features=tuple(features),
            item_features=(schema_lib.ITEM_ID_FEATURE, *tables["items"].features) if "items" in tables else (),
            user_features=tables["users"].features if "users" in tables else (),
            time_unit=time_unit,
            repeats=options.duplicates,
            record_order=options.record_order,
            items_are_quoted=not options.items.no_quotes,
            id_form=schema_lib.RAW_IDS if options.raw_ids else schema_lib.NORMAL_IDS,
        ),
        num_shards=options.num_shards or -(-events.num_bytes // _SHARD_BYTES) or 1,
        num_buckets=-(-max(events.num_bytes, _LINE_BYTES * num_records) // _BUCKET_BYTES) or 1,
        output=output,
    )


class _Counted:
    """Applies steps that count, and keeps what they count.

    Attributes:
        tallies: A collection a step, of its tallies.
        items: A collection a step that counts items, of (step, `ItemCounts`).
    """

    def __init__(self, tallies: list[Any]):
        self.tallies = tallies
        self.items: list[Any] = []

    def __call__(self, stage, label: str, step: Counting, *side_inputs, more: Sequence[str] = ()):
        """What a step makes of a stage: its main output or, where `more` names others, all of them."""
        outputs = stage | label >> beam.ParDo(step, *side_inputs).with_outputs(TALLY, ITEM_COUNTS, *more, main="main")
        self.tallies.append(outputs[TALLY])
        return outputs if more else outputs["main"]

    def with_items(self, stage, label: str, step: Counting, *side_inputs):
        """The same of a step that counts items."""
        outputs = self(stage, label, step, *side_inputs, more=[ITEM_COUNTS])
        self.items.append(outputs[ITEM_COUNTS] | f"Items of {label.lower()}" >> beam.CombinePerKey(SumItems()))
        return outputs["main"]


class _Made(NamedTuple):
    """What becomes of the rows, each a collection of Beam's.

    Attributes:
        whole: (bucket, stored `Sequences` after the split), with the fields of their users where these have files.
        steps: Names of the steps that led there, in order; no collection.
        vocabulary: One `ItemCounts`, in the order of the ids.
        items: The outputs of `side_tables.FirstItems`; None where the items have no files.
        learned_of_users: One dict, what the features of users taught; `no_features` where the users have no files.
        no_features: One empty dict.
    """

    whole: Any
    steps: list[str]
    vocabulary: Any
    items: Any
    learned_of_users: Any
    no_features: Any


class PrepareSequences(beam.PTransform):
    """The whole job, from nothing to a dataset folder.

    Args:
        plan: What to do.
        store: Where tables lie between two steps that Beam does not run as one.
    """

    def __init__(self, plan: Plan, store: Store | None = None):
        super().__init__()
        self._plan = plan
        self._store = store or Store()

    def expand(self, begin):
        """Build the graph: read rows, make sequences of them, write the files of these."""
        sources = self._read(begin)
        self._numeric = self._numeric_ids(begin, sources)
        counted = _Counted([source[TALLY] for source in sources.values()])
        made = self._sequences(begin, sources, counted)
        return self._files(begin, sources, made, counted)

    def _sequences(self, begin, sources: Mapping[str, Any], counted: _Counted) -> _Made:
        """All sequences with their records, and what belongs to them."""
        no_features = begin | "No features" >> beam.Create([{}])
        items = self._first_items(begin, sources["items"]["main"]) if "items" in sources else None
        whole, steps = self._filtered(sources["events"]["main"], items, counted)
        whole, vocabulary = self._split(whole, counted)
        if "users" not in sources:
            return _Made(whole, steps, vocabulary, items, no_features, no_features)
        whole, learned = self._with_users(whole, sources["users"]["main"], counted)
        return _Made(whole, steps, vocabulary, items, learned, no_features)

    def _files(self, begin, sources: Mapping[str, Any], made: _Made, counted: _Counted):
        """The files of a dataset folder, COMPLETED last."""
        plan = self._plan
        records = [self._sequence_files(made.whole, made.vocabulary, made.learned_of_users, counted)]
        learned_of_items = made.no_features
        if made.items is not None:
            files_of_items, learned_of_items = self._item_files(made.items["main"], made.vocabulary, counted)
            records.append(files_of_items)
        ranges = AsDict([source[LINES] for source in sources.values()] | "All lines" >> beam.Flatten())
        rejected_files = (
            [source[REJECTED] for source in sources.values()]
            | "All rejected" >> beam.Flatten()
            | "Rejected of a file" >> beam.ParDo(read_events.ByFile(plan.parts), ranges)
            | "Rejected by file" >> beam.GroupByKey()
            | "Write rejected"
            >> beam.ParDo(
                read_events.WriteRejected(f"{plan.output}/{schema_lib.REJECTED_FOLDER}", plan.parts),
                ranges,
            )
        )
        finish = write_dataset.Finish(
            output=plan.output,
            schema=plan.schema,
            steps=tuple(made.steps),
            options=plan.options.recorded(),
            num_files=plan.events.num_files,
            max_rejected=plan.options.max_rejected,
            tables=tuple(plan.tables),
            time_format=plan.events.time_format,
        )
        tally = counted.tallies | "All tallies" >> beam.Flatten() | "Sum tallies" >> beam.CombineGlobally(Tally.sum)
        odd_items = counted.items[0] | "Odd items" >> beam.MapTuple(_odd_items)
        by_step = counted.items | "All steps" >> beam.Flatten() | "Sizes" >> beam.MapTuple(_size)
        return (
            begin
            | "End" >> beam.Create([None])
            | "Finish"
            >> beam.Map(
                finish,
                AsSingleton(made.vocabulary),
                AsSingleton(learned_of_items),
                AsSingleton(made.learned_of_users),
                AsSingleton(tally),
                AsDict(by_step),
                AsList(odd_items),
                AsDict(records | "All files" >> beam.Flatten()),
                AsDict(rejected_files),
            )
        )

    def _read(self, begin) -> dict[str, Any]:
        """The outputs of the readers, of "events" and of the tables that there are."""
        plan, options = self._plan, self._plan.options
        readers: dict[str, tuple[Sequence[Range], read_events.ReadRange]] = {
            "events": (
                plan.events.parts,
                read_events.ReadEvents(
                    plan.events.text_format,
                    plan.events.columns,
                    self._store,
                    plan.num_buckets,
                    time_format=plan.events.time_format,
                    label_threshold=options.label_threshold,
                    max_events=options.max_events,
                    raw_ids=options.raw_ids,
                    where=plan.events.where,
                ),
            )
        }
        for name, table in plan.tables.items():
            num_buckets = plan.num_item_shards if name == "items" else plan.num_buckets
            kinds = [feature.kind for feature in table.features]
            reader = read_events.ReadTable(
                table.text_format,
                table.id_column,
                table.columns,
                self._store,
                num_buckets,
                kinds,
                raw_ids=options.raw_ids,
            )
            readers[name] = (table.parts, reader)
        return {name: begin | name.capitalize() >> _Read(*reader) for name, reader in readers.items()}

    def _numeric_ids(self, begin, sources: Mapping[str, Any]):
        """A side input: of which ids fractions are dropped. Only all files together tell."""
        if self._plan.options.raw_ids:
            return AsSingleton(begin | "No numeric ids" >> beam.Create([frozenset()]))
        return AsSingleton(
            [source[TALLY] for source in sources.values()]
            | "Tallies of ids" >> beam.Flatten()
            | "All ids" >> beam.CombineGlobally(Tally.sum)
            | "Numeric ids" >> beam.Map(normal_ids.fractions_to_drop)
        )

    def _filtered(self, events, items, counted: _Counted):
        """The sequences that are left, and the names of the steps that led there."""
        options = self._plan.options
        needs_positions = options.record_order == schema_lib.TIME_ORDER or bool(options.valid_sequences)
        order = steps_lib.Order(self._store, "parsed", max_events=options.max_events, keep_positions=needs_positions)
        whole = counted.with_items(events | "By bucket" >> beam.GroupByKey(), "Order", order, self._numeric)
        steps = ["parsed"]

        def apply(label: str, step: str, function, *side_inputs):
            nonlocal whole
            steps.append(step)
            whole = counted.with_items(whole, label, steps_lib.Apply(self._store, step, function), *side_inputs)

        if options.positive_only:
            apply("Positive only", "positive only", sequences.positive_only)
        if options.duplicates != schema_lib.KEEP_REPEATS:
            function = functools.partial(sequences.without_repeats, which=options.duplicates)
            apply("Duplicates", f"duplicates {options.duplicates}", function)
        if options.require_items or options.required_item_features:
            known = items[COMPLETE] | "Complete" >> beam.combiners.ToList() | "All complete" >> beam.Map(_joined)
            apply("Known items", "items with side information", sequences.of_items, AsSingleton(known))
        if options.min_item_events > 1 or options.min_user_events > 1:
            for number in range(1, options.filter_rounds + 1):
                rare = (
                    counted.items[-1]
                    | f"Counts {number}" >> beam.combiners.ToDict()
                    | f"Rare {number}" >> beam.Map(_rare_items, steps[-1], options.min_item_events)
                )
                function = functools.partial(sequences.filter_round, min_events=options.min_user_events)
                whole = self._laid_down(whole, f"Before filter {number}")
                step = f"filter round {number}" if options.filter_rounds > 1 else "filter"
                apply(f"Filter {number}", step, function, AsSingleton(rare))
        if options.max_length:
            function = functools.partial(sequences.newest, limit=options.max_length)
            apply("Cut", f"newest {options.max_length}", function)
        if options.hold_out_items:
            function = functools.partial(sequences.hold_out_items, share=options.hold_out_items)
            apply("Hold out", f"without {options.hold_out_items:g} of the items", function)
        return whole, steps

    def _split(self, whole, counted: _Counted):
        """The sequences with their records, and the vocabulary."""
        plan = self._plan
        boundary = self._boundary(whole)
        if boundary:
            whole = self._laid_down(whole, "Before split")
        split = steps_lib.Split(self._store, plan.splitter, has_time=bool(plan.events.time_format))
        whole = counted.with_items(whole, "Split", split, *boundary)
        vocabulary = (
            counted.items[-1]
            | "Gather vocabulary" >> beam.combiners.ToDict()
            | "Order vocabulary"
            >> beam.Map(write_dataset.order_vocabulary, keep_unseen=plan.options.unseen_items == "keep")
        )
        return self._laid_down(whole, "After split"), vocabulary

    def _boundary(self, whole) -> list[Any]:
        """The side input of `Split`, where its rule has one."""
        boundary = self._plan.splitter.boundary
        if boundary is None:
            return []
        of_all = (
            whole
            | "Boundary of each" >> beam.MapTuple(functools.partial(_of_bucket, function=boundary.of_bucket))
            | "Boundary of all" >> beam.CombineGlobally(boundary.of_all)
            | "Boundary" >> beam.Map(boundary.result)
        )
        return [AsSingleton(of_all)]

    def _with_users(self, whole, rows, counted: _Counted):
        """The sequences with the fields of their users, and what these teach."""
        features = self._plan.schema.user_features
        grouped = {"sequences": whole, "rows": rows} | "Users by bucket" >> beam.CoGroupByKey()
        join = side_tables.JoinUsers(self._store, features)
        joined = counted(grouped, "Join users", join, self._numeric, more=[LEARNED])
        learned = joined[LEARNED] | "Learn of users" >> beam.CombineGlobally(side_tables.LearnFeatures(features))
        return self._laid_down(joined["main"], "After join"), learned

    def _first_items(self, begin, rows):
        """Of each item the first row; its outputs are main and COMPLETE."""
        plan = self._plan
        every_bucket = begin | "Item buckets" >> beam.Create([(bucket, None) for bucket in range(plan.num_item_shards)])
        first = side_tables.FirstItems(self._store, plan.schema.item_features[1:], plan.options.required_item_features)
        return (
            (rows, every_bucket)
            | "Items and buckets" >> beam.Flatten()
            | "Items by bucket" >> beam.GroupByKey()
            | "First items" >> beam.ParDo(first, self._numeric).with_outputs(COMPLETE, main="main")
        )

    def _sequence_files(self, whole, vocabulary, learned_of_users, counted: _Counted):
        """What was written to the files of the splits, by their paths."""
        plan = self._plan
        number = write_dataset.NumberItems(self._store, plan.num_shards)
        write = write_dataset.WriteSequences(
            self._store,
            plan.schema,
            RecordFiles(plan.output, plan.num_shards),
            units_per_second=plan.units_per_second,
            is_by_time=plan.options.record_order == schema_lib.TIME_ORDER,
        )
        by_shard = (
            counted(whole, "Number items", number, AsSingleton(vocabulary)) | "Sequences by shard" >> beam.GroupByKey()
        )
        return counted(by_shard, "Write sequences", write, AsSingleton(learned_of_users))

    def _item_files(self, items, vocabulary, counted: _Counted):
        """What was written to the files of the items' side features, by their paths, and what the items teach."""
        plan = self._plan
        features, num_shards = plan.schema.item_features, plan.num_item_shards
        match = side_tables.MatchItems(self._store, features[1:], num_shards)
        matched = counted(items, "Match items", match, AsSingleton(vocabulary), more=[LEARNED])
        learned = matched[LEARNED] | "Learn of items" >> beam.CombineGlobally(side_tables.LearnFeatures(features[1:]))
        write = side_tables.WriteItems(self._store, features, RecordFiles(plan.output, num_shards))
        files = (
            matched["main"]
            | "Items by shard" >> beam.GroupByKey()
            | "Write items" >> beam.ParDo(write, AsSingleton(learned))
        )
        return files, learned

    def _laid_down(self, whole, label: str):
        """The tables where they wait for a side input: a runner would hold them in its memory."""
        return whole | label >> beam.MapTuple(functools.partial(_put, store=self._store))


class _Read(beam.PTransform):
    def __init__(self, parts: Sequence[Range], reader: read_events.ReadRange):
        super().__init__()
        self._parts = parts
        self._reader = reader

    def expand(self, begin):
        return (
            begin
            | "Ranges" >> beam.Create(self._parts)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(self._reader).with_outputs(TALLY, REJECTED, LINES, main="main")
        )


def _put(bucket: int, table: Sequences, store: Store) -> tuple[int, Stored]:
    return bucket, store.put(table)


def _of_bucket(bucket: int, whole: Sequences, function: Callable[[Sequences], Any]) -> Any:
    return function(whole)


def _size(step: str, counts: ItemCounts) -> tuple[str, tuple[int, int]]:
    return step, (counts.num_items, counts.num_events)


def _odd_items(step: str, counts: ItemCounts) -> dict[str, int]:
    return oddities.odd_items(counts)


def _joined(arrays: Sequence[pa.StringArray]) -> pa.StringArray:
    return pa.concat_arrays([pa.array([], pa.string()), *arrays])


def _rare_items(steps: Mapping[str, ItemCounts], step: str, least: int) -> pa.StringArray:
    counts = steps.get(step, ItemCounts.sum([]))
    return counts.items.filter(pa.array(counts.counts < least))

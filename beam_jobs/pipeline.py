"""The Beam graph of `seqrec prepare`, and the checked plan that it is built from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.pvalue import AsDict, AsList, AsSingleton

from beam_jobs import inputs, parsing, read_events, sequences, write_dataset
from beam_jobs.inputs import EventsInput, TableInput
from beam_jobs.options import Options, check_options
from beam_jobs.read_events import COUNTS, ITEMS, LINES, REJECTED
from seqrec_tf import features as features_lib
from seqrec_tf import schema as schema_lib
from seqrec_tf.schema import Schema

_SECONDS_A_DAY = 86_400
# One shard for so much plain input: enough files to shuffle by, none of them tiny.
_SHARD_BYTES = 64 << 20
# Ranges of the items files whose items go to one file.
_PARTS_A_SHARD = 4


@dataclasses.dataclass(frozen=True)
class Plan:
    """A job whose options have been checked against its input."""

    options: Options
    events: EventsInput
    tables: dict[str, TableInput]  # of "items" and "users", those that there are
    splitter: sequences.Splitter
    schema: Schema
    num_shards: int
    output: str

    @property
    def parts(self) -> tuple[read_events.Range, ...]:
        """All ranges."""
        return sum((table.parts for table in self.tables.values()), self.events.parts)

    @property
    def units_per_second(self) -> int:
        """Of the events' times; 1 where they are just an order."""
        return parsing.UNITS_PER_SECOND.get(self.events.time_format, 1)


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
        if getattr(options, f"{one}s"):
            number = len(events.parts) + sum(len(table.parts) for table in tables.values())
            tables[f"{one}s"] = inputs.inspect_table(options, one, first_number=number)
    features = [schema_lib.ITEM_IDS_FEATURE, schema_lib.TARGET_START_FEATURE]
    for column, feature in (
        (events.time_format or None, schema_lib.TIMESTAMPS_FEATURE),
        (events.columns.label, schema_lib.LABELS_FEATURE),
        (events.columns.weight, schema_lib.WEIGHTS_FEATURE),
        (events.columns.user, schema_lib.USER_ID_FEATURE),
        (events.columns.session, schema_lib.SESSION_ID_FEATURE),
    ):
        if column is not None:
            features.append(feature)
    time_unit = {"": "", "order": "order"}.get(events.time_format, "seconds")
    return Plan(
        options=options,
        events=events,
        tables=tables,
        splitter=_splitter(options, events),
        schema=Schema(
            num_items=0,
            features=tuple(features),
            item_features=(schema_lib.ITEM_ID_FEATURE, *tables["items"].features) if "items" in tables else (),
            user_features=tables["users"].features if "users" in tables else (),
            time_unit=time_unit,
        ),
        num_shards=options.num_shards or -(-events.num_bytes // _SHARD_BYTES) or 1,
        output=output,
    )


def _splitter(options: Options, events: EventsInput) -> sequences.Splitter:
    if options.split == "leave-one-out":
        return sequences.LeaveOneOut(options.valid_share)
    if options.split == "files":
        return sequences.ByFile()
    if not events.time_format:
        raise ValueError(f"--split {options.split} needs a --time-column.")
    if options.split == "last-days":
        if events.time_format == "order":
            raise ValueError("--split last-days needs times, and the time column only holds an order.")
        day = _SECONDS_A_DAY * parsing.UNITS_PER_SECOND[events.time_format]
        return sequences.LastDays(valid=options.valid_days * day, test=options.test_days * day)
    test_from = _moment(options.test_from, "--test-from", events.time_format)
    valid_from = _moment(options.valid_from, "--valid-from", events.time_format) if options.valid_from else test_from
    if valid_from > test_from:
        raise ValueError(f"--valid-from {options.valid_from} must not be later than --test-from {options.test_from}.")
    return sequences.ByTime(valid_from, test_from)


def _moment(text: str, option: str, time_format: str) -> float:
    """A moment in the unit of the events: a number is in that unit already, ISO 8601 is UTC."""
    try:
        moment = parsing.parse_number(text) if time_format != "iso" else parsing.parse_iso(text)
    except ValueError:
        pass
    else:
        if time_format in ("s", "ms", "us", "ns") and moment < 1e8 * parsing.UNITS_PER_SECOND[time_format]:
            raise ValueError(
                f"{option} {text} would be in 1973 or before, as the times are in {time_format}; write a day as "
                "ISO 8601, such as 2024-05-01."
            )
        return moment
    try:
        microseconds = parsing.parse_iso(text)
    except ValueError:
        raise ValueError(
            f"{option} must be a number or ISO 8601 (2024-05-01 or 2024-05-01T12:00), got {text!r}."
        ) from None
    if time_format == "order":
        raise ValueError(f"{option} must be a number as in the time column, which only holds an order, got {text!r}.")
    return microseconds * parsing.UNITS_PER_SECOND[time_format] / 1_000_000


class _Counted:
    """Applies steps that count, and keeps what they count.

    Attributes:
        counts: A collection a step, of what it counted.
        items: A collection a step that counts items, of ((step, item), events).
    """

    def __init__(self, counts: list[Any]):
        self.counts = counts
        self.items: list[Any] = []

    def __call__(self, stage, label: str, step: read_events.Counting, *side_inputs, has_items: bool = True):
        """What a step makes of a stage."""
        outputs = stage | label >> beam.ParDo(step, *side_inputs).with_outputs(COUNTS, ITEMS, main="main")
        self.counts.append(outputs[COUNTS])
        if has_items:
            self.items.append(outputs[ITEMS] | f"Items of {label.lower()}" >> beam.CombinePerKey(sum))
        return outputs["main"]


class PrepareSequences(beam.PTransform):
    """The whole job, from nothing to a dataset folder.

    Args:
        plan: What to do.
    """

    def __init__(self, plan: Plan):
        super().__init__()
        self._plan = plan

    def expand(self, begin):
        """Build the graph."""
        plan, options = self._plan, self._plan.options
        reader = read_events.ReadEvents(
            plan.events.text_format,
            plan.events.columns,
            time_format=plan.events.time_format,
            label_threshold=options.label_threshold,
        )
        read = begin | "Events" >> _Read(plan.events.parts, reader)
        counted = _Counted([read[COUNTS]])
        rejected, lines = [read[REJECTED]], [read[LINES]]
        rows = {}
        learned = dict.fromkeys(("items", "users"), begin | "No features" >> beam.Create([{}]))
        for name, table in plan.tables.items():
            kinds = [feature.kind for feature in table.features]
            table_reader = read_events.ReadTable(table.text_format, table.id_column, table.columns, kinds)
            read_table = begin | name.capitalize() >> _Read(table.parts, table_reader)
            counted.counts.append(read_table[COUNTS])
            rejected.append(read_table[REJECTED])
            lines.append(read_table[LINES])
            rows[name] = read_table["main"]

        whole, steps = self._filtered(read["main"], rows, counted)
        split = sequences.Split(plan.splitter, has_time=bool(plan.events.time_format))
        whole = counted(whole, "Split", split, *self._boundary(whole))
        vocabulary = (
            counted.items[-1]
            | "Train and all" >> beam.FlatMap(_vocabulary_counts, keep_unseen=options.unseen_items == "keep")
            | "By item" >> beam.CombinePerKey(sum)
            | "Gather vocabulary" >> beam.combiners.ToList()
            | "Order vocabulary" >> beam.Map(write_dataset.order_vocabulary)
        )
        num_users = (
            whole
            | "Training users" >> beam.FlatMap(_training_user)
            | "Distinct users" >> beam.Distinct()
            | "Count users" >> beam.combiners.Count.Globally()
        )
        if "users" in rows:
            whole, learned["users"] = self._with_users(whole, rows["users"], counted)
        encode = write_dataset.EncodeSequences(
            plan.schema,
            num_shards=plan.num_shards,
            units_per_second=plan.units_per_second,
            is_by_time=plan.options.record_order == "time",
        )
        ids = AsSingleton(vocabulary | "Ids" >> beam.Map(write_dataset.ids_of))
        encoded = counted(whole, "Encode", encode, ids, AsSingleton(learned["users"]), has_items=False)
        digests = [self._write(encoded, "Sequences", plan.num_shards)]
        if "items" in rows:
            files_of_items, learned["items"] = self._items(vocabulary, rows["items"], counted)
            digests.append(files_of_items)

        rejected_files = (
            rejected
            | "All rejected" >> beam.Flatten()
            | "Rejected by range" >> beam.GroupByKey()
            | "Write rejected"
            >> beam.ParDo(
                read_events.WriteRejected(f"{plan.output}/{schema_lib.REJECTED_FOLDER}", plan.parts),
                AsDict(lines | "All lines" >> beam.Flatten()),
            )
        )
        totals = counted.counts | "All counts" >> beam.Flatten() | "Sum counts" >> beam.CombinePerKey(sum)
        by_step = (
            counted.items
            | "All steps" >> beam.Flatten()
            | "One item" >> beam.Map(_one_item)
            | "Sum steps" >> beam.CombinePerKey(beam.combiners.TupleCombineFn(sum, sum))
        )
        finish = write_dataset.Finish(
            output=plan.output,
            schema=plan.schema,
            steps=tuple(steps),
            options=options.recorded(),
            num_files=plan.events.num_files,
            max_rejected=options.max_rejected,
            tables=tuple(plan.tables),
        )
        return (
            begin
            | "End" >> beam.Create([None])
            | "Finish"
            >> beam.Map(
                finish,
                AsSingleton(vocabulary),
                AsSingleton(num_users),
                AsSingleton(learned["items"]),
                AsSingleton(learned["users"]),
                AsDict(totals),
                AsDict(by_step),
                AsDict(digests | "All files" >> beam.Flatten()),
                AsList(rejected_files),
            )
        )

    def _filtered(self, events, rows, counted: _Counted):
        """The sequences that are left, and the names of the steps that led there."""
        plan, options = self._plan, self._plan.options
        required = options.required_item_features
        clean = sequences.Clean(
            positive_only=options.positive_only,
            duplicates=options.duplicates,
            require_items=options.require_items or bool(required),
        )
        known_items = []
        if options.require_items or required:
            names = [feature.name for feature in plan.tables["items"].features]
            required_kinds = {place: plan.tables["items"].features[place].kind for place in map(names.index, required)}
            first_rows = rows["items"] | "First rows" >> beam.CombinePerKey(min)
            complete = first_rows | "Complete" >> beam.Filter(_has_fields, required_kinds)
            known_items = [AsSingleton(_as_set(complete | beam.Keys(), "Known"))]
        whole = events | "Order" >> beam.CombinePerKey(sequences.NewestEvents(options.max_events))
        whole = counted(whole, "Clean", clean, *known_items)
        steps = list(clean.steps)
        if options.min_item_events > 1 or options.min_user_events > 1:
            for number in range(1, options.filter_rounds + 1):
                rare = counted.items[-1] | f"Rare {number}" >> beam.FlatMap(
                    _rare_items, steps[-1], options.min_item_events
                )
                steps.append(f"filter round {number}" if options.filter_rounds > 1 else "filter")
                filter_round = sequences.FilterRound(steps[-1], options.min_user_events)
                rare_set = AsSingleton(_as_set(rare, f"Rare set {number}"))
                whole = counted(whole, f"Filter {number}", filter_round, rare_set)
        if options.max_length:
            steps.append(f"newest {options.max_length}")
            whole = counted(whole, "Cut", sequences.KeepNewest(steps[-1], options.max_length))
        if options.hold_out_items:
            steps.append(f"without {options.hold_out_items:g} of the items")
            whole = counted(whole, "Hold out", sequences.HoldOutItems(steps[-1], options.hold_out_items))
        return whole, steps

    def _with_users(self, whole, rows, counted: _Counted):
        """The sequences with the fields of their users, and what these teach."""
        # Not CoGroupByKey, which would hold all sessions of a user at once.
        of_user = (
            (
                whole | "By user" >> beam.Map(lambda element: (element[0][1], (None, element))),
                rows | "Rows of users" >> beam.MapTuple(lambda user, row: (user, (row, None))),
            )
            | "Sessions and rows" >> beam.Flatten()
            | "Group users" >> beam.GroupByKey()
        )
        features = self._plan.schema.user_features
        learned = (
            of_user
            | "Training users' rows" >> beam.FlatMap(write_dataset.training_user_fields)
            | "Learn of users" >> beam.CombineGlobally(write_dataset.LearnFeatures(features))
        )
        join = write_dataset.JoinUsers(len(features))
        return counted(of_user, "Join users", join, has_items=False), learned

    def _items(self, vocabulary, rows, counted: _Counted):
        """The files of the items' side features, by digest, and what the items teach."""
        grouped = {
            "id": vocabulary | "Items to ids" >> beam.FlatMap(_ids_and_counts),
            "rows": rows,
        } | "Join items" >> beam.CoGroupByKey()
        features = self._plan.schema.item_features
        learned = (
            grouped
            | "Training items" >> beam.FlatMap(write_dataset.training_fields)
            | "Learn features" >> beam.CombineGlobally(write_dataset.LearnFeatures(features[1:]))
        )
        num_shards = -(-len(self._plan.tables["items"].parts) // _PARTS_A_SHARD)
        encode = write_dataset.EncodeItems(features, num_shards)
        num_items = AsSingleton(vocabulary | "Number of items" >> beam.Map(len))
        encoded = counted(grouped, "Encode items", encode, AsSingleton(learned), num_items, has_items=False)
        return self._write(encoded, "Items", num_shards), learned

    def _boundary(self, stage) -> list[Any]:
        """The side input of `Split`, where its rule has one."""
        options = self._plan.options
        if options.split == "last-days":
            newest = (
                stage
                | "Last time" >> beam.Map(lambda element: element[1][-1][parsing.TIME])
                | "Newest time" >> beam.CombineGlobally(_largest)
            )
            return [AsSingleton(newest)]
        if options.split == "files" and options.valid_sequences:
            smallest = (
                stage
                | "Training only" >> beam.Filter(lambda element: element[0][0] == "train")
                | "First position" >> beam.Map(lambda element: element[1][0][parsing.POSITION])
                | "Last sequences" >> beam.combiners.Top.Largest(options.valid_sequences)
                | "First of them" >> beam.Map(lambda positions: min(positions, default=None))
            )
            return [AsSingleton(smallest)]
        return []

    def _write(self, encoded, label: str, num_shards: int):
        return (
            encoded
            | f"{label} by shard" >> beam.GroupByKey()
            | f"Write {label.lower()}" >> beam.ParDo(write_dataset.WriteShard(self._plan.output, num_shards))
        )


class _Read(beam.PTransform):
    def __init__(self, parts: Sequence[read_events.Range], reader: read_events.ReadRange):
        super().__init__()
        self._parts = parts
        self._reader = reader

    def expand(self, begin):
        return (
            begin
            | "Ranges" >> beam.Create(self._parts)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(self._reader).with_outputs(COUNTS, ITEMS, REJECTED, LINES, main="main")
        )


def _as_set(items, label: str):
    return items | label >> beam.combiners.ToSet()


def _has_fields(row: tuple[str, tuple[int, list[str]]], kinds: Mapping[int, str]) -> bool:
    _, (_, fields) = row
    return all(features_lib.parse(kind, fields[place]) not in (None, []) for place, kind in kinds.items())


def _rare_items(element: tuple[tuple[str, str], int], step: str, least: int):
    (of_step, item), number = element
    if of_step == step and number < least:
        yield item


def _vocabulary_counts(element: tuple[tuple[str, str], int], *, keep_unseen: bool):
    (step, item), number = element
    if step == "train":
        yield item, number
    elif keep_unseen:
        yield item, 0


def _ids_and_counts(vocabulary: list[tuple[str, int]]):
    """(item, (id, training events))."""
    ids = write_dataset.ids_of(vocabulary)
    for item, count in vocabulary:
        yield item, (ids[item], count)


def _training_user(element):
    """The user of a sequence that has a training record, where sequences say whose they are."""
    (_, user, _), _, cuts = element
    if user and any(split == "train" for split, _, _ in cuts):
        yield user


def _one_item(element: tuple[tuple[str, str], int]) -> tuple[str, tuple[int, int]]:
    (step, _), number = element
    return step, (1, number)


def _largest(times) -> float | None:
    return max((time for time in times if time is not None), default=None)

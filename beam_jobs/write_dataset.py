"""Sequences to the files of a dataset folder; `COMPLETED` comes last."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam

import seqrec_tf
from beam_jobs import storage
from beam_jobs.parsing import ITEM, LABEL, POSITION, TIME, WEIGHT, Event, Key
from beam_jobs.read_events import Counting
from beam_jobs.sequences import Cut
from seqrec_tf import features, records
from seqrec_tf import schema as schema_lib
from seqrec_tf.schema import Feature, Schema

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def order_vocabulary(items: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """(item, training events) in the order of the ids: frequent first, ties by the string."""
    return sorted(items, key=lambda item: (-item[1], item[0]))


def ids_of(vocabulary: Sequence[tuple[str, int]]) -> dict[str, int]:
    """Item to id; 0 is padding."""
    return {item: number for number, (item, _) in enumerate(vocabulary, start=1)}


class EncodeSequences(Counting):
    """(key, events, cuts) to ((split, shard), (order in the shard, Example)).

    Where users have features, an element is (key, events, cuts, the user's fields).

    Records lie in the order of a hash of their key, so that a file read from its beginning is in random order already;
    or in that of their newest events.

    Args:
        schema: What a record holds.
        num_shards: Files of a split.
        units_per_second: Of the events' times.
        is_by_time: Whether records lie in the order of time.
    """

    def __init__(self, schema: Schema, *, num_shards: int, units_per_second: int, is_by_time: bool = False):
        self._features = schema.record_features
        self._user_features = schema.user_features
        self._names = {feature.name for feature in self._features}
        self._encode_user: features.Encoder | None = None
        self._num_shards = num_shards
        self._units_per_second = units_per_second
        self._is_by_time = is_by_time

    def process(
        self, element, ids: Mapping[str, int], learned: dict[str, dict[str, Any]]
    ) -> Iterator[tuple[tuple[str, int], tuple[bytes, bytes]]]:
        """Encode the records of one sequence; `learned` is of the users' features."""
        key, events, cuts, *fields = element
        user: dict[str, Any] = {}
        if fields:
            self._encode_user = self._encode_user or features.Encoder(self._user_features, learned)
            user = self._encode_user(fields[0])
        order = hashlib.blake2b("\x1f".join(key).encode(), digest_size=16).digest()
        shard = int.from_bytes(order[:8], "big") % self._num_shards
        # Which events are of a known item is the same for every cut: all of them unless unseen items are dropped.
        known = [event for event in events if event[ITEM] in ids]
        values = self._event_values(known, ids)
        for split, end, start in cuts:
            if len(known) < len(events):
                dropped = sum(event[ITEM] not in ids for event in events[start:end])
                start, end = (sum(event[ITEM] in ids for event in events[:place]) for place in (start, end))
                start = max(start, 1)
                self.counts["dropped_targets", split] += dropped
                if end <= start:
                    self.counts["dropped_sequences", split] += 1
                    continue
            record = {name: column[:end] for name, column in values.items()}
            record |= user
            record[schema_lib.TARGET_START] = start
            if schema_lib.USER_ID in self._names:
                record[schema_lib.USER_ID] = key[1]
            if schema_lib.SESSION_ID in self._names:
                record[schema_lib.SESSION_ID] = key[2]
            self.counts["length", split, end] += 1
            self.counts["targets", split] += end - start
            place = _moment(known[end - 1]) if self._is_by_time else order
            yield (split, shard), (place, records.encode_example(record, self._features))

    def _event_values(self, events: Sequence[Event], ids: Mapping[str, int]) -> dict[str, Any]:
        values: dict[str, Any] = {schema_lib.ITEM_IDS: [ids[event[ITEM]] for event in events]}
        if schema_lib.TIMESTAMPS in self._names:
            values[schema_lib.TIMESTAMPS] = [math.floor(event[TIME]) // self._units_per_second for event in events]
        if schema_lib.LABELS in self._names:
            values[schema_lib.LABELS] = [event[LABEL] for event in events]
        if schema_lib.WEIGHTS in self._names:
            values[schema_lib.WEIGHTS] = [event[WEIGHT] for event in events]
        return values


def _moment(event: Event) -> bytes:
    """Sorts as the event's time does, equal times in the order of the input."""
    return struct.pack(">Q", math.floor(event[TIME]) + 2**63) + event[POSITION].to_bytes(16, "big")


def training_fields(element) -> Iterator[list[str]]:
    """The fields of an item that has training events; `element` as in `EncodeItems`."""
    _, grouped = element
    if grouped["rows"] and any(count for _, count in grouped["id"]):
        yield min(grouped["rows"])[1]


def training_user_fields(element) -> Iterator[list[str]]:
    """The fields of a user who has training records; `element` as in `JoinUsers`."""
    _, values = element
    rows = [row for row, _ in values if row]
    if rows and any(split == "train" for _, sequence in values if sequence for split, _, _ in sequence[2]):
        yield min(rows)[1]


class JoinUsers(Counting):
    """Sequences of a user to the same, each with the user's fields: (key, events, cuts, fields).

    An element is (user, values): of each row (position, fields) beside None, of each sequence None beside (key, events,
    cuts). The values are gone through again and again, and never held.

    Args:
        num_fields: Columns beside the id.
    """

    def __init__(self, num_fields: int):
        self._num_fields = num_fields

    def process(self, element) -> Iterator[tuple[Key, list[Event], list[Cut], list[str]]]:
        """Join one user."""
        _, values = element
        rows = [row for row, _ in values if row]
        fields = self.fields_of("users", rows, self._num_fields, any(sequence for _, sequence in values))
        for _, sequence in values:
            if sequence:
                yield *sequence, fields


class LearnFeatures(beam.CombineFn):
    """Fields of items or users to what was learned of each feature, by its name.

    Args:
        of: The features, in the order of the fields.
    """

    def __init__(self, of: Sequence[Feature]):
        self._features = tuple(of)

    def create_accumulator(self) -> list[features.Learner]:
        """Nothing learned yet."""
        return [features.Learner(feature.kind) for feature in self._features]

    def add_input(self, learners: list[features.Learner], fields: Sequence[str]) -> list[features.Learner]:
        """Learn from one row."""
        for learner, field in zip(learners, fields, strict=True):
            learner.add(field)
        return learners

    def merge_accumulators(self, parts: Iterable[list[features.Learner]]) -> list[features.Learner]:
        """Learn what all have learned."""
        merged = self.create_accumulator()
        for learners in parts:
            for learner, other in zip(merged, learners, strict=True):
                learner.merge(other)
        return merged

    def extract_output(self, learners: list[features.Learner]) -> dict[str, dict[str, Any]]:
        """What the encoder needs."""
        return {feature.name: learner.result() for feature, learner in zip(self._features, learners, strict=True)}


class EncodeItems(Counting):
    """Items to ((items folder, shard), (order, Example)).

    An element is (item, {"id": [(id, training events)], "rows": [(position, fields), ...]}).

    Args:
        item_features: The item's id, then its other columns.
        num_shards: Files, each with a run of ids.
    """

    def __init__(self, item_features: Sequence[Feature], num_shards: int):
        self._features = tuple(item_features)
        self._num_shards = num_shards
        self._encode: features.Encoder | None = None

    def process(
        self, element, learned: dict[str, dict[str, Any]], num_items: int
    ) -> Iterator[tuple[tuple[str, int], tuple[bytes, bytes]]]:
        """Encode one item; `num_items` is how many ids there are."""
        item, grouped = element
        ids = list(grouped["id"])
        self._encode = self._encode or features.Encoder(self._features[1:], learned)
        fields = self.fields_of("items", grouped["rows"], len(self._features) - 1, bool(ids))
        if not ids:
            return
        record = {self._features[0].name: item, **self._encode(fields)}
        number, _ = ids[0]
        order = number.to_bytes(8, "big")
        shard = (number - 1) * self._num_shards // num_items
        yield (schema_lib.ITEMS_FOLDER, shard), (order, records.encode_example(record, self._features))


class WriteShard(beam.DoFn):
    """((folder, shard), (order, Example) pairs) to a TFRecord file; gives (path in the dataset, digest).

    Args:
        output: The dataset folder.
        num_shards: Files of a folder. A shard without records has no file.
    """

    def __init__(self, output: str, num_shards: int):
        self._output = output
        self._num_shards = num_shards

    def process(self, element) -> Iterator[tuple[str, str]]:
        """Write one file."""
        (folder, shard), pairs = element
        examples = [example for _, example in sorted(pairs)]
        name = f"{folder}/{records.shard_name(shard, self._num_shards)}"
        storage.write_records(f"{self._output}/{name}", examples)
        digest = hashlib.sha256()
        for example in examples:
            digest.update(len(example).to_bytes(8, "big") + example)
        yield name, digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class Finish:
    """Write vocabularies, schema, stats and, unless too many lines were rejected, COMPLETED.

    A callable for `beam.Map`, its arguments after the first being side inputs.

    Attributes:
        output: The dataset folder.
        schema: Without what only the data can tell.
        steps: Names of the steps in order.
        options: What `stats.json` repeats of the command.
        num_files: Input files.
        max_rejected: Largest share of lines that may be rejected.
        tables: Which of items and users have files.
    """

    output: str
    schema: Schema
    steps: tuple[str, ...]
    options: dict[str, Any]
    num_files: int
    max_rejected: float
    tables: tuple[str, ...]

    def __call__(
        self,
        _: Any,
        vocabulary: list[tuple[str, int]],
        num_users: int,
        learned: dict[str, dict[str, Any]],
        learned_of_users: dict[str, dict[str, Any]],
        counts: dict[tuple, int],
        step_items: dict[str, tuple[int, int]],
        digests: dict[str, str],
        rejected_files: list[str],
    ) -> None:
        """Write the files; the arguments are what the job has counted."""
        lengths: dict[str, collections.Counter[int]] = collections.defaultdict(collections.Counter)
        for name, number in counts.items():
            if name[0] == "length":
                lengths[name[1]][name[2]] += number
        schema = dataclasses.replace(
            self.schema,
            num_items=len(vocabulary),
            num_users=num_users,
            item_features=features.with_sizes(self.schema.item_features, learned),
            user_features=features.with_sizes(self.schema.user_features, learned_of_users),
            max_len=max((length for counter in lengths.values() for length in counter), default=0),
        )
        vocabulary_text = "".join(f"{item}\n" for item, _ in vocabulary)
        counts_text = "".join(f"{number}\n" for _, number in vocabulary)
        stats = self._stats(vocabulary, counts, step_items, lengths)
        stats["fingerprint"] = hashlib.sha256(
            json.dumps(
                [schema.to_dict(), vocabulary_text, counts_text, learned, learned_of_users, sorted(digests.items())]
            ).encode()
        ).hexdigest()
        for file, text in (
            (schema_lib.ITEM_VOCABULARY_FILE, vocabulary_text),
            (schema_lib.ITEM_COUNTS_FILE, counts_text),
            *(
                (file, json.dumps(what, indent=1) + "\n")
                for file, what in (
                    (schema_lib.FEATURES_FILE, learned),
                    (schema_lib.USER_FEATURES_FILE, learned_of_users),
                )
                if what
            ),
            (schema_lib.SCHEMA_FILE, schema.to_json()),
            (schema_lib.STATS_FILE, json.dumps(stats, indent=2, ensure_ascii=False) + "\n"),
        ):
            storage.write_text(f"{self.output}/{file}", text)
        if not failures(stats) and not emptiness(stats):
            storage.write_text(f"{self.output}/{schema_lib.COMPLETED_FILE}", "")

    def _stats(
        self,
        vocabulary: Sequence[tuple[str, int]],
        counts: dict[tuple, int],
        step_items: dict[str, tuple[int, int]],
        lengths: dict[str, collections.Counter[int]],
    ) -> dict[str, Any]:
        def count(*name) -> int:
            return counts.get(name, 0)

        def by_split(name) -> dict[str, int]:
            return {split: count(name, split) for split in ("valid", "test")}

        def rejected(kind) -> dict[str, Any]:
            reasons = {name[2]: number for name, number in counts.items() if name[:2] == ("rejected", kind)}
            return {
                "lines": count("lines", kind),
                "rejected": sum(reasons.values()),
                "rejected_by_reason": dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))),
            }

        items = {
            "vocabulary": len(vocabulary),
            "without_training_events": sum(number == 0 for _, number in vocabulary),
            "dropped_as_unseen": step_items.get("all", (0, 0))[0] - len(vocabulary),
        }
        described = {
            table: {
                "without_side_information": count(table, "without_side_information"),
                f"in_{table}_file_without_events": count(table, "without_events"),
                f"duplicates_in_{table}_file": count(table, "duplicates"),
                f"conflicting_in_{table}_file": count(table, "conflicts"),
            }
            for table in self.tables
        }
        return {
            "made_by": {"seqrec_tf": seqrec_tf.__version__, "apache_beam": beam.__version__},
            "options": self.options,
            "input": {
                "files": self.num_files,
                "events": count("events"),
                "events_beyond_the_newest": count("too_old"),
                **rejected("events"),
                **{f"{table}_file": rejected(table) for table in self.tables},
            },
            "steps": [
                {
                    "step": step,
                    "users": count("users", step),
                    **dict(zip(("items", "events"), step_items.get(step, (0, 0)), strict=True)),
                }
                for step in self.steps
            ],
            "ties": {
                "events_sharing_a_time_with_a_neighbour": count("events_with_ties"),
                "sequences_with_ties": count("sequences_with_ties"),
                "targets_with_ties": by_split("targets_with_ties"),
            },
            "repeats": {
                "repeated_events": count("repeated_events"),
                "consecutive_repeats": count("consecutive_repeats"),
                "targets_repeating_history": by_split("targets_repeating_history"),
            },
            "splits": {
                split: {
                    "sequences": lengths[split].total(),
                    "events": sum(length * number for length, number in lengths[split].items()),
                    "targets": count("targets", split),
                    "dropped_sequences": count("dropped_sequences", split),
                    "dropped_targets": count("dropped_targets", split),
                    "length": describe_lengths(lengths[split]),
                }
                for split in schema_lib.SPLITS
            },
            "training_sequences_of_one_event": count("train_without_target"),
            "items": items | described.get("items", {}),
            **({"users": described["users"]} if "users" in described else {}),
        }


def failures(stats: Mapping[str, Any]) -> list[str]:
    """Why a dataset with these stats must not be used, a sentence each; empty where it may."""
    max_rejected = stats["options"]["max_rejected"]
    sentences = []
    of_input = stats["input"]
    for what, part in (("input", of_input), *((one, of_input.get(f"{one}_file")) for one in ("items", "users"))):
        if part and part["rejected"] > max_rejected * part["lines"]:
            reasons = ", ".join(f"{number:,} {reason}" for reason, number in part["rejected_by_reason"].items())
            sentences.append(
                f"{part['rejected']:,} of {part['lines']:,} lines of the {what} files "
                f"({part['rejected'] / part['lines']:.1%}) were rejected, more than --max-rejected {max_rejected:g} "
                f"allows: {reasons}."
            )
    return sentences


def emptiness(stats: Mapping[str, Any]) -> str:
    """Where the training sequences have gone, if none is left; empty where some are."""
    if stats["splits"]["train"]["sequences"]:
        return ""
    left = "; ".join(
        f"{step['step']}: {step['users']:,} sequences, {step['events']:,} events" for step in stats["steps"]
    )
    return f"No training sequence with a target is left. After each step: {left}."


def describe_lengths(lengths: collections.Counter[int]) -> dict[str, float]:
    """Exact quantiles (the smallest length that so many sequences do not exceed), mean and ends."""
    total = lengths.total()
    if not total:
        return {}
    ordered = sorted(lengths.items())
    result: dict[str, float] = {"min": ordered[0][0]}
    seen, quantiles = 0, list(QUANTILES)
    for length, number in ordered:
        seen += number
        while quantiles and seen >= quantiles[0] * total:
            result[f"p{quantiles.pop(0) * 100:.0f}"] = length
    return result | {
        "max": ordered[-1][0],
        "mean": round(sum(length * number for length, number in ordered) / total, 3),
    }

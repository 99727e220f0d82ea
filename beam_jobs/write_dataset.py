"""Sequences to the files of a dataset folder; `COMPLETED`, which names them all, comes last."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import seqrec_tf
from beam_jobs import examples, joins, normal_ids, oddities, side_tables, storage
from beam_jobs.counting import WRITING, Counting, Tally, timed
from beam_jobs.progress import WRITTEN
from beam_jobs.storage import RecordFiles, Written
from beam_jobs.store import Store, Stored
from beam_jobs.tables import FRACTION, LABEL, POSITION, TIME, ItemCounts, Sequences
from seqrec_tf import features, manifest
from seqrec_tf import schema as schema_lib
from seqrec_tf.schema import Schema

_LOGGER = logging.getLogger(__name__)

# Where the values of a record's features are.
_COLUMN_OF = {schema_lib.TIMESTAMPS: TIME, schema_lib.LABELS: LABEL}
# What may read lines that were rejected for a reason.
_HINTS = {
    "quotes do not match": "Give {0}multiline yes if fields hold line breaks, {0}no-quotes if quotes are letters.",
    "broken encoding": "If the files are in another encoding, name it, such as {0}encoding cp1252.",
}
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def order_vocabulary(steps: Mapping[str, ItemCounts], *, keep_unseen: bool) -> ItemCounts:
    """Items with their training events, in the order of the ids: frequent first, ties by the string.

    Args:
        steps: What `sequences` counted of "all" records and of those of "train".
        keep_unseen: Whether items without training events are among them.
    """
    trained = steps.get("train", ItemCounts.sum([]))
    counts = trained
    if keep_unseen:
        items = steps.get("all", trained).items
        places = pc.index_in(items, trained.items).fill_null(-1).to_numpy()
        counts = ItemCounts(items, np.append(trained.counts, 0)[places])  # 0 where an item has no place there
    table = pa.table({"item": counts.items, "count": counts.counts})
    table = table.sort_by([("count", "descending"), ("item", "ascending")]).combine_chunks()
    return ItemCounts(table["item"].chunk(0) if len(table) else counts.items, table["count"].to_numpy())


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Sequences whose items are ids of the vocabulary, with what says where their records go.

    Attributes:
        sequences: After the split.
        hashes: uint64 [S, 2], of each sequence's key.
    """

    sequences: Sequences
    hashes: np.ndarray


class NumberItems(Counting):
    """(bucket, stored `Sequences` after the split) to (shard, stored `Numbered`).

    Args:
        store: Where tables are.
        num_shards: Files of a split.
    """

    def __init__(self, store: Store, num_shards: int):
        self._store = store
        self._num_shards = num_shards

    @timed(WRITING)
    def process(self, element: tuple[int, Stored], vocabulary: ItemCounts) -> Iterator[tuple[int, Stored]]:
        """Number the items of one bucket."""
        sequences: Sequences = self._store.take(element[1])
        numbers = pc.index_in(sequences.names, vocabulary.items).fill_null(-1).to_numpy() + 1
        sequences = self._known(sequences, numbers > 0)
        nothing = pa.array([], pa.string())
        sequences = dataclasses.replace(sequences, items=numbers[sequences.items], names=nothing)
        keys = ["\x1f".join(key).encode() for key in sequences.identities()]
        digests = b"".join([hashlib.blake2b(key, digest_size=16).digest() for key in keys])
        hashes = np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64)
        shards = (hashes[:, 0] % np.uint64(self._num_shards)).astype(np.int64)
        for shard, chosen, some in sequences.by(shards):
            yield shard, self._store.put(Numbered(some, hashes[chosen]))

    def _known(self, sequences: Sequences, is_known: np.ndarray) -> Sequences:
        """The sequences without events of items that are not in the vocabulary, and their records as far as left."""
        known = is_known[sequences.items]
        if known.all():
            return sequences
        known_before = np.append(0, np.cumsum(known))
        first = sequences.offsets[:-1]
        starts, ends = sequences.starts.copy(), sequences.ends.copy()  # type: ignore[union-attr]
        for number, split in enumerate(schema_lib.SPLITS):
            start, end = starts[number], ends[number]
            there = end > 0
            known_start, known_end = (known_before[first + place] - known_before[first] for place in (start, end))
            unknown = (end - start) - (known_end - known_start)
            self.tally.dropped_targets[split] += int(unknown[there].sum())
            starts[number] = np.maximum(known_start, 1)
            is_empty = there & (known_end <= starts[number])
            self.tally.dropped_sequences[split] += int(is_empty.sum())
            ends[number] = np.where(there & ~is_empty, known_end, 0)
        return dataclasses.replace(sequences, starts=starts, ends=ends).keep_events(known)


class WriteSequences(Counting):
    """(shard, stored `Numbered`s) to a file of each split; gives (its path in the dataset, what was written).

    Records lie in the order of a hash of their key, so that a file read from its beginning is in random order already;
    or in that of their newest events.

    Args:
        store: Where tables are.
        schema: What a record holds.
        write: Takes a folder, a shard and Examples.
        units_per_second: How many units of the events' times a second has.
        is_by_time: Whether records lie in the order of time.
    """

    def __init__(
        self, store: Store, schema: Schema, write: RecordFiles, *, units_per_second: int, is_by_time: bool = False
    ):
        self._store = store
        self._schema = schema
        self._features = {feature.name: feature for feature in schema.features}
        self._write = write
        self._units_per_second = units_per_second
        self._is_by_time = is_by_time

    @timed(WRITING)
    def process(
        self, element: tuple[int, Iterable[Stored]], learned: dict[str, dict[str, Any]]
    ) -> Iterator[tuple[str, Written]]:
        """Write the files of one shard; `learned` is of the users' features."""
        shard, parts = element
        written: dict[str, list[tuple[np.ndarray, list[bytes]]]] = collections.defaultdict(list)
        for part in parts:
            for split, places, encoded in self._encoded(self._store.take(part), learned):
                written[split].append((places, encoded))
        for split, of_split in written.items():
            places = np.concatenate([places for places, _ in of_split])
            encoded = [example for _, some in of_split for example in some]
            order = np.lexsort(places.T[::-1]).tolist()
            path, digest = self._write(split, shard, [encoded[row] for row in order])
            _LOGGER.info(WRITTEN, path, len(order))
            yield path, digest

    def _encoded(
        self, numbered: Numbered, learned: dict[str, dict[str, Any]]
    ) -> Iterator[tuple[str, np.ndarray, list[bytes]]]:
        """Of each split with records its name, uint64 [n, 2 or 3] that orders the records, and the records."""
        sequences = numbered.sequences
        assert sequences.starts is not None
        assert sequences.ends is not None
        of_events = [
            (feature, examples.of_events(feature, self._values(sequences, name)))
            for name, feature in self._features.items()
            if feature.shape == (None,)
        ]
        of_sequences = [
            (self._features[name], examples.of_records(self._features[name], values.to_pylist()))
            for name, values in ((schema_lib.USER_ID, sequences.users), (schema_lib.SESSION_ID, sequences.sessions))
            if name in self._features and values is not None
        ]
        fields = list(sequences.fields.values())
        of_sequences += side_tables.encoded(self._schema.user_features, fields, learned)
        target_start = self._features[schema_lib.TARGET_START]
        for split, starts, ends in zip(schema_lib.SPLITS, sequences.starts, sequences.ends, strict=True):
            rows = np.flatnonzero(ends)
            if not len(rows):
                continue
            starts, ends = starts[rows], ends[rows]
            lengths, counts = np.unique(ends, return_counts=True)
            for length, count in zip(lengths.tolist(), counts.tolist(), strict=True):
                self.tally.lengths[split, length] += count
            self.tally.targets[split] += int((ends - starts).sum())
            firsts = sequences.offsets[rows]
            chosen = rows.tolist()
            pieces = [
                *((feature, write(firsts, firsts + ends)) for feature, write in of_events),
                *((feature, [[entries[row] for row in chosen]]) for feature, (entries,) in of_sequences),
                (target_start, examples.of_records(target_start, starts.tolist())),
            ]
            places = numbered.hashes[rows]
            if self._is_by_time:
                newest = firsts + ends - 1
                places = _moments(sequences, newest)
            yield split, places, examples.write_examples(pieces)

    def _values(self, sequences: Sequences, name: str) -> np.ndarray:
        """The values of a feature of events."""
        if name == schema_lib.ITEM_IDS:
            return sequences.items
        values = sequences.columns[_COLUMN_OF[name]]
        return values // self._units_per_second if name == schema_lib.TIMESTAMPS else values


def _moments(sequences: Sequences, events: np.ndarray) -> np.ndarray:
    """uint64 [n, 3], which sort as the times of these events do, equal times in the order of the input."""
    times, positions = (sequences.columns[name][events] for name in (TIME, POSITION))
    fractions = sequences.columns[FRACTION][events] if FRACTION in sequences.columns else np.zeros(len(events))
    # The bits of floats that are not negative sort as these do.
    parts = [times.view(np.uint64) ^ np.uint64(1 << 63), fractions.view(np.uint64), positions.astype(np.uint64)]
    return np.stack(parts, axis=1)


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
        time_format: Of the events, "" where they have no time.
    """

    output: str
    schema: Schema
    steps: tuple[str, ...]
    options: dict[str, Any]
    num_files: int
    max_rejected: float
    tables: tuple[str, ...]
    time_format: str

    def __call__(
        self,
        _: Any,
        vocabulary: ItemCounts,
        learned: dict[str, dict[str, Any]],
        learned_of_users: dict[str, dict[str, Any]],
        tally: Tally,
        step_items: dict[str, tuple[int, int]],
        odd_items: list[dict[str, int]],
        records: dict[str, Written],
        rejected: dict[str, manifest.File],
    ) -> None:
        """Write the files; the arguments are what the job has counted."""
        lengths: dict[str, collections.Counter[int]] = {split: collections.Counter() for split in schema_lib.SPLITS}
        for (split, length), number in tally.lengths.items():
            lengths[split][length] += number
        schema = dataclasses.replace(
            self.schema,
            num_items=len(vocabulary.items),
            num_users=tally.training_users,
            item_features=features.with_sizes(self.schema.item_features, learned),
            user_features=features.with_sizes(self.schema.user_features, learned_of_users),
            numeric_ids=normal_ids.numeric(tally, self.schema),
            max_len=max((length for counter in lengths.values() for length in counter), default=0),
        )
        vocabulary_text = "".join(f"{item}\n" for item in vocabulary.items.to_pylist())
        counts_text = "".join(f"{number}\n" for number in vocabulary.counts.tolist())
        stats = self._stats(vocabulary, tally, step_items, lengths)
        num_left = stats["steps"][-1]["events"]
        odd = odd_items[0] if odd_items else {}
        stats["warnings"] = oddities.warnings(tally, odd, num_left, self.options, self.time_format)
        stats["fingerprint"] = hashlib.sha256(
            json.dumps(
                [
                    schema.to_dict(),
                    vocabulary_text,
                    counts_text,
                    learned,
                    learned_of_users,
                    sorted((name, written.digest) for name, written in records.items()),
                ]
            ).encode()
        ).hexdigest()
        files = {name: written.file for name, written in records.items()} | {
            f"{schema_lib.REJECTED_FOLDER}/{name}": file for name, file in rejected.items()
        }
        for name, text in (
            (schema_lib.ITEM_VOCABULARY_FILE, vocabulary_text),
            (schema_lib.ITEM_COUNTS_FILE, counts_text),
            *(
                (name, json.dumps(what, indent=1) + "\n")
                for name, what in (
                    (schema_lib.FEATURES_FILE, learned),
                    (schema_lib.USER_FEATURES_FILE, learned_of_users),
                )
                if what
            ),
            (schema_lib.SCHEMA_FILE, schema.to_json()),
            (schema_lib.STATS_FILE, json.dumps(stats, indent=2, ensure_ascii=False) + "\n"),
        ):
            files[name] = storage.write_text(f"{self.output}/{name}", text)
        if not failures(stats) and not emptiness(stats) and not joins.failure(stats):
            completed = manifest.to_json(manifest.DATASET, files)
            storage.write_text(f"{self.output}/{schema_lib.COMPLETED_FILE}", completed)

    def _stats(
        self,
        vocabulary: ItemCounts,
        tally: Tally,
        step_items: dict[str, tuple[int, int]],
        lengths: dict[str, collections.Counter[int]],
    ) -> dict[str, Any]:
        def by_split(counter: collections.Counter[str]) -> dict[str, int]:
            return {split: counter[split] for split in ("valid", "test")}

        def rejected(kind: str) -> dict[str, Any]:
            reasons = {reason: number for (of, reason), number in tally.rejected.items() if of == kind}
            return {
                "lines": tally.lines[kind],
                "rejected": sum(reasons.values()),
                "rejected_by_reason": dict(sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))),
            }

        num_items = len(vocabulary.items)
        items = {
            "vocabulary": num_items,
            "without_training_events": num_items - vocabulary.num_items,
            "dropped_as_unseen": step_items.get("all", (0, 0))[0] - num_items,
        }
        described = {
            table: {
                "without_side_information": tally.without_side_information[table],
                "with_side_information": tally.with_side_information[table],
                f"in_{table}_file_without_events": tally.without_events[table],
                f"duplicates_in_{table}_file": tally.duplicates[table],
                f"conflicting_in_{table}_file": tally.conflicts[table],
                "conflict": dict(
                    zip(("id", "column", "first", "other"), tally.examples.get((table, "conflict"), ()), strict=False)
                ),
                "unjoined": joins.unjoined(tally.unjoined, table),
            }
            for table in self.tables
        }
        return {
            "made_by": {"seqrec_tf": seqrec_tf.__version__, "apache_beam": beam.__version__},
            "options": self.options,
            "input": {
                "files": self.num_files,
                "events": tally.events,
                "events_beyond_the_newest": tally.too_old,
                **oddities.span(tally, self.time_format),
                **rejected("events"),
                **(
                    {"dropped_by_where": tally.dropped_by_where, "dropped_as_null": tally.dropped_as_null}
                    if self.options["where"]
                    else {}
                ),
                **{f"{table}_file": rejected(table) for table in self.tables},
            },
            "steps": [
                {
                    "step": step,
                    "users": tally.sequences[step],
                    **dict(zip(("items", "events"), step_items.get(step, (0, 0)), strict=True)),
                }
                for step in self.steps
            ],
            "ids": normal_ids.described(tally),
            "ties": {
                "events_sharing_a_time_with_a_neighbour": tally.events_with_ties,
                "sequences_with_ties": tally.sequences_with_ties,
                "targets_with_ties": by_split(tally.targets_with_ties),
            },
            "repeats": {
                "repeated_events": tally.repeated_events,
                "consecutive_repeats": tally.consecutive_repeats,
                "targets_repeating_history": by_split(tally.targets_repeating_history),
            },
            "splits": {
                split: {
                    "sequences": lengths[split].total(),
                    "events": sum(length * number for length, number in lengths[split].items()),
                    "targets": tally.targets[split],
                    "dropped_sequences": tally.dropped_sequences[split],
                    "dropped_targets": tally.dropped_targets[split],
                    "length": describe_lengths(lengths[split]),
                }
                for split in schema_lib.SPLITS
            },
            "training_sequences_of_one_event": tally.train_without_target,
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
            advice = hint(part, what)
            sentences.append(
                f"{part['rejected']:,} of {part['lines']:,} lines of the {what} files "
                f"({part['rejected'] / part['lines']:.1%}) were rejected, more than --max-rejected {max_rejected:g} "
                f"allows: {reasons(part)}." + (f" {advice}" if advice else "")
            )
    return sentences


def reasons(rejected: Mapping[str, Any]) -> str:
    """Why lines were rejected, the most frequent reason first."""
    return ", ".join(f"{number:,} {reason}" for reason, number in rejected["rejected_by_reason"].items())


def hint(rejected: Mapping[str, Any], files: str) -> str:
    """What may read lines that were rejected, by the most frequent reason that an option mends; "" where none does."""
    prefix = f"--{files}-" if files in ("items", "users") else "--"
    return next((_HINTS[reason].format(prefix) for reason in rejected["rejected_by_reason"] if reason in _HINTS), "")


def emptiness(stats: Mapping[str, Any]) -> str:
    """Where the training sequences have gone, if none is left; empty where some are."""
    if stats["splits"]["train"]["sequences"]:
        return ""
    left = "; ".join(
        f"{step['step']}: {step['users']:,} sequences, {step['events']:,} events" for step in stats["steps"]
    )
    dropped = stats["input"].get("dropped_by_where")
    first = f"--where: {dropped:,} of {stats['input']['lines']:,} lines dropped; " if dropped else ""
    options, of_input = stats["options"], stats["input"]
    period = ""
    if options["split"] == "time" and "first_time" in of_input:
        option = "valid_from" if options["valid_from"] else "test_from"
        period = (
            f" --{option.replace('_', '-')} {options[option]} leaves what is before it for training; the events are "
            f"from {of_input['first_time']} to {of_input['last_time']}."
        )
    return f"No training sequence with a target is left. After each step: {first}{left}.{period}"


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

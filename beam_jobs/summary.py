"""What `seqrec prepare` says of its result, for people."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from beam_jobs import normal_ids, write_dataset
from beam_jobs.options import NONE
from seqrec_tf import schema as schema_lib


def summary(stats: Mapping[str, Any], output: str, seconds: float, of_parts: Mapping[str, float]) -> str:
    """The sizes after each step and of each split, what is worth knowing of them, and what to run next.

    Args:
        stats: Of the dataset.
        output: Its folder.
        seconds: How long the job took.
        of_parts: The seconds of its workers, by part.
    """
    units = units_of(stats["options"])
    lines = ["", f"{'step':<32}{units:>12}{'items':>12}{'events':>14}"]
    for step in stats["steps"]:
        lines.append(f"{step['step']:<32}{step['users']:>12,}{step['items']:>12,}{step['events']:>14,}")
    lines += ["", f"{'split':<32}{'sequences':>12}{'targets':>12}{'median length':>14}"]
    for name, split in stats["splits"].items():
        median = split["length"].get("p50", 0)
        lines.append(f"{name:<32}{split['sequences']:>12,}{split['targets']:>12,}{median:>14,}")
    lines += ["", *(f"{name}: {text}" if name else f"  {text}" for name, text in _remarks(stats, output)), ""]
    events = stats["input"]["events"]
    parts = ", ".join(f"{part} {of_part:.1f}" for part, of_part in of_parts.items())
    folder = shlex.quote(output)
    return "\n".join(
        [
            *lines,
            f"{output}: {events:,} events in {seconds:.1f} s, {events / max(seconds, 1e-9):,.0f} a second"
            + (f" (seconds of all workers: {parts})" if parts else ""),
            f"next: seqrec analyze --dataset {folder}",
            f"      seqrec train --dataset {folder} --model sasrec --output RUN",
            "",
        ]
    )


def units_of(options: Mapping[str, Any]) -> str:
    """What a sequence of the input is called."""
    if options["session_column"] != NONE:
        return "sessions"
    return "sequences" if options["user_column"] == NONE else "users"


def _remarks(stats: Mapping[str, Any], output: str) -> Iterator[tuple[str, str]]:
    """What is worth knowing, each with what it is about; nothing of what there is none of."""
    options, of_input = stats["options"], stats["input"]
    items, ties, repeats = stats["items"], stats["ties"], stats["repeats"]
    rejected = f"{output}/{schema_lib.REJECTED_FOLDER}/"
    for files, part in (("input", of_input), *((table, of_input.get(f"{table}_file")) for table in ("items", "users"))):
        if part and part["rejected"]:
            share = part["rejected"] / part["lines"]
            of_files = f"{part['rejected']:,} of {part['lines']:,} lines of the {files} files ({share:.2%})"
            yield "rejected", f"{of_files}: {write_dataset.reasons(part)}"
            if hint := write_dataset.hint(part, files):
                yield "", hint
            yield "", f"they are in {rejected}"
    if dropped := of_input.get("dropped_by_where"):
        nulls = of_input["dropped_as_null"]
        yield (
            "--where",
            f"{dropped:,} of {of_input['lines']:,} lines dropped"
            + (f"; for {nulls:,} of them a field that it reads is empty, or no number" if nulls else ""),
        )
    if beyond := of_input["events_beyond_the_newest"]:
        yield "too old", f"{beyond:,} events beyond the newest {options['max_events']:,} of a sequence (--max-events)"
    for line in normal_ids.lines(stats["ids"]):
        name, _, text = line.partition(": ")
        yield name, text
    if alone := stats["training_sequences_of_one_event"]:
        yield "training", f"{alone:,} sequences of one event have nothing to predict and are left out"
    untrained = items["without_training_events"]
    of_items = f"{items['vocabulary']:,}, " + (f"{untrained:,} of them without" if untrained else "all with")
    of_items += " training events"
    if dropped := items["dropped_as_unseen"]:
        of_items += f"; {dropped:,} more were dropped as unseen"
    yield "items", of_items
    for table in ("items", "users"):
        about = stats.get(table, {})
        lacking = about.get("without_side_information", 0), about.get(f"in_{table}_file_without_events", 0)
        if any(lacking):
            yield table, f"{lacking[0]:,} {table} have no row in the {table} files, {lacking[1]:,} rows have no events"
        if conflict := about.get("conflict"):
            yield (
                table,
                f"rows of {about[f'conflicting_in_{table}_file']:,} {table} disagree, such as {conflict['id']} "
                f"({conflict['column']} {conflict['first']!r}, later {conflict['other']!r}): the first row wins, and a "
                "blank gives way to a value",
            )
    if tied := ties["events_sharing_a_time_with_a_neighbour"]:
        targets, of_all = ties["targets_with_ties"]["test"], stats["splits"]["test"]["targets"]
        yield (
            "ties",
            f"{tied:,} events share their time with a neighbour, {targets:,} of {of_all:,} test targets among them; "
            "these keep the order of the input",
        )
    if repeated := repeats["repeated_events"]:
        targets, of_all = repeats["targets_repeating_history"]["test"], stats["splits"]["test"]["targets"]
        yield (
            "repeats",
            f"{repeated:,} events are of an item seen before in the sequence, {targets:,} of {of_all:,} test targets "
            "among them",
        )
    yield from (("warning", sentence) for sentence in stats["warnings"])

"""Runs the Beam job of `seqrec prepare`, whose arguments `prepare.py` reads: the folder, the runner, the summary."""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    DirectOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.portability.api import beam_provision_api_pb2
from apache_beam.runners.portability import portable_runner
from apache_beam.runners.portability.fn_api_runner import fn_runner

from beam_jobs import storage, write_dataset
from beam_jobs.beam_arguments import unknown_option
from beam_jobs.counting import PARTS
from beam_jobs.options import flag, output_exists, resolve
from beam_jobs.pipeline import PrepareSequences, make_plan
from beam_jobs.store import Store
from seqrec_tf import schema as schema_lib
from seqrec_tf.messages import next_command

# What a dataset folder holds; --overwrite removes nothing else.
_OF_A_DATASET = {
    *(schema_lib.SCHEMA_FILE, schema_lib.STATS_FILE, schema_lib.COMPLETED_FILE, *schema_lib.SPLITS),
    *(schema_lib.VOCABULARIES_FOLDER, schema_lib.ITEMS_FOLDER, schema_lib.VECTORS_FOLDER, schema_lib.REJECTED_FOLDER),
}


def run(args: argparse.Namespace) -> None:
    """Prepare a dataset folder."""
    started = time.monotonic()
    options = resolve(args)
    pipeline_options = beam_options(args.beam_options, "prepare", vars(args))
    paths = ("input", "valid_input", "test_input", "items", "users")
    given = options.by_name
    check_reachable(pipeline_options, {"output": [options.output], **{name: given[name] for name in paths}})
    output = options.output.rstrip("/")
    is_local = "://" not in output
    is_there = _exists(output)
    if is_there and not options.overwrite:
        raise output_exists(output)
    # A local folder gets its name when it is whole. A remote one has no rename; there COMPLETED, written last, tells.
    partial = f"{output}.partial-{uuid.uuid4().hex[:8]}" if is_local else output
    plan = make_plan(options, partial)
    if is_there:
        _check_replaceable(output, [part.path for part in plan.parts])
    for note in (*plan.events.notes, *(note for table in plan.tables.values() for note in table.notes)):
        sys.stderr.write(f"Inferred {note}.\n")
    if is_local:
        os.makedirs(partial)
    elif is_there:
        FileSystems.delete(_remote_files(output))
    try:
        with _store(pipeline_options, partial if is_local else None) as store:
            seconds = run_pipeline("Prepare" >> PrepareSequences(plan, store), pipeline_options)
        stats = _read_stats(partial)
        _check_result(stats, partial, output, is_local=is_local)
        if is_local:
            _publish(partial, output, [part.path for part in plan.parts], overwrite=options.overwrite)
    finally:
        if is_local:
            shutil.rmtree(partial, ignore_errors=True)
    sys.stdout.write(summary(stats, output, time.monotonic() - started, seconds))


def beam_options(arguments: Sequence[str], command: str, ours: Iterable[str] = ()) -> PipelineOptions:
    """Options for Beam.

    Args:
        arguments: What the command does not know.
        command: The command of `seqrec` that takes them, for the error.
        ours: Names of its options.

    Raises:
        ValueError: An argument is none of Beam's either, which is then a mistyped one of ours.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for group in PipelineOptions.__subclasses__():
        group._add_argparse_args(parser)
    unknown = parser.parse_known_args(list(arguments))[1]
    if unknown:
        raise unknown_option(unknown[0], command, ours)
    return PipelineOptions(list(arguments))


def check_reachable(options: PipelineOptions, paths: Mapping[str, Iterable[str]]) -> None:
    """Raise a ValueError where workers of Dataflow would need a path of this machine, or lack this package.

    Args:
        options: Beam's.
        paths: Name of an option of ours to its paths; empty ones are none.
    """
    if _runner(options) != "dataflow":
        return
    for name, given in paths.items():
        for path in given:
            if path and "://" not in path:
                raise ValueError(
                    f"{flag(name)} {path} is on this machine, where Dataflow's workers are not. Give a "
                    f"remote path, such as gs://BUCKET/{path.lstrip('/')}."
                )
    setup = options.view_as(SetupOptions)
    from_files = setup.setup_file or setup.extra_packages or setup.requirements_file
    if not from_files and not options.view_as(WorkerOptions).sdk_container_image:
        raise ValueError(
            "Dataflow's workers need this package: give --setup_file ./setup.py, in a checkout of its repository, or "
            "an --sdk_container_image that holds it."
        )


def _runner(options: PipelineOptions) -> str:
    """The runner as Beam takes it: in any case, with or without "Runner" at its end, and with a module before it."""
    name = options.view_as(StandardOptions).runner or "direct"
    return name.rpartition(".")[2].lower().removesuffix("runner")


def _check_replaceable(output: str, inputs: Iterable[str]) -> None:
    """Raise an error where --overwrite would remove something else than a dataset folder, or the job's own input."""
    if "://" in output:
        names = {path[len(output) + 1 :].split("/")[0] for path in _remote_files(output)}
    else:
        names = set(os.listdir(output)) if os.path.isdir(output) else {os.path.basename(output)}
    others = sorted(name for name in names - _OF_A_DATASET if not name.endswith(storage.UNFINISHED))
    if others:
        raise FileExistsError(
            f"{output} holds {others[0]}, which is not of a dataset folder, so --overwrite does not replace it. Choose "
            "another --output."
        )
    for path in inputs:
        if storage.place(path).startswith(f"{storage.place(output)}/"):
            raise FileExistsError(f"{path} is input, and in the --output that would be replaced. Move it first.")


def _exists(path: str) -> bool:
    if "://" not in path:
        return os.path.exists(path)
    return bool(_remote_files(path))


def _remote_files(folder: str) -> list[str]:
    return [file.path for file in FileSystems.match([f"{folder}/**"])[0].metadata_list]


def run_pipeline(job: beam.PTransform, options: PipelineOptions) -> dict[str, float]:
    """Run a whole job on the runner that the options ask for; with progress where that is local.

    Returns:
        The seconds that all workers together took for each of `counting.PARTS`, of those that the job has.
    """
    is_local = _runner(options) == "direct"
    if not is_local:
        # Which job it is, where to watch it, its states.
        logging.getLogger("apache_beam.runners").setLevel(logging.INFO)
    try:
        with (
            _progress() if is_local else contextlib.nullcontext(),
            beam.Pipeline(local_runner(options) if is_local else None, options) as pipeline,
        ):
            pipeline | job
        return seconds_of_parts(pipeline.result.metrics().query()["counters"])
    except RuntimeError as error:
        raise RuntimeError(sentence_of(str(error))) from error
    except KeyboardInterrupt:
        if not is_local:
            sys.stderr.write("A job that was submitted goes on without this command; stop it where it runs.\n")
        raise


def seconds_of_parts(counters: Iterable[Any]) -> dict[str, float]:
    """The seconds of each of `counting.PARTS`, by Beam's counters, of which each step has its own."""
    totals: collections.Counter[str] = collections.Counter()
    for counter in counters:
        totals[counter.key.metric.name] += counter.committed or counter.attempted or 0  # some runners know one alone
    return {part: totals[part] / 1e9 for part in PARTS if part in totals}


def sentence_of(text: str) -> str:
    """What a worker says of its failure, without the way to where that was: its last exception, not its traceback."""
    if "Traceback (most recent call last)" in text:
        said = re.findall(r"^[\w.]*(?:Error|Exception): (.*)", text, re.MULTILINE)
        text = said[-1] if said else text
    return re.sub(r" \[while running '[^']*'\]", "", text)


def local_runner(options: PipelineOptions) -> fn_runner.FnApiRunner:
    """The runner in this process, or in the processes that the `--direct_` options ask for.

    Beam's DirectRunner is not it: that looks for the Prism runner first, a program that it would download.
    """
    direct = options.view_as(DirectOptions)
    if direct.direct_num_workers != 1 and "direct_running_mode" not in options.get_all_options(drop_default=True):
        direct.direct_running_mode = "multi_processing"  # Beam's default mode ignores the number of workers
    sdk = options.view_as(WorkerOptions)
    sdk.default_sdk_harness_log_level = sdk.default_sdk_harness_log_level or "WARNING"
    encoded = portable_runner.JobServiceHandle.encode_pipeline_options(options.get_all_options())
    provision = beam_provision_api_pb2.ProvisionInfo(pipeline_options=encoded)
    return fn_runner.FnApiRunner(provision_info=fn_runner.ExtendedProvisionInfo(provision))


@contextlib.contextmanager
def _progress() -> Iterator[None]:
    """Show what the readers say, not what Beam says of its stages: an error of theirs comes as an exception, too."""
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)
    root_level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # Beam warns there that it cannot tell the memory of its model
    logger, handler = logging.getLogger("beam_jobs"), logging.StreamHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logging.getLogger().setLevel(root_level)
        logger.removeHandler(handler)
        logger.propagate = True


@contextlib.contextmanager
def _store(options: PipelineOptions, folder: str | None) -> Iterator[Store]:
    """Where tables lie between two steps: in files beside what is written, if all workers are on this machine."""
    if _runner(options) != "direct":
        yield Store()
        return
    with tempfile.TemporaryDirectory(prefix="tables-", dir=folder) as tables:
        yield Store(tables)


def _read_stats(folder: str) -> dict[str, Any]:
    with FileSystems.open(f"{folder}/{schema_lib.STATS_FILE}") as stream:
        return json.loads(stream.read())


def _check_result(stats: dict[str, Any], partial: str, output: str, *, is_local: bool) -> None:
    failures, emptiness = write_dataset.failures(stats), write_dataset.emptiness(stats)
    if not failures and not emptiness:
        return
    rejected, kept = f"{partial}/{schema_lib.REJECTED_FOLDER}", ""
    if _exists(rejected):
        if is_local:
            folder = f"{output}.{schema_lib.REJECTED_FOLDER}"
            shutil.rmtree(folder, ignore_errors=True)
            os.rename(rejected, folder)
            rejected = folder
        kept = f" The rejected lines are in {rejected}/."
    if failures:
        raise RuntimeError(f"{' '.join(failures)}{kept}")
    raise ValueError(f"{emptiness}{kept}")


def _publish(partial: str, output: str, inputs: Iterable[str], *, overwrite: bool) -> None:
    """Give the finished folder its name; an older one goes only now."""
    replaced = f"{output}.replaced-{uuid.uuid4().hex[:8]}"
    if os.path.exists(output):
        try:
            if not overwrite:
                raise FileExistsError(f"{output} was made by something else while this job ran.")
            _check_replaceable(output, inputs)
        except FileExistsError as error:
            beside = f"{output}-{uuid.uuid4().hex[:8]}"
            os.rename(partial, beside)
            raise FileExistsError(f"{error} The new dataset is {beside}.") from None
        os.rename(output, replaced)
    os.rename(partial, output)
    shutil.rmtree(replaced, ignore_errors=True)


def summary(stats: dict[str, Any], output: str, seconds: float, of_parts: Mapping[str, float]) -> str:
    """What the job did, for people; `of_parts` are the seconds of its workers."""
    lines = [f"{'step':<32}{'users':>12}{'items':>12}{'events':>14}"]
    for step in stats["steps"]:
        lines.append(f"{step['step']:<32}{step['users']:>12,}{step['items']:>12,}{step['events']:>14,}")
    lines += ["", f"{'split':<32}{'sequences':>12}{'targets':>12}{'median length':>14}"]
    for name, split in stats["splits"].items():
        median = split["length"].get("p50", 0)
        lines.append(f"{name:<32}{split['sequences']:>12,}{split['targets']:>12,}{median:>14,}")
    if alone := stats["training_sequences_of_one_event"]:
        lines.append(f"{alone:,} training sequences of one event have nothing to predict and are left out")
    items, ties, repeats = stats["items"], stats["ties"], stats["repeats"]
    lines += [
        "",
        f"items: {items['vocabulary']:,}, {items['without_training_events']:,} of them without training events"
        + (f"; {items['dropped_as_unseen']:,} dropped as unseen" if items["dropped_as_unseen"] else ""),
        f"ties: {ties['events_sharing_a_time_with_a_neighbour']:,} events share their time with a neighbour, "
        f"{ties['targets_with_ties']['test']:,} test targets among them (they keep the order of the input)",
        f"repeats: {repeats['repeated_events']:,} events of an item seen before in the sequence, "
        f"{repeats['targets_repeating_history']['test']:,} test targets among them",
    ]
    if dropped := stats["input"].get("dropped_by_where"):
        nulls = stats["input"]["dropped_as_null"]
        lines.append(
            f"--where: {dropped:,} of {stats['input']['lines']:,} lines dropped"
            + (f"; for {nulls:,} of them a field that it reads is empty, or no number" if nulls else "")
        )
    beyond = stats["input"]["events_beyond_the_newest"]
    if beyond:
        lines.append(f"too old: {beyond:,} events beyond the newest {stats['options']['max_events']:,} of a sequence")
    for table in ("items", "users"):
        about = stats.get(table, {})
        if "without_side_information" in about:
            lines.append(
                f"{table} files: {about['without_side_information']:,} {table} have no row, "
                f"{about[f'in_{table}_file_without_events']:,} rows have no events"
            )
    of_input = stats["input"]
    for what, part in (
        ("lines", of_input),
        *((f"lines of {table} files", of_input.get(f"{table}_file")) for table in ("items", "users")),
    ):
        if part and part["rejected"]:
            reasons = ", ".join(f"{number:,} {reason}" for reason, number in part["rejected_by_reason"].items())
            lines.append(f"rejected: {part['rejected']:,} of {part['lines']:,} {what}: {reasons}")
    lines += [f"warning: {sentence}" for sentence in stats["warnings"]]
    events = stats["input"]["events"]
    parts = ", ".join(f"{part} {of_part:.1f}" for part, of_part in of_parts.items())
    lines += [
        f"seconds of all workers: {parts} (moving tables is in the other three)" if parts else "",
        f"{output}: {events:,} events in {seconds:.1f} s ({events / max(seconds, 1e-9):,.0f} a second)",
        next_command("train", "--dataset", output, "--model", "sasrec", "--output", "RUN").rstrip(),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    from seqrec_tf import cli

    sys.exit(cli.main(["prepare", *sys.argv[1:]]))

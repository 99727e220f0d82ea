"""Runs the Beam job of `seqrec prepare`, whose arguments `prepare.py` reads: the folder, the runner, the summary."""

from __future__ import annotations

import argparse
import collections
import contextlib
import glob
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

from beam_jobs import joins, storage, write_dataset
from beam_jobs.beam_arguments import unknown_option
from beam_jobs.counting import PARTS
from beam_jobs.options import Options, flag, output_exists, resolve
from beam_jobs.pipeline import PrepareSequences, make_plan
from beam_jobs.progress import Progress, shown
from beam_jobs.store import Store
from beam_jobs.summary import summary
from seqrec_tf import schema as schema_lib
from seqrec_tf.writing import LOCK_FILE, only_writer

# End the name of the output where it is not whole, and where another takes its place.
_PARTIAL, _REPLACED = ".partial-", ".replaced-"

# What a dataset folder holds; --overwrite removes nothing else.
_OF_A_DATASET = {
    *(schema_lib.SCHEMA_FILE, schema_lib.STATS_FILE, schema_lib.COMPLETED_FILE, LOCK_FILE, *schema_lib.SPLITS),
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
    with _only_writer(output):
        stats, seconds = _prepare(options, pipeline_options, output)
    for warning in joins.warnings(stats):
        sys.stderr.write(f"Warning: {warning}\n")
    sys.stdout.write(summary(stats, output, time.monotonic() - started, seconds))


@contextlib.contextmanager
def _only_writer(output: str) -> Iterator[None]:
    """Nobody else prepares a local folder, or embeds its items; what a job that was killed has left is removed."""
    if "://" in output:
        yield
        return
    folder, name = os.path.split(os.path.abspath(output))
    with contextlib.ExitStack() as stack:
        stack.enter_context(only_writer(os.path.join(folder, f".{name}{LOCK_FILE}"), output))
        for left in glob.glob(f"{glob.escape(output)}{_REPLACED}*"):
            if not os.path.exists(output):  # killed between the two renames of `_publish`
                os.rename(left, output)
                sys.stderr.write(f"{output} is there again: a job was killed while it replaced it.\n")
        for left in (path for kind in (_PARTIAL, _REPLACED) for path in glob.glob(f"{glob.escape(output)}{kind}*")):
            shutil.rmtree(left, ignore_errors=True)
        if os.path.isdir(output):
            stack.enter_context(only_writer(os.path.join(output, LOCK_FILE), output))
        yield


def _prepare(
    options: Options, pipeline_options: PipelineOptions, output: str
) -> tuple[dict[str, Any], dict[str, float]]:
    """Write the folder; gives its stats, and the seconds of the workers."""
    is_local = "://" not in output
    is_there = _exists(output)
    if is_there and not options.overwrite:
        raise output_exists(output)
    # A local folder gets its name when it is whole. A remote one has no rename; there COMPLETED, written last, tells.
    partial = f"{output}{_PARTIAL}{uuid.uuid4().hex[:8]}" if is_local else output
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
            progress = Progress(list(dict.fromkeys(part.path for part in plan.parts)), len(plan.parts), plan.num_bytes)
            seconds = run_pipeline("Prepare" >> PrepareSequences(plan, store), pipeline_options, progress)
        stats = _read_stats(partial)
        _check_result(stats, partial, output, is_local=is_local)
        if is_local:
            _publish(partial, output, [part.path for part in plan.parts], overwrite=options.overwrite)
            _remove_rejected(output)
    finally:
        if is_local:
            shutil.rmtree(partial, ignore_errors=True)
    return stats, seconds


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


def run_pipeline(
    job: beam.PTransform, options: PipelineOptions, progress: logging.Handler | None = None
) -> dict[str, float]:
    """Run a whole job on the runner that the options ask for.

    Args:
        job: What to run.
        options: Beam's.
        progress: Takes what the workers say while they are on this machine.

    Returns:
        The seconds that all workers together took for each of `counting.PARTS`, of those that the job has.
    """
    is_local = _runner(options) == "direct"
    if not is_local:
        # Which job it is, where to watch it, its states.
        logging.getLogger("apache_beam.runners").setLevel(logging.INFO)
    try:
        with (
            shown(progress or logging.NullHandler()) if is_local else contextlib.nullcontext(),
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
    failures, emptiness = write_dataset.failures(stats), write_dataset.emptiness(stats) or joins.failure(stats)
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


def _remove_rejected(output: str) -> None:
    """Remove the lines that a job before rejected, when it failed; they are of no use now."""
    folder = f"{output}.{schema_lib.REJECTED_FOLDER}"
    if os.path.isdir(folder) and all(re.fullmatch(r"part-\d+\.jsonl", name) for name in os.listdir(folder)):
        shutil.rmtree(folder)


def _publish(partial: str, output: str, inputs: Iterable[str], *, overwrite: bool) -> None:
    """Give the finished folder its name; an older one goes only now."""
    replaced = f"{output}{_REPLACED}{uuid.uuid4().hex[:8]}"
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


if __name__ == "__main__":
    from seqrec_tf import cli

    sys.exit(cli.main(["prepare", *sys.argv[1:]]))

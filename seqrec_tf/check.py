"""Whether a folder is whole: every file is read, and compared with the checksum that was written with it.

PATH is a dataset folder, a run folder, or a model: MODELS/NAME with all its versions, or one MODELS/NAME/VERSION. Other
commands look at existence and sizes when they open a folder; this one notices each changed bit. The vectors of
`seqrec embed` belong to their dataset. Of a run, it says too whether its dataset still is what it was trained on.

Exit status: 0 where all is whole; 3 where something is damaged, with a line for each file; 2 where PATH is none of
these folders, or is not finished.

Example:
  seqrec check shop
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import pathlib
import sys

from seqrec_tf import manifest as manifest_lib
from seqrec_tf.cli import ANSWER_IS_NO, DONE
from seqrec_tf.manifest import Manifest
from seqrec_tf.run_folder import RunFolder
from seqrec_tf.schema import COMPLETED_FILE, REJECTED_FOLDER, VECTORS_FOLDER
from seqrec_tf.writing import LOCK_FILE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("path", metavar="PATH", help="DATASET, RUN, MODELS/NAME or MODELS/NAME/VERSION")


def run(args: argparse.Namespace) -> int:
    """Check the folders, show what was found, and give the exit status."""
    reports = [check_folder(folder) for folder in folders(args.path)]
    for report in reports:
        sys.stdout.write("\n".join([report.summary, *report.problems, *report.notes]) + "\n")
    return ANSWER_IS_NO if any(report.problems for report in reports) else DONE


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found in one folder.

    Attributes:
        summary: A line about all of it.
        problems: A line for each damaged file; none where all is whole.
        notes: Lines about what is odd, but no damage.
    """

    summary: str
    problems: list[str]
    notes: list[str]


def folders(path: str) -> list[str]:
    """The folders that have manifests: the path itself or, of a model, its versions, oldest first.

    Raises:
        FileNotFoundError: There is none.
    """
    path = path.rstrip("/")
    if manifest_lib.size_of(f"{path}/{COMPLETED_FILE}") is not None:
        return [path]
    versions = [] if "://" in path else [entry for entry in pathlib.Path(path).glob("*") if entry.name.isdigit()]
    if versions:
        return [str(version) for version in sorted(versions, key=lambda version: int(version.name))]
    raise FileNotFoundError(
        f"{path} is no dataset (seqrec prepare), run (seqrec train) or model (seqrec export), or it is not finished: "
        f"it has no {COMPLETED_FILE} file."
    )


def check_folder(folder: str) -> Report:
    """Read all files of a folder, and compare them with its manifest.

    Raises:
        FileNotFoundError: The folder has none.
    """
    try:
        manifest = manifest_lib.read(folder)
    except ValueError as error:
        return Report(f"{folder}: damaged", [f"  {error}"], [])
    parts, problems = [manifest], []
    if manifest.kind == manifest_lib.DATASET:
        for column in manifest_lib.names_in(f"{folder}/{VECTORS_FOLDER}"):
            try:
                if vectors := manifest_lib.read_vectors(folder, column):
                    parts.append(vectors[1])
            except ValueError as error:
                problems.append(f"  {error}")
    for part in parts:
        problems += [f"  {part.sentence(name, problem)}" for name, problem in part.damaged().items()]
    files = [file for part in parts for file in part.files.values()]
    num_records = sum(file.records or 0 for file in files)
    summary = (
        f"{folder}: {manifest.kind}, {len(files):,} files, {sum(file.bytes for file in files) / 1e6:,.1f} MB"
        + (f", {num_records:,} records" if num_records else "")
        + (f": {len(problems):,} damaged" if problems else ": whole")
    )
    return Report(summary, problems, _notes(manifest) if not problems else [])


def _notes(manifest: Manifest) -> list[str]:
    if manifest.kind == manifest_lib.RUN:
        return _about_its_dataset(manifest.folder)
    if "://" in manifest.folder:
        return []
    known = {*manifest.files, COMPLETED_FILE, LOCK_FILE}
    apart = (VECTORS_FOLDER, REJECTED_FOLDER)
    return [
        f"  {manifest.path(name)} is not of this {manifest.kind}, and nothing reads it."
        for name in sorted(
            os.path.relpath(os.path.join(above, file), manifest.folder)
            for above, _, files in os.walk(manifest.folder)
            for file in files
        )
        if name not in known and name.split(os.sep)[0] not in apart
    ]


def _about_its_dataset(run: str) -> list[str]:
    try:
        RunFolder(run).open_dataset()
    except (ValueError, FileNotFoundError) as error:
        return [f"  Its dataset: {error} If it was moved, give --dataset to the commands that ask for it."]
    return []

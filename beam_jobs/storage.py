"""Writing files through Beam's file systems so that what has its name is whole."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Iterator, Sequence

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_jobs.examples import digest, tfrecord_file
from seqrec_tf import manifest, records

# Ends the name of what is not whole.
UNFINISHED = ".unfinished"


def place(path: str) -> str:
    """One text for all the ways of naming a file or folder."""
    return path if "://" in path else os.path.realpath(path)


@contextlib.contextmanager
def create(path: str) -> Iterator[manifest.Summing]:
    """A stream whose content gets its name only when all of it is written, so that a retried worker leaves no half.

    Its `file` is what a manifest says of what was written.
    """
    unfinished = f"{path}.{uuid.uuid4().hex}{UNFINISHED}"
    try:
        with FileSystems.create(unfinished, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            yield manifest.Summing(stream)
        FileSystems.rename([unfinished], [path])
    except OSError as error:
        raise RuntimeError(f"{path} cannot be written: {error.strerror or error}.") from error


def write_text(path: str, text: str) -> manifest.File:
    """Write a small text file."""
    with create(path) as stream:
        stream.write(text.encode())
    return stream.file


def write_records(path: str, examples: Sequence[bytes]) -> manifest.File:
    """Write a gzipped TFRecord file; the same Examples give the same bytes."""
    with create(path) as stream:
        for piece in tfrecord_file(examples):
            stream.write(piece)
        stream.records = len(examples)
    return stream.file


@dataclasses.dataclass(frozen=True)
class Written:
    """What was written to a file of records.

    Attributes:
        digest: Tells its records from others, however they are compressed.
        file: What a manifest says of it.
    """

    digest: str
    file: manifest.File


@dataclasses.dataclass(frozen=True)
class RecordFiles:
    """Writes the files of the folders of a dataset.

    Attributes:
        output: The dataset folder.
        num_shards: Files of a folder. A shard without records has no file.
    """

    output: str
    num_shards: int

    def __call__(self, folder: str, shard: int, examples: Sequence[bytes]) -> tuple[str, Written]:
        """Write one; gives its path in the dataset and what was written there."""
        name = f"{folder}/{records.shard_name(shard, self.num_shards)}"
        file = write_records(f"{self.output}/{name}", examples)
        return name, Written(digest(examples), file)

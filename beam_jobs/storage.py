"""Writing files through Beam's file systems so that what has its name is whole."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import uuid
from collections.abc import Iterator, Sequence
from typing import BinaryIO

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_jobs.examples import digest, tfrecord_file
from seqrec_tf import records

# Ends the name of what is not whole.
UNFINISHED = ".unfinished"


def place(path: str) -> str:
    """One text for all the ways of naming a file or folder."""
    return path if "://" in path else os.path.realpath(path)


@contextlib.contextmanager
def create(path: str) -> Iterator[BinaryIO]:
    """A stream whose content gets its name only when all of it is written, so that a retried worker leaves no half."""
    unfinished = f"{path}.{uuid.uuid4().hex}{UNFINISHED}"
    try:
        with FileSystems.create(unfinished, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            yield stream
        FileSystems.rename([unfinished], [path])
    except OSError as error:
        raise RuntimeError(f"{path} cannot be written: {error.strerror or error}.") from error


def write_text(path: str, text: str) -> None:
    """Write a small text file."""
    with create(path) as stream:
        stream.write(text.encode())


def write_records(path: str, examples: Sequence[bytes]) -> None:
    """Write a gzipped TFRecord file; the same Examples give the same bytes."""
    with create(path) as stream:
        for piece in tfrecord_file(examples):
            stream.write(piece)


@dataclasses.dataclass(frozen=True)
class RecordFiles:
    """Writes the files of the folders of a dataset.

    Attributes:
        output: The dataset folder.
        num_shards: Files of a folder. A shard without records has no file.
    """

    output: str
    num_shards: int

    def __call__(self, folder: str, shard: int, examples: Sequence[bytes]) -> tuple[str, str]:
        """Write one; gives its path in the dataset and the digest of what it holds."""
        name = f"{folder}/{records.shard_name(shard, self.num_shards)}"
        write_records(f"{self.output}/{name}", examples)
        return name, digest(examples)

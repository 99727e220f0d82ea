"""Writing files through Beam's file systems so that what has its name is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from typing import BinaryIO

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

# Ends the name of what is not whole.
UNFINISHED = ".unfinished"


def place(path: str) -> str:
    """One text for all the ways of naming a file or folder."""
    return path if "://" in path else os.path.realpath(path)


@contextlib.contextmanager
def create(path: str) -> Iterator[BinaryIO]:
    """A stream whose content gets its name only when all of it is written, so that a retried worker leaves no half."""
    unfinished = f"{path}.{uuid.uuid4().hex}{UNFINISHED}"
    with FileSystems.create(unfinished, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        yield stream
    FileSystems.rename([unfinished], [path])


def write_text(path: str, text: str) -> None:
    """Write a small text file."""
    with create(path) as stream:
        stream.write(text.encode())


def write_records(path: str, records: list[bytes]) -> None:
    """Write a gzipped TFRecord file; the same records give the same bytes."""
    import tensorflow as tf

    from seqrec_tf import records as records_lib

    # TensorFlow writes to local disk only, whatever file systems it was built with; Beam carries it from there.
    with tempfile.NamedTemporaryFile() as local:
        with tf.io.TFRecordWriter(local.name, records_lib.COMPRESSION) as writer:
            for record in records:
                writer.write(record)
        with open(local.name, "rb") as source, create(path) as target:
            shutil.copyfileobj(source, target, 1 << 20)

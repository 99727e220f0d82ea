"""What is done to files and folders, to see whether it is noticed."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Callable

import tensorflow as tf
from forked import in_fork

from seqrec_tf import records


def cut(file: pathlib.Path, share: float = 0.6) -> None:
    """Leave the first part of a file."""
    os.truncate(file, int(file.stat().st_size * share))


def flip(file: pathlib.Path) -> None:
    """Turn one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def halve_records(file: pathlib.Path) -> None:
    """Leave half of the records, in a file that is whole by itself."""
    kept = list(tf.data.TFRecordDataset(str(file), records.COMPRESSION).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(file), records.COMPRESSION) as writer:
        for record in kept[: len(kept) // 2]:
            writer.write(record)


def foreign_records(file: pathlib.Path) -> None:
    """Other records than Examples of the schema."""
    with tf.io.TFRecordWriter(str(file), records.COMPRESSION) as writer:
        writer.write(b"something else")


def of_same_size(file: pathlib.Path) -> None:
    """Another TFRecord file of as many bytes: a gzip file may have anything after its end."""
    size = file.stat().st_size
    foreign_records(file)
    file.write_bytes(file.read_bytes().ljust(size, b"\0"))


def shard(split: str) -> str:
    """The only file of a split."""
    return f"{split}/{records.shard_name(0, 1)}"


def each_of(split: str, function: Callable[..., object]) -> Callable[[pathlib.Path], object]:
    """Damages the shard of a split of a dataset."""
    return lambda folder: in_fork(function, folder / shard(split))


def in_folder(pattern: str, function: Callable[[pathlib.Path], object]) -> Callable[[pathlib.Path], object]:
    """Damages the files of a folder that match a pattern."""
    return lambda folder: [function(file) for file in folder.glob(pattern)]


def newest_checkpoint(pattern: str, function: Callable[[pathlib.Path], object]) -> Callable[[pathlib.Path], object]:
    """Damages a part of the newest checkpoint of a run."""
    return lambda run: function(max((run / "checkpoints").glob(pattern), key=lambda file: file.stat().st_mtime_ns))


def remove(name: str) -> Callable[[pathlib.Path], object]:
    """Removes a file of a folder, or a folder of it."""

    def damage(folder: pathlib.Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def replace(name: str, other: str) -> Callable[[pathlib.Path], object]:
    """Replaces a file of a folder with that of the same name of another folder of the shop."""
    return lambda folder: shutil.copy(folder.parent / "shop" / other / name, folder / name)

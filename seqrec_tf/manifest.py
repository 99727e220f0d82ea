"""What a folder holds, written last: of each file its bytes, its checksum and, of a TFRecord file, its records.

A dataset folder, a run folder and a version of a model have it as COMPLETED; the vectors of a column have it in their
`encoder.json`. So a folder is whole once this file is there, and what was cut, replaced or lost since is noticed:

  check_sizes     by whoever opens the folder: existence and bytes, without reading anything
  content         of a small file, checked as it is read
  damaged         by `seqrec check`, and where reading has failed: the checksums of files of any size

Example of a file:

  {
   "kind": "dataset",
   "made_by": "seqrec_tf 0.1.0",
   "files": {
    "train/part-00000-of-00001.tfrecord.gz": {"bytes": 51234, "crc32c": "9ae0daaf", "records": 943}
   },
   "checksum": "5d3f0c2e"
  }

The last line is the checksum of all before it. Only the standard library and crc32c are imported here; a remote file
(`gs://`) is read through TensorFlow.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from seqrec_tf import __version__
from seqrec_tf.schema import COMPLETED_FILE, ENCODER_FILE, VECTORS_FOLDER

DATASET, RUN, MODEL, VECTORS = "dataset", "run", "model", "vectors"
# Of each kind what writes it, for errors.
MADE_WITH = {DATASET: "seqrec prepare", RUN: "seqrec train", MODEL: "seqrec export", VECTORS: "seqrec embed"}

# Files whose sizes are asked for at once, as each answer of a remote file system takes its time.
_AT_ONCE = 16
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class File:
    """What was written to a file.

    Attributes:
        bytes: How many.
        crc32c: Their checksum, eight hexadecimal digits.
        records: Records of a TFRecord file; None of any other.
    """

    bytes: int
    crc32c: str
    records: int | None = None


class Summing:
    """A binary stream that is written on, with what was written so far as `file`."""

    def __init__(self, stream: Any):
        self._stream, self._bytes, self._crc = stream, 0, 0
        self.records: int | None = None

    def write(self, data: bytes) -> None:
        """Write some bytes on."""
        from crc32c import crc32c

        self._stream.write(data)
        self._bytes += len(data)
        self._crc = crc32c(data, self._crc)

    @property
    def file(self) -> File:
        """What a manifest says of it."""
        return File(self._bytes, f"{self._crc:08x}", self.records)


class Manifest:
    """The manifest of a folder, by `read`, or of vectors in it.

    Args:
        folder: Where the files are.
        kind: A key of MADE_WITH.
        files: Path in the folder to what was written there.
    """

    def __init__(self, folder: str, kind: str, files: Mapping[str, File]):
        self.folder, self.kind, self.files = folder, kind, dict(files)

    def path(self, name: str) -> str:
        """Where a file is."""
        return f"{self.folder}/{name}"

    def below(self, folder: str) -> list[str]:
        """The files of a folder of this one, sorted."""
        return sorted(name for name in self.files if name.startswith(f"{folder}/"))

    def check_sizes(self, names: Iterable[str] | None = None) -> None:
        """Raise an error that names the first file that is not there or has another size; nothing is read.

        Args:
            names: Of the files to look at; all where None.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file is shorter or longer than what was written.
        """
        names = list(self.files if names is None else names)
        with concurrent.futures.ThreadPoolExecutor(_AT_ONCE) as pool:
            sizes = pool.map(lambda name: size_of(self.path(name)), names) if _is_remote(self.folder) else None
            for name, size in zip(names, sizes or (size_of(self.path(name)) for name in names), strict=True):
                if problem := self._problem_of_size(name, size):
                    raise (FileNotFoundError if size is None else ValueError)(self.sentence(name, problem))

    def content(self, name: str) -> bytes:
        """All of a small file.

        Raises:
            FileNotFoundError: It is missing.
            ValueError: It is not what was written.
        """
        if size_of(self.path(name)) is None:
            raise FileNotFoundError(self.sentence(name, _MISSING))
        with _open(self.path(name)) as stream:
            content = stream.read()
        if name in self.files and (problem := self._problem(name, of_bytes(content))):
            raise ValueError(self.sentence(name, problem))
        return content

    def damaged(self, names: Iterable[str] | None = None) -> dict[str, str]:
        """What is wrong with files that are missing, cut, changed or replaced; reads all of each.

        Args:
            names: Of the files to read; all where None.
        """
        found = {}
        for name in self.files if names is None else names:
            size = size_of(self.path(name))
            problem = self._problem_of_size(name, size)
            if not problem:
                with _open(self.path(name)) as stream:
                    problem = self._problem(name, _of_stream(stream))
            if problem:
                found[name] = problem
        return found

    @contextlib.contextmanager
    def explaining(
        self, names: Iterable[str] | None = None, *, also: tuple[type[Exception], ...] = ()
    ) -> Iterator[None]:
        """Where reading the files fails, a sentence that names the damaged one takes the place of the library's.

        Args:
            names: Of the files that are read; all where None.
            also: What a damaged file may be said by, beside the errors of TensorFlow's runtime.

        Raises:
            ValueError: A file is not what was written.
        """
        try:
            yield
        except Exception as error:
            is_of_runtime = type(error).__module__.startswith("tensorflow")
            if type(error).__name__ == "ResourceExhaustedError" or not (is_of_runtime or isinstance(error, also)):
                raise
            for name, problem in self.damaged(names).items():
                raise ValueError(self.sentence(name, problem)) from error
            raise

    def sentence(self, name: str, problem: str) -> str:
        """An error: which file, what is wrong, what to do."""
        return f"{self.path(name)} {problem} {remedy(self.kind)}"

    def _problem_of_size(self, name: str, size: int | None) -> str:
        expected = self.files[name].bytes
        if size is None:
            return _MISSING
        if size != expected:
            how = (
                "it is empty" if not size else "it was cut short or replaced" if size < expected else "it was replaced"
            )
            return f"has {size:,} bytes where {expected:,} were written: {how}."
        return ""

    def _problem(self, name: str, found: File) -> str:
        expected = self.files[name]
        if problem := self._problem_of_size(name, found.bytes):
            return problem
        if found.crc32c != expected.crc32c:
            return (
                f"is not what was written: its checksum is {found.crc32c} where {expected.crc32c} is expected; it was "
                "changed or replaced."
            )
        return ""


_MISSING = "is missing: the folder was not copied as a whole, or the file was removed."


def remedy(kind: str) -> str:
    """What to do about a damaged file."""
    what = "vectors" if kind == VECTORS else "folder"
    return f"Copy the {what} again, or make it anew with `{MADE_WITH[kind]}`."


def of_bytes(content: bytes) -> File:
    """What a manifest says of a file that holds this."""
    from crc32c import crc32c

    return File(len(content), f"{crc32c(content):08x}")


def of_folder(folder: str | os.PathLike, names: Iterable[str]) -> dict[str, File]:
    """What a manifest says of files of a folder of this machine."""
    files = {}
    for name in sorted(names):
        with open(os.path.join(folder, name), "rb") as stream:
            files[name] = _of_stream(stream)
    return files


def to_json(kind: str, files: Mapping[str, File]) -> str:
    """The text of COMPLETED."""
    return seal({"kind": kind, "made_by": f"seqrec_tf {__version__}", "files": as_dict(files)})


def as_dict(files: Mapping[str, File]) -> dict[str, dict[str, Any]]:
    """The files as JSON-serialisable values, by name."""
    return {
        name: {key: value for key, value in dataclasses.asdict(file).items() if value is not None}
        for name, file in sorted(files.items())
    }


def from_dict(files: Mapping[str, Mapping[str, Any]]) -> dict[str, File]:
    """The inverse of `as_dict`."""
    return {name: File(**about) for name, about in files.items()}


def read(folder: str | os.PathLike, kind: str | None = None) -> Manifest:
    """The manifest of a folder; whatever reads one reads it by this.

    Args:
        folder: A dataset folder, a run folder or a version of a model, local or remote.
        kind: What the folder must be; None where it may be any.

    Raises:
        FileNotFoundError: The folder has none, so it is not whole.
        ValueError: It is damaged, or of a folder of another kind.
    """
    folder = str(folder)
    path = f"{folder}/{COMPLETED_FILE}"
    if size_of(path) is None:
        raise FileNotFoundError(f"{folder} has no {COMPLETED_FILE} file.")
    with _open(path) as stream:
        values = unseal(stream.read(), path, kind or DATASET)
    if kind and values["kind"] != kind:
        raise ValueError(f"{folder} is the folder of a {values['kind']}, and that of a {kind} is needed.")
    return Manifest(folder, values["kind"], from_dict(values["files"]))


def read_vectors(dataset: str, column: str) -> tuple[dict[str, Any], Manifest] | None:
    """What `encoder.json` says of the vectors of a column, and their manifest; None where there are none.

    Raises:
        ValueError: It is damaged.
    """
    folder = f"{dataset}/{VECTORS_FOLDER}/{column}"
    path = f"{folder}/{ENCODER_FILE}"
    if size_of(path) is None:
        return None
    with _open(path) as stream:
        about = unseal(stream.read(), path, VECTORS)
    return about, Manifest(folder, VECTORS, from_dict(about["files"]))


def seal(values: Mapping[str, Any]) -> str:
    """A JSON object as text whose last line is the checksum of all before it."""
    text = json.dumps({**values, "checksum": ""}, indent=1, ensure_ascii=False)
    before = text[: -len('"\n}')]
    return f'{before}{of_bytes(before.encode()).crc32c}"\n}}\n'


def unseal(content: bytes, path: str, kind: str) -> dict[str, Any]:
    """The inverse of `seal`, of what a file holds.

    Raises:
        ValueError: It is not what was written.
    """
    before, checksum = content[: -len('12345678"\n}\n')], content[-len('12345678"\n}\n') :][:8]
    try:
        if of_bytes(before).crc32c.encode() != checksum:
            raise ValueError
        return json.loads(content)
    except ValueError:
        what = "empty" if not content else "not what was written"
        raise ValueError(
            f"{path} is {what}: it was changed, cut short, or written by another version of seqrec_tf. {remedy(kind)}"
        ) from None


def size_of(path: str) -> int | None:
    """Bytes of a file, local or remote; None where there is none."""
    if not _is_remote(path):
        try:
            return os.stat(path).st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
    import tensorflow as tf

    try:
        return tf.io.gfile.stat(path).length
    except tf.errors.NotFoundError:
        return None


def names_in(folder: str) -> list[str]:
    """What a folder holds, local or remote, sorted; nothing where there is none."""
    if not _is_remote(folder):
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    import tensorflow as tf

    names = tf.io.gfile.listdir(folder) if tf.io.gfile.isdir(folder) else []  # no glob, to which [ is no letter
    return sorted(name.rstrip("/") for name in names)


def _of_stream(stream: Any) -> File:
    summing = Summing(_Nowhere)
    while chunk := stream.read(_CHUNK):
        summing.write(chunk)
    return summing.file


class _Nowhere:
    @staticmethod
    def write(data: bytes) -> None:
        """Write nothing."""


def _is_remote(path: str) -> bool:
    return "://" in path


def _open(path: str) -> Any:
    if not _is_remote(path):
        return open(path, "rb")
    import tensorflow as tf

    return tf.io.gfile.GFile(path, "rb")

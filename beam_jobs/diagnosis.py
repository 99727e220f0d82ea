"""Why a file cannot be read as the format that was guessed or given: the usual causes, each with the way out."""

from __future__ import annotations

import codecs
import contextlib
import csv
import dataclasses
import json
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems

from beam_jobs import lines as lines_lib
from beam_jobs import parsing, quotes
from beam_jobs.parsing import LineError, TextFormat

HEAD_BYTES = 1 << 20
# So many lines tell how many of all are in another encoding.
_ENOUGH_LINES = 1_000
_LINES = 100
_GZIP, _PARQUET = b"\x1f\x8b", b"PAR1"
# The first bytes of files that are no text, what these are, and what to do.
_KINDS = (
    (_PARQUET, "a Parquet file", "give {format} parquet"),
    (_GZIP, "gzipped", "give it a name that ends in .gz"),
    (b"BZh", "compressed by bzip2", "decompress it, or compress it by gzip"),
    (b"\xfd7zXZ", "compressed by xz", "decompress it, or compress it by gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd", "decompress it, or compress it by gzip"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook", "save its sheet as CSV UTF-8"),
    (b"Obj\x01", "an Avro file", "write it as Parquet"),
    (b"ORC", "an ORC file", "write it as Parquet"),
    (b"ARROW1", "an Arrow file", "write it as Parquet"),
    (b"SQLite format 3", "an SQLite database", "write its table as CSV"),
)
_MARKS = (  # that of UTF-32 begins as that of UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe", "::": "::", " ": "space"}


@dataclasses.dataclass(frozen=True)
class Given:
    """What the options say of some files.

    Attributes:
        format: One of `options.FORMATS`.
        encoding: As given.
        prefix: What the names of the options begin with: "--", "--items-" or "--users-".
        max_rejected: The largest share of lines that may be rejected.
    """

    format: str
    encoding: str = "utf-8"
    prefix: str = "--"
    max_rejected: float = 1.0

    @property
    def is_text(self) -> bool:
        """Whether the files have lines."""
        return self.format != "parquet"


def check_kind(path: str, given: Given) -> None:
    """Raise a ValueError where the first bytes of a file say that it is not of its format."""
    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        head = stream.read(4096)
    if not head:
        return
    is_gzip = head.startswith(_GZIP)
    if lines_lib.is_gzip(path) and given.is_text:
        if not is_gzip:
            raise ValueError(f"{path} is not gzipped, though its name ends in .gz; give it one without .gz.")
        with lines_lib.open_binary(path) as stream:
            head = stream.read(4096)
    if not head:
        return
    is_binary = min(head) < ord("\t")
    for magic, what, cure in _KINDS:
        if is_binary and head.startswith(magic) and not (magic == _PARQUET and not given.is_text):
            if magic == b"PK\x03\x04" and (b"[Content_Types].xml" in head or b"xl/" in head):
                what, cure = "an Excel workbook", "save its sheet as CSV UTF-8"
            raise ValueError(f"{path} is {what}; {cure.format(format=f'{given.prefix}format')}.")
    start = head.removeprefix(codecs.BOM_UTF8).lstrip()[:200].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        what = "XML" if start.startswith(b"<?xml") else "an HTML page: a download that failed, most likely"
        raise ValueError(f"{path} is {what}. Fetch the data itself, as CSV, JSON lines or Parquet.")
    if not given.is_text:
        if not head.startswith(_PARQUET):
            raise ValueError(
                f"{path} is no Parquet file; it begins with {_shown(head)}. Give {given.prefix}format as it is."
            )
        return
    _check_unicode(path, head, given)


def _check_unicode(path: str, head: bytes, given: Given) -> None:
    """Raise a ValueError where text is of two or four bytes a letter and not said to be, or the other way round."""
    option = f"{given.prefix}encoding"
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "")
    is_marked = bool(encoding)
    if not encoding and head.count(0) > len(head) // 4:
        encoding = "utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be"
    is_wide = given.encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32", "utf16", "utf32"))
    if encoding and not is_wide:
        how = f"begins with the mark of {encoding.upper()}" if is_marked else f"seems to be {encoding.upper()}"
        raise ValueError(f"{path} {how}, and {option} is {given.encoding}. Give {option} {encoding}.")
    if is_wide and not encoding and 0 not in head:
        raise ValueError(f"{path} is not {given.encoding}, but UTF-8 perhaps; leave out {option}.")


def check_encoding(path: str, text_format: TextFormat, given: Given) -> None:
    """Raise a ValueError where more lines than may be rejected are in another encoding, by the first of them."""
    with lines_lib.open_binary(path, text_format) as stream:
        head = stream.read(HEAD_BYTES)
        is_whole = not stream.read(1)
    with contextlib.suppress(UnicodeDecodeError):
        head.decode(text_format.encoding)
        return
    lines = head.splitlines(keepends=True)
    broken = [number for number, line in enumerate(lines, start=1) if not _is_text(line, text_format)]
    last_is_cut = not is_whole and bool(broken) and broken[-1] == len(lines)
    if (is_whole or len(lines) >= _ENOUGH_LINES) and len(broken) - last_is_cut > given.max_rejected * len(lines):
        raise ValueError(_of_encoding(path, lines, broken, text_format, given))


def _of_encoding(
    path: str, lines: Sequence[bytes], broken: Sequence[int], text_format: TextFormat, given: Given
) -> str:
    line = lines[broken[0] - 1]
    other = "cp1252" if all(_is_in(lines[number - 1], "cp1252") for number in broken) else "latin-1"
    return (
        f"{path} is not {text_format.encoding}: line {broken[0]}, {_shown(line.rstrip())}, and {len(broken):,} of the "
        f"first {len(lines):,} lines. If it is Western European, give {given.prefix}encoding {other}; else its own."
    )


@contextlib.contextmanager
def explained(path: str, text_format: TextFormat | None, given: Given, columns: Sequence[Any]) -> Iterator[None]:
    """Give the ValueError of a first look the sentence of its cause, where that is a usual one.

    Args:
        path: What is looked at.
        text_format: How its lines are written, None for Parquet.
        given: What the options say.
        columns: Names or numbers of those that must be there.
    """
    try:
        yield
    except ValueError as error:
        cause = _cause(path, text_format, given, [column for column in columns if column is not None])
        if not cause:
            raise
        raise ValueError(cause) from error


def _cause(path: str, text_format: TextFormat | None, given: Given, columns: Sequence[str | int]) -> str:
    if text_format is None:
        return _of_parquet(path, columns)
    with lines_lib.open_binary(path, text_format) as stream:
        head = stream.read(HEAD_BYTES).removeprefix(codecs.BOM_UTF8)
    returns = head.count(b"\r") - head.count(b"\r\n")
    if returns > 1 and returns > head.count(b"\n"):
        new = shlex.quote(f"{path}.new")
        return (
            f"The lines of {path} end with a carriage return alone. Convert it: "
            f"tr '\\r' '\\n' < {shlex.quote(path)} > {new}"
        )
    lines = [line for line in head.split(b"\n")[:_LINES] if not text_format.is_blank(line + b"\n")]
    return (
        _of_json(path, head, lines, text_format, given, columns)
        or _of_lines(path, head, lines, text_format, given)
        or (_of_fields(path, lines, text_format, given, columns) if text_format.format == "csv" else "")
    )


def _of_json(
    path: str, head: bytes, lines: Sequence[bytes], text_format: TextFormat, given: Given, columns: Sequence[str | int]
) -> str:
    """What is wrong with JSON, or with CSV that is JSON."""
    is_json = text_format.format == "jsonl"
    start = head.lstrip()
    rows = [_json(line) for line in lines]
    also = "" if is_json else f", and give {given.prefix}format jsonl"
    new = shlex.quote(f"{path}.jsonl")
    if start.startswith(b"[") and start[1:].lstrip()[:1] in (b"{", b"[", b"]"):
        how = f"jq -c '.[]' {shlex.quote(path)} > {new}{also}"
        return f"{path} is one JSON array; a line must hold one object. Convert it: {how}"
    if start.startswith(b"{") and not any(isinstance(row, dict) for row in rows):
        how = f"jq -c . {shlex.quote(path)} > {new}{also}"
        return f"{path} is JSON whose objects take several lines; each must be one line. Convert it: {how}"
    if not is_json:
        is_lines = start.startswith(b"{") and isinstance(rows[0], dict)
        return f"{path} holds JSON lines; give {given.prefix}format jsonl." if is_lines else ""
    if rows and not any(isinstance(row, dict) for row in rows):
        return (
            f"The lines of {path} are no JSON objects; the first is {_shown(lines[0])}. "
            f"Give {given.prefix}format csv, if that is what it is."
        )
    for row in rows:
        if isinstance(row, dict):
            for name, value in row.items():
                inside = sorted(set(value).intersection(columns)) if isinstance(value, dict) else []
                if inside:
                    return _nested(path, name, f"{inside[0]!r} is inside {name!r}")
                if name in columns and isinstance(value, (dict, list)):
                    return _nested(path, name, f"{name!r} holds {_shown(json.dumps(value).encode())}")
    return ""


def _json(line: bytes) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(line)
    return None


def _nested(path: str, name: str, what: str) -> str:
    return (
        f"{path} has nested fields: {what}. A column must hold one text or number a row; write {name!r} as such first."
    )


def _of_parquet(path: str, columns: Sequence[str | int]) -> str:
    import pyarrow as pa
    import pyarrow.parquet

    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        schema = pyarrow.parquet.read_schema(stream)
    for number, field in enumerate(schema):
        if pa.types.is_nested(field.type):
            if field.name in columns or number in columns:
                return _nested(path, field.name, f"{field.name!r} is of type {field.type}")
            if pa.types.is_struct(field.type):
                inside = sorted({part.name for part in field.type}.intersection(columns))
                if inside:
                    return _nested(path, field.name, f"{inside[0]!r} is inside {field.name!r}")
    return ""


def _of_lines(path: str, head: bytes, lines: Sequence[bytes], text_format: TextFormat, given: Given) -> str:
    """What is wrong with bytes and quotes."""
    broken = [number for number, line in enumerate(lines, start=1) if not _is_text(line, text_format)]
    if broken and (broken[0] == 1 or len(broken) > len(lines) / 2):
        return _of_encoding(path, lines, broken, text_format, given)
    if not quotes.may_hold_breaks(text_format) or text_format.multiline:
        return ""
    if line := quotes.line_with_breaks(head, text_format):
        return (
            f"{path}, line {line}: a quoted field holds a line break. Give {given.prefix}multiline yes, or "
            f"{given.prefix}no-quotes if quotes are letters."
        )
    unmatched = [number for number, line in enumerate(lines, start=1) if _has_open_quote(line, text_format)]
    if unmatched and (unmatched[0] == 1 or len(unmatched) > len(lines) / 2):
        return (
            f"{path}, line {unmatched[0]}: quotes do not match, as in {len(unmatched)} of the first {len(lines)} lines."
            f" Give {given.prefix}no-quotes if quotes are letters."
        )
    return ""


def _has_open_quote(line: bytes, text_format: TextFormat) -> bool:
    try:
        text_format.split(text_format.decode(line))
    except LineError as error:
        return error.reason == "quotes do not match"
    return False


def _of_fields(
    path: str, lines: Sequence[bytes], text_format: TextFormat, given: Given, columns: Sequence[str | int]
) -> str:
    """What is wrong with the delimiter or the header."""
    rows = [_split(line, text_format.delimiter, text_format) for line in lines]
    if not rows or _has_all(rows, columns):
        return ""
    for delimiter, name in _DELIMITERS.items():
        others = [_split(line, delimiter, text_format) for line in lines]
        if delimiter != text_format.delimiter and _has_all(others, columns):
            return (
                f"{path} has other fields than {_listed(columns)} between {text_format.delimiter!r}; between "
                f"{delimiter!r} it has {_listed(others[0])}. Give {given.prefix}delimiter {name}."
            )
    names = [column for column in columns if isinstance(column, str)]
    if names and not set(names).intersection(rows[0]) and any(_is_value(field) for field in rows[0]):
        how = (
            "Give columns by number, from 0, such as --user-column 0."
            if given.prefix == "--"
            else f"Name them with {given.prefix}columns."
        )
        return f"{path} seems to have no header: its first line is {_shown(lines[0])}. {how}"
    return ""


def _split(line: bytes, delimiter: str, text_format: TextFormat) -> list[str]:
    text = line.decode(text_format.encoding, errors="replace").rstrip("\r\n")
    if delimiter == " ":
        return text.split()
    if not text_format.quoted or len(delimiter) > 1 or '"' not in text:
        return text.split(delimiter)
    return next(csv.reader([text], delimiter=delimiter), [])


def _has_all(rows: Sequence[Sequence[str]], columns: Sequence[str | int]) -> bool:
    """Whether the first row names all columns that have names, and most rows have those that have numbers."""
    numbers = [column for column in columns if isinstance(column, int)]
    least = max([*numbers, 1]) + 1 if len(columns) > 1 else max([*numbers, 0]) + 1
    names = {column for column in columns if isinstance(column, str)}
    return names.issubset(rows[0]) and sum(len(row) >= least for row in rows) > len(rows) / 2


def _is_value(text: str) -> bool:
    """Whether a field is a number or a time, as no column is called."""
    for parse in (parsing.parse_number, parsing.parse_iso):
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            parse(text)
            return True
    return False


def _is_text(line: bytes, text_format: TextFormat) -> bool:
    return _is_in(line, text_format.encoding)


def _is_in(line: bytes, encoding: str) -> bool:
    try:
        line.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _listed(names: Sequence[str | int]) -> str:
    return ", ".join(repr(name) for name in names[:20])


def _shown(data: bytes) -> str:
    return repr(data[:60].decode("utf-8", errors="backslashreplace")).replace("\\\\", "\\")

"""What `seqrec prepare` finds out about its input before the work: files, format, columns, unit of time.

Whatever is wrong with the options and shows in the first lines of the files is reported here, as ValueError or
FileNotFoundError.
"""

from __future__ import annotations

import codecs
import collections
import concurrent.futures
import dataclasses
import difflib
import functools
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from apache_beam.io.filesystem import CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from beam_jobs import diagnosis, parsing, quotes, read_events, storage, times
from beam_jobs import lines as lines_lib
from beam_jobs.diagnosis import Given
from beam_jobs.lines import Range
from beam_jobs.options import FORMATS, NONE, Options, TableOptions, flag, no_match
from beam_jobs.parsing import Columns, EventParser, LineError, TextFormat
from beam_jobs.where import Condition, Where
from seqrec_tf import features
from seqrec_tf import schema as schema_lib
from seqrec_tf.ids import NULLS
from seqrec_tf.schema import ITEM_ID, Feature

_BY_EXTENSION = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_DELIMITERS = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "pipe": "|", "semicolon": ";"}
_LINES_TO_PEEK = 100
_ROWS_TO_PEEK = 1_000
# Where the first lines do not tell days from months: files are by time, and the first of them of a few days.
_LINES_TO_TELL_DAYS = 100_000
_FILES_AT_ONCE = 32
_FILES_TO_CHECK = 100
# How much of a file is looked at for line breaks in quoted fields.
_HEAD_BYTES = 1 << 20
_WITH_LINE_BREAKS = "line breaks in quoted fields of {path}, so each file is read whole, by one worker ({option})"

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class EventsInput:
    """The events files.

    Attributes:
        parts: What to read.
        num_files: How many files there are.
        num_bytes: Their size, gzip counted as what it may hold.
        text_format: How lines are written, None for Parquet.
        columns: What to take of them.
        time_format: One of `parsing.TIME_FORMATS`, "" where events have no time.
        where: Which events are wanted; None: all.
        notes: What was inferred, a line each.
    """

    parts: tuple[Range, ...]
    num_files: int
    num_bytes: int
    text_format: TextFormat | None
    columns: Columns
    time_format: str
    where: Where | None
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class TableInput:
    """The items or users files: what to read, its size, the features that come of it, what was inferred."""

    parts: tuple[Range, ...]
    num_bytes: int
    text_format: TextFormat | None
    id_column: str | int
    columns: tuple[str | int, ...]
    features: tuple[Feature, ...]
    notes: tuple[str, ...]


def find_files(patterns: Sequence[str], option: str) -> list[FileMetadata]:
    """The files that match: patterns in their order, the files of one pattern in the order of their paths."""
    found: dict[str, FileMetadata] = {}
    for pattern in patterns:
        is_local = "://" not in pattern
        # Beam finds nothing by a local pattern that does not begin with a folder.
        matches = FileSystems.match([os.path.join(os.curdir, pattern) if is_local else pattern])[0].metadata_list
        if is_local:
            matches = [FileMetadata(os.path.normpath(match.path), match.size_in_bytes) for match in matches]
        if not matches:
            raise no_match(option, pattern)
        if len(matches) == 1 and os.path.isdir(matches[0].path):
            raise ValueError(
                f"{option} {pattern} is a folder; give its files, for example '{pattern.rstrip('/')}/*.csv'."
            )
        for match in sorted(matches, key=lambda match: match.path):
            found.setdefault(storage.place(match.path), match)
    return list(found.values())


def inspect_events(options: Options) -> EventsInput:
    """Look at the events files."""
    files, given, parts = _events_files(options)
    format_ = given.format
    for name in ("delimiter", "no_quotes", "header", "multiline"):
        if format_ in ("jsonl", "parquet") and getattr(options, name) != getattr(Options, name):
            raise ValueError(f"{flag(name)} does not apply to --format {format_}.")
    if options.no_quotes and len(_DELIMITERS.get(options.delimiter, options.delimiter)) > 1:
        raise ValueError(
            "--no-quotes changes nothing: with a delimiter of several characters, double quotes are ordinary already."
        )
    if format_ == "parquet" and options.encoding != Options.encoding:
        raise ValueError("--encoding does not apply to --format parquet.")
    notes = [f"format {format_}"] if options.format == "auto" else []
    if not parts:
        raise ValueError(f"The input files are empty: {files[0].path}.")
    columns, text_format, time_format, where = Columns(item=0), None, "", None
    if format_ == "sequences":
        columns = Columns(user=0 if options.user_column == "0" else None, item=0)
        text_format = _text_format(format_, options.delimiter or " ", options.encoding, quoted=False)
        _first_with_records(parts, text_format, given)
    else:
        names = {field.name: getattr(options, f"{field.name}_column") for field in dataclasses.fields(Columns)}
        columns = Columns(**{name: _column(text, has_numbers=format_ != "jsonl") for name, text in names.items()})
        where = _where(options.where, has_numbers=format_ != "jsonl")
        path, text_format, sample = _sample(options, given, parts, columns, where)
        if text_format is not None and text_format.multiline:
            notes.append(_WITH_LINE_BREAKS.format(path=path, option="--multiline"))
        with diagnosis.explained(path, text_format, given, tuple(columns)):
            if columns.time is not None:
                time_format = options.time_format
                if time_format == "auto":
                    time_format, value = _infer_time(
                        sample, path, lambda: _sample(options, given, parts, columns, where, _LINES_TO_TELL_DAYS)[2]
                    )
                    notes.append(f"time format {time_format} (as in {value!r})")
            if options.max_rejected < 1:
                parser = EventParser(columns, time_format=time_format, label_threshold=options.label_threshold)
                _check_sample(sample, path, parser)
    parts = _whole_files(parts, text_format)
    num_bytes = _plain_bytes(files)
    return EventsInput(tuple(parts), len(files), num_bytes, text_format, columns, time_format, where, tuple(notes))


def _plain_bytes(files: Sequence[FileMetadata]) -> int:
    """Size of the files, gzip counted as what it may hold."""
    return sum(file.size_in_bytes * (4 if lines_lib.is_gzip(file.path) else 1) for file in files)


def _whole_files(parts: Sequence[Range], text_format: TextFormat | None) -> list[Range]:
    """The ranges or, where lines cannot be told apart in the middle of a file, a range a file."""
    if text_format is None or not (text_format.multiline or text_format.stored_as):
        return list(parts)
    number = min(part.number for part in parts)
    firsts = [part for part in parts if part.start == 0]
    return [
        dataclasses.replace(part, number=k, first_number=k, end=None) for k, part in enumerate(firsts, start=number)
    ]


def _events_files(options: Options) -> tuple[list[FileMetadata], Given, list[Range]]:
    """The events files, what is said of them and their ranges; with `--split files` those of each split."""
    parts: list[Range] = []
    files: list[FileMetadata] = []
    format_ = options.format
    for role, patterns, option in (
        ("train" if options.split == "files" else "", options.input, "--input"),
        ("valid", options.valid_input, "--valid-input"),
        ("test", options.test_input, "--test-input"),
    ):
        found = find_files(patterns, option)
        known = {storage.place(file.path) for file in files}
        if twice := [file.path for file in found if storage.place(file.path) in known]:
            raise ValueError(f"{twice[0]} is given twice, the second time by {option}.")
        files += found
        format_ = _format(options.format, [file.path for file in files], "--format")
        given = Given(format_, options.encoding, "--", options.max_rejected)
        _check_kinds(found, given)
        parts += cut_files(
            found,
            role,
            is_parquet=format_ == "parquet",
            first_rank=len(files) - len(found),
            first_number=len(parts),
            range_bytes=options.range_bytes,
        )
    return files, given, parts


def _check_kinds(files: Sequence[FileMetadata], given: Given) -> None:
    """Raise a ValueError where one of the first files is of another kind than it should be."""
    _of_each(functools.partial(diagnosis.check_kind, given=given), [file.path for file in files[:_FILES_TO_CHECK]])


def _sample(
    options: Options,
    given: Given,
    parts: Sequence[Range],
    columns: Columns,
    where: Where | None,
    number: int = _LINES_TO_PEEK,
) -> tuple[str, TextFormat | None, list[Sequence]]:
    """A file that holds records, how its lines are written, and the values of `columns` in its first wanted records.

    `number` says how many lines are looked at.
    """
    more = where.columns if where else ()
    if given.format == "parquet":
        paths = list(dict.fromkeys(part.path for part in parts))
        for path, names in zip(paths, _of_each(_parquet_names, paths), strict=True):
            with diagnosis.explained(path, None, given, tuple(columns)):
                _check_columns(columns, names, path)
                _check_where(more, names, path)
        records = read_events.read_parquet(parts[0], (*columns, *more))
        return parts[0].path, None, _wanted(list(itertools.islice(records, number)), where)
    text_format = _text_format(
        given.format,
        options.delimiter,
        options.encoding,
        quoted=not options.no_quotes,
        has_header=options.header or any(isinstance(column, str) for column in columns),
    )
    path = _first_with_records(parts, text_format, given).path
    text_format = _with_multiline(path, text_format, options.multiline, "--multiline")
    diagnosis.check_encoding(path, text_format, given)
    with diagnosis.explained(path, text_format, given, tuple(columns)):
        text_format, rows = _peek(path, text_format, columns, more, number)
    return path, text_format, _wanted(rows, where)


def _wanted(rows: Sequence[Sequence], where: Where | None) -> list[Sequence]:
    """The rows that `where` wants, without its columns; all of them where it wants none of the first."""
    number = len(dataclasses.fields(Columns))
    is_wanted = where.condition.of_rows([row[number:] for row in rows]).to_pylist() if where else []
    chosen = list(itertools.compress(rows, is_wanted)) or rows
    return [row[:number] for row in chosen]


def _where(text: str, *, has_numbers: bool) -> Where | None:
    if not text:
        return None
    condition = Condition.of(text)
    return Where(tuple(_name_or_number(name, has_numbers=has_numbers) for name in condition.names), condition)


def _check_where(columns: Sequence[str | int], names: Sequence[str], path: str) -> None:
    for column in columns:
        if column not in (range(len(names)) if isinstance(column, int) else names):
            raise ValueError(
                f"{path} has no column {column!r} (--where; a text stands in 'single quotes')"
                f"{_nearest(str(column), names)}."
            )


def _with_multiline(path: str, text_format: TextFormat, wanted: str, option: str) -> TextFormat:
    """The format, with the word of `option`, or of the beginning of a file, on line breaks in quoted fields."""
    can_be = quotes.may_hold_breaks(text_format)
    if wanted == "yes" and not can_be:
        raise ValueError(f"{option} yes needs quoted fields, which these files do not have by the other options.")
    if wanted == "auto" and can_be:
        with lines_lib.open_binary(path, text_format) as stream:
            return dataclasses.replace(
                text_format, multiline=quotes.line_with_breaks(stream.read(_HEAD_BYTES), text_format) > 0
            )
    return dataclasses.replace(text_format, multiline=wanted == "yes")


def inspect_table(options: Options, one: str, *, first_number: int) -> TableInput:
    """Look at the files that describe items or users.

    Args:
        options: The options of the job.
        one: "item" or "user".
        first_number: Number of the first range.
    """
    table: TableOptions = getattr(options, f"{one}s")
    files = find_files(table.files, f"--{one}s")
    format_ = _format(table.format, [file.path for file in files], f"--{one}s-format")
    given = Given(format_, table.encoding, f"--{one}s-", options.max_rejected)
    if format_ in ("jsonl", "parquet") and table.multiline != TableOptions.multiline:
        raise ValueError(f"{flag(table.option('multiline'))} does not apply to --{one}s-format {format_}.")
    _check_kinds(files, given)
    parts = cut_files(
        files,
        f"{one}s",
        is_parquet=format_ == "parquet",
        first_rank=0,
        first_number=first_number,
        range_bytes=options.range_bytes,
    )
    first, text_format, columns = _table_columns(table, files, given, parts)
    names, path = list(columns), first.path
    if text_format is not None:
        diagnosis.check_encoding(path, text_format, given)
    if table.id_column not in names:
        with diagnosis.explained(path, text_format, given, (table.id_column,)):
            nearest = _nearest(table.id_column, names)
            raise ValueError(f"{path} has no column {table.id_column!r} (--{one}-id-column){nearest}.")
    id_column = columns.pop(table.id_column)
    others = _feature_columns(_taken(columns, options, one, path), one, path)
    for name in options.required_item_features if one == "item" else ():
        if name not in others:
            raise ValueError(
                f"The items files have no column {name!r} (--require-item-features){_nearest(name, list(others))}."
            )
    kinds = _declared_kinds(table.feature, one, list(others))
    notes = []
    if missing := [name for name in others if name not in kinds]:
        peeked = read_events.peek_table(first, text_format, tuple(others.values()), _ROWS_TO_PEEK)
        fields = dict(zip(others, zip(*peeked, strict=True), strict=False))
        inferred = {name: features.infer(fields.get(name, ())) for name in missing}
        kinds |= inferred
        notes.append(f"{one} features {' '.join(f'{name}:{kind}' for name, kind in inferred.items())}")
    if text_format is not None and text_format.multiline:
        notes.insert(0, _WITH_LINE_BREAKS.format(path=path, option=flag(table.option("multiline"))))
    return TableInput(
        tuple(_whole_files(parts, text_format)),
        _plain_bytes(files),
        text_format,
        id_column,
        tuple(others.values()),
        tuple(features.feature_of(name, kinds[name]) for name in others),
        tuple(notes),
    )


def _table_columns(
    table: TableOptions, files: Sequence[FileMetadata], given: Given, parts: Sequence[Range]
) -> tuple[Range, TextFormat | None, dict[str, str | int]]:
    """A range that holds records, how its lines are written, and its columns: name to name or number in the file."""
    names = [name.strip() for name in table.columns.split(",") if name.strip()]
    format_ = given.format
    if format_ == "parquet":
        path = files[0].path
        names = names or _parquet_names(path)
        if not parts:
            raise ValueError(f"The files are empty: {path} holds no record.")
        paths = [file.path for file in files]
        for other, its_names in zip(paths, _of_each(_parquet_names, paths), strict=True):
            if missing := sorted(set(names).difference(its_names)):
                raise ValueError(f"{other} has no column {missing[0]!r}, which {path} has.")
        first, text_format = parts[0], None
    else:
        text_format = _text_format(
            format_, table.delimiter, table.encoding, quoted=not table.no_quotes, has_header=not names
        )
        first = _first_with_records(parts, text_format, given)
        path = first.path
        text_format = _with_multiline(path, text_format, table.multiline, flag(table.option("multiline")))
        if text_format.multiline or text_format.stored_as:
            first = dataclasses.replace(first, end=None)
        if format_ == "jsonl":
            names = names or _json_names(path, text_format)
        elif not names:
            names = lines_lib.read_header(path, text_format) or []
        else:
            _check_no_header(path, text_format, names, table)
            text_format = dataclasses.replace(text_format, num_columns=len(names))
    _check_distinct(names, f"{path} has more than one column named", f"name them with {flag(table.option('columns'))}")
    has_no_header = text_format is not None and text_format.num_columns > 0
    return first, text_format, {name: number if has_no_header else name for number, name in enumerate(names)}


def _check_no_header(path: str, text_format: TextFormat, names: Sequence[str], table: TableOptions) -> None:
    """Raise a ValueError where the columns are named of a file that names them itself."""
    with_header = dataclasses.replace(text_format, has_header=True)
    if set(names) <= set(lines_lib.read_header(path, with_header) or ()):
        raise ValueError(
            f"{path} names its columns in its first line, so leave out {flag(table.option('columns'))}, which is for "
            f"files that do not. {flag(table.option('take'))} says which of them to take."
        )


def _taken(columns: dict[str, str | int], options: Options, one: str, path: str) -> dict[str, str | int]:
    """The columns to make features of: all, unless some are named."""
    table: TableOptions = getattr(options, f"{one}s")
    named = [name.strip() for name in table.take.split(",") if name.strip()]
    if not named:
        return columns
    for name in named:
        if name not in columns:
            raise ValueError(f"{path} has no column {name!r} (--{one}-columns){_nearest(name, list(columns))}.")
    also = {features.name_of(declaration.rpartition(":")[0] or declaration) for declaration in table.feature}
    also |= set(options.required_item_features if one == "item" else ())
    return {name: of for name, of in columns.items() if name in named or features.name_of(name) in also}


def _feature_columns(columns: Mapping[str, str | int], one: str, path: str) -> dict[str, str | int]:
    """The columns by the names of their features."""
    names = [features.name_of(name) for name in columns]
    reserved = {ITEM_ID} if one == "item" else schema_lib.RESERVED_NAMES
    if taken := sorted(reserved.intersection(names)):
        raise ValueError(
            f"{path} has a column {taken[0]!r} that is not the --{one}-id-column, and records have something else by "
            f"that name; name it differently with --{one}s-columns."
        )
    _check_distinct(names, f"{path} has more than one column for a feature named", "rename one")
    return dict(zip(names, columns.values(), strict=True))


def _check_distinct(names: Sequence[str], what: str, cure: str) -> None:
    repeated = [name for name, number in collections.Counter(names).items() if number > 1]
    if repeated:
        raise ValueError(f"{what} {repeated[0]!r}; {cure}.")


def _declared_kinds(declarations: Sequence[str], one: str, names: Sequence[str]) -> dict[str, str]:
    kinds = {}
    for declaration in declarations:
        name, colon, kind = declaration.rpartition(":")
        if not colon:
            raise ValueError(f"--{one}-feature expects NAME:KIND, such as price:number, got {declaration!r}.")
        name = features.name_of(name)
        if name not in names:
            raise ValueError(f"The {one}s files have no column {name!r} (--{one}-feature){_nearest(name, names)}.")
        kinds[name] = features.feature_of(name, kind).kind
    return kinds


def cut_files(
    files: Sequence[FileMetadata], role: str, *, is_parquet: bool, first_rank: int, first_number: int, range_bytes: int
) -> list[Range]:
    """Ranges of about `range_bytes`; gzip files whole, Parquet files by row group."""
    parts: list[Range] = []
    groups_of_files = _of_each(_row_groups, [file.path for file in files] if is_parquet else [])
    for rank, file in enumerate(files, start=first_rank):
        number = first_number + len(parts)
        if is_parquet:
            for k, (group, first, records) in enumerate(groups_of_files[rank - first_rank]):
                parts.append(Range(file.path, role, rank, number + k, number, group, group + 1, first, records))
        elif lines_lib.is_gzip(file.path):
            parts.append(Range(file.path, role, rank, number, number))
        else:
            for k, start in enumerate(range(0, max(file.size_in_bytes, 1), range_bytes)):
                parts.append(Range(file.path, role, rank, number + k, number, start, start + range_bytes))
    return parts


def _first_with_records(parts: Sequence[Range], text_format: TextFormat, given: Given) -> Range:
    """The beginning of the first file that holds more than a header; some jobs write parts without any record."""
    for part in parts:
        if part.start == 0:
            with lines_lib.open_binary(part.path, text_format) as stream:
                lines = (line for line in stream if not text_format.is_blank(line))
                has_header = text_format.has_header and text_format.format == "csv"
                if any(itertools.islice(lines, int(has_header), None)):
                    return part
    with diagnosis.explained(parts[0].path, text_format, given, ()):
        raise ValueError(f"The files are empty: {parts[0].path} holds no record.")


def _column(text: str, *, has_numbers: bool) -> str | int | None:
    return None if text == NONE else _name_or_number(text, has_numbers=has_numbers)


def _name_or_number(text: str, *, has_numbers: bool) -> str | int:
    return int(text) if has_numbers and text.isdigit() else text


def _format(wanted: str, paths: Sequence[str], option: str) -> str:
    if wanted != "auto":
        return wanted
    formats = set()
    for path in paths:
        bare = path.removesuffix(".gz")
        extension = bare[bare.rfind(".") :] if "." in bare.rsplit("/", 1)[-1] else ""
        if extension not in _BY_EXTENSION:
            raise ValueError(f"The name of {path} does not tell its format; give {option} ({', '.join(FORMATS)}).")
        formats.add(_BY_EXTENSION[extension])
    if len(formats) > 1:
        raise ValueError(f"The input files must be of one format, got {', '.join(sorted(formats))}; give {option}.")
    return formats.pop()


def _text_format(format_: str, delimiter: str, encoding: str, *, quoted: bool, has_header: bool = False) -> TextFormat:
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise ValueError(f"There is no encoding {encoding!r}.") from None
    stored_as = ""
    if "a,\n".encode(encoding).removeprefix(codecs.BOM_UTF8) != b"a,\n":  # lines cannot be told apart by bytes
        stored_as, encoding = encoding, "utf-8"
    delimiter = _DELIMITERS.get(delimiter, delimiter) or ("\t" if format_ == "tsv" else ",")
    return TextFormat(
        "csv" if format_ == "tsv" else format_,
        delimiter,
        encoding,
        has_header,
        quoted=quoted and len(delimiter) == 1,
        stored_as=stored_as,
    )


def _peek(
    path: str, text_format: TextFormat, columns: Columns, more: Sequence[str | int], number: int
) -> tuple[TextFormat, list[Sequence]]:
    """The format with its number of columns, and the values of `columns` and `more` in the first good lines."""
    header = lines_lib.read_header(path, text_format)
    with lines_lib.open_records(path, text_format) as records:
        lines = list(itertools.islice(records, number))[0 if header is None else 1 :]
    if header is not None:
        _check_columns(columns, header, path)
        _check_where(more, header, path)
    elif text_format.format == "csv":
        sizes = collections.Counter(
            len(text_format.split(text_format.decode(line)))
            for line in lines
            if not text_format.is_blank(line) and _is_good(text_format, line)
        )
        text_format = dataclasses.replace(text_format, num_columns=max(sizes, key=lambda n: (sizes[n], n), default=0))
        numbers = [column for column in (*columns, *more) if isinstance(column, int)]
        if lines and max(numbers) >= text_format.num_columns:
            raise ValueError(
                f"{path} has {text_format.num_columns} columns (delimiter {text_format.delimiter!r}), so there is no "
                f"column number {max(numbers)}; numbers start at 0."
            )
    parse = parsing.row_parser(text_format, (*columns, *more), header, num_required=len(tuple(columns)))
    sample = []
    for line in lines:
        try:
            sample.append(parse(text_format.decode(line)))
        except LineError:
            continue
    if text_format.format == "jsonl" and (more or not sample):
        names = _json_names(path, text_format)
        _check_columns(columns, names, path)
        _check_where(more, names, path)
    return text_format, sample


def _is_good(text_format: TextFormat, line: bytes) -> bool:
    try:
        text_format.split(text_format.decode(line))
    except LineError:
        return False
    return True


def _check_columns(columns: Columns, names: Sequence[str], path: str) -> None:
    for field in dataclasses.fields(Columns):
        column = getattr(columns, field.name)
        if isinstance(column, str) and column not in names:
            hint = (
                " Give --time-column none if the order of the events is their order in the files."
                if field.name == "time"
                else ""
            )
            raise ValueError(f"{path} has no column {column!r} (--{field.name}-column){_nearest(column, names)}.{hint}")
        if isinstance(column, int) and column >= len(names):
            raise ValueError(
                f"{path} has {len(names)} columns, so there is no column number {column}; numbers start at 0."
            )


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    listed = ", ".join(repr(other) for other in names[:20])
    return f"; did you mean {near[0]!r}? It has {listed}" if near else f"; it has {listed}"


def _check_sample(sample: Sequence[Sequence], path: str, parse: EventParser) -> None:
    """Raise a ValueError where no record in the first lines, of those that lack nothing, is an event."""
    errors = []
    for values in sample:
        taken = (value for value, column in zip(values, parse.columns, strict=True) if column is not None)
        if any(str(value) in NULLS for value in taken):
            continue
        try:
            parse(tuple(values), role="", position=0)
            return
        except LineError as error:
            errors.append(error)
    if errors:
        raise ValueError(
            f"No record in the first lines of {path} is an event; {errors[0].reason}: {errors[0].detail}. "
            "With --max-rejected 1 they are rejected, and the others read."
        )


def _infer_time(sample: Sequence[Sequence], path: str, more: Callable[[], Sequence[Sequence]]) -> tuple[str, Any]:
    """The time format that the first lines show, and a value that shows it; `more` gives more lines."""
    for values in sample:
        try:
            return parsing.infer_time_format(values[2]), values[2]
        except LookupError as error:
            raise ValueError(
                f"{path}: {error}. If it is one, {times.proposal(times.recognised([values[2]]))}; if it is a number of "
                f"seconds or parts of them, give --time-format ({', '.join(('s', 'ms', 'us', 'ns'))})."
            ) from None
        except (ValueError, TypeError):
            continue
    patterns = times.recognised(values[2] for values in sample)
    if len(patterns) > 1:
        patterns = times.recognised(values[2] for values in more()) or patterns
    shown = f" (the first is {sample[0][2]!r})" if sample else ""
    names = ", ".join(parsing.TIME_FORMATS)
    cure = f"give --time-column or --time-format ({names}, or a pattern of strptime such as '%d.%m.%Y %H:%M')"
    if patterns:
        cure = times.proposal(patterns)
    raise ValueError(f"The times in the first lines of {path} are neither numbers nor ISO 8601{shown}; {cure}.")


def _of_each(function: Callable[[str], T], paths: Sequence[str]) -> list[T]:
    """What a function gives for each file, in their order; many at once, as remote ones take a while to open."""
    with concurrent.futures.ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        return list(pool.map(function, paths))


def _parquet_names(path: str) -> list[str]:
    import pyarrow.parquet

    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        return pyarrow.parquet.read_schema(stream).names


def _row_groups(path: str) -> list[tuple[int, int, int]]:
    """Row groups that have records: number, how many records are before it, how many it has."""
    import pyarrow.parquet

    with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
        metadata = pyarrow.parquet.read_metadata(stream)
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    firsts = [0, *itertools.accumulate(sizes)]
    return [(group, firsts[group], size) for group, size in enumerate(sizes) if size]


def _json_names(path: str, text_format: TextFormat) -> list[str]:
    names: dict[str, None] = {}
    with lines_lib.open_binary(path, text_format) as stream:
        for line in itertools.islice(stream, _ROWS_TO_PEEK):
            try:
                names |= dict.fromkeys(json.loads(text_format.decode(line)))
            except (LineError, ValueError, TypeError):
                continue
    return list(names)

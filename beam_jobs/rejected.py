"""Rejected lines to files: as many as their bytes ask for, in the order of the input, with their line numbers."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam

from beam_jobs import storage
from beam_jobs.lines import Range
from seqrec_tf.manifest import File

# Rejected lines go to one file as long as they are no more than this.
_REJECTED_FILE_BYTES = 64 << 20


class Place(NamedTuple):
    """Where the rejected lines of a range go, and where it stands.

    Attributes:
        file: Number of the file that they go to.
        lines_before: Lines of its own file before the range.
    """

    file: int
    lines_before: int


def places_of(ranges: Mapping[int, tuple[int, int]], parts: Sequence[Range]) -> dict[int, Place]:
    """Number of a range to its place, from the lines of each and the bytes of those that were rejected.

    Files are as many as the bytes ask for, and their lines in the order of the input.
    """
    places: dict[int, Place] = {}
    lines_before: collections.Counter[int] = collections.Counter()
    num_bytes = 0
    for part in sorted(parts, key=lambda part: part.number):
        num_lines, of_rejected = ranges[part.number]
        places[part.number] = Place(num_bytes // _REJECTED_FILE_BYTES, lines_before[part.first_number])
        lines_before[part.first_number] += num_lines
        num_bytes += of_rejected
    return places


class ByFile(beam.DoFn):
    """(range number, rejected lines) by the number of the file that they go to.

    Args:
        parts: All ranges.
    """

    def __init__(self, parts: Sequence[Range]):
        self._parts = parts

    def start_bundle(self):
        """Look at the ranges once."""
        self._places: dict[int, Place] = {}

    def process(
        self, element: tuple[int, list], ranges: Mapping[int, tuple[int, int]]
    ) -> Iterator[tuple[int, tuple[int, list]]]:
        """Name the file of some lines."""
        self._places = self._places or places_of(ranges, self._parts)
        yield self._places[element[0]].file, element


class WriteRejected(beam.DoFn):
    """(number of a file, (range number, rejected lines)s) to a JSON lines file, with line numbers of the input's files.

    Gives (the file's name, what was written).

    Args:
        folder: Where the files go.
        parts: All ranges by number.
    """

    def __init__(self, folder: str, parts: Sequence[Range]):
        self._folder = folder
        self._parts = {part.number: part for part in parts}

    def process(
        self, element: tuple[int, Iterable[tuple[int, list]]], ranges: Mapping[int, tuple[int, int]]
    ) -> Iterator[tuple[str, File]]:
        """Write one file."""
        file, rejected = element
        places = places_of(ranges, tuple(self._parts.values()))
        name = f"part-{file:05d}.jsonl"
        with storage.create(f"{self._folder}/{name}") as stream:
            for number, rows in sorted(rejected):
                for row in rows:
                    text = json.dumps(self._row(self._parts[number], places[number], *row), ensure_ascii=False)
                    stream.write(text.encode(errors="backslashreplace") + b"\n")
        yield name, stream.file

    @staticmethod
    def _row(part: Range, place: Place, index: int, reason: str, detail: str, text: str) -> dict[str, Any]:
        return {
            "file": part.path,
            "line": None if part.is_parquet else place.lines_before + index + 1,
            **({"record": part.first_record + index} if part.is_parquet else {}),
            "reason": reason,
            "detail": detail,
            "text": text,
        }

"""Items that came after training: their file to what a model needs to recommend them by their features."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import json
import pathlib
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrec_tf import features, ids, padding
from seqrec_tf import schema as schema_lib

if TYPE_CHECKING:
    from seqrec_tf.records import DatasetFolder

_ENCODED_AT_ONCE = 64
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclasses.dataclass(frozen=True)
class NewItems:
    """Items that a dataset does not know.

    Attributes:
        ids: As in the file, in its order.
        values: Name of a feature to an array [len(ids), ...], as in `records.DatasetFolder.item_values`.
    """

    ids: list[str]
    values: dict[str, Any]


def read(
    path: str, folder: DatasetFolder, names: Sequence[str], *, id_column: str = "item_id", image_folder: str = ""
) -> NewItems:
    """Read the items of a file that a dataset lacks; those that it has stay as they are.

    Categories and numbers are encoded by what the dataset learned; texts and images by the encoders that made its
    vectors.

    Args:
        path: A CSV or TSV file with a header, or JSON lines; perhaps gzipped. Columns are named as in the items file
            that the dataset was made with; a field that is empty is a feature that is missing.
        folder: The dataset.
        names: Features that are wanted.
        id_column: Name of the column with the item's id.
        image_folder: What image paths are relative to.

    Raises:
        ValueError: A row cannot be read, a column is not there, or nothing in the file is new.
    """
    of_images = {schema_lib.vector_name(column) for column, about in folder.vectors.items() if about["image_size"]}
    if image_folder and not of_images & set(names):
        raise ValueError(f"--image-folder {image_folder}: the model reads no vectors of images. Leave it out.")
    known = set(folder.item_ids)
    rows: dict[str, dict[str, str]] = {}
    for line, row in _rows(path, id_column, quoted=folder.schema.items_are_quoted):  # as the dataset's own items
        item = row[id_column]
        if folder.schema.id_form == schema_lib.NORMAL_IDS:
            item = ids.normal(item, is_numeric="item" in folder.schema.numeric_ids)
        if not item.strip() or "\n" in item or "\r" in item:
            raise ValueError(
                f"{path}, line {line}: {id_column} {'holds a line break' if item.strip() else 'is empty'}."
            )
        if item not in known:
            fields = {features.name_of(name): field for name, field in row.items() if name != id_column}
            rows.setdefault(item, fields | {"": f"{path}, line {line}"})
    if not rows:
        raise ValueError(f"{path} has no item that {folder.path} does not know already.")
    columns = {schema_lib.vector_name(column): column for column in folder.vectors}
    there = set().union(*rows.values())
    for name in names:
        if columns.get(name, name) not in there:
            raise ValueError(
                f"{path} has no column {columns.get(name, name)!r}, which the model reads. Give it, with empty fields "
                "where it is unknown."
            )
    values = {}
    for feature in folder.schema.item_features:
        if feature.name in columns and feature.name in names:
            column = columns[feature.name]
            values[feature.name] = _vectors(rows, column, folder.vectors[column], image_folder)
        elif feature.name in names:
            values[feature.name] = _encoded(rows, feature, folder.learned_of_items)
    return NewItems(list(rows), values)


def _rows(path: str, id_column: str, *, quoted: bool) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and fields of each row."""
    try:
        yield from _rows_of_file(path, id_column, quoted=quoted)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not written in UTF-8 ({error.reason}); convert it.") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is a broken gzip file: {error}.") from None


def _rows_of_file(path: str, id_column: str, *, quoted: bool) -> Iterator[tuple[int, dict[str, str]]]:
    file = pathlib.Path(path)
    suffixes = file.suffixes[-2:] if file.suffix == ".gz" else [file.suffix]
    kind = suffixes[0] if suffixes else ""
    if kind not in (*_DELIMITERS, ".jsonl"):
        raise ValueError(f"--items {path} must be a .csv, .tsv or .jsonl file (or one of them with .gz).")
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8-sig") as stream:
        if kind == ".jsonl":
            for line, text in enumerate(stream, start=1):
                if text.isspace():
                    continue
                try:
                    values = json.loads(text, parse_float=ids.FloatAsWritten.of)
                    row = {name: features.text_of(value) for name, value in values.items()}
                    if values.get(id_column) is not None and not isinstance(values[id_column], str):
                        row[id_column] = ids.of_value(values[id_column])
                    "".join(row.values()).encode()  # no half of a surrogate pair
                except (TypeError, OverflowError) as error:
                    raise ValueError(f"{path}, line {line}: {id_column} {values[id_column]!r}: {error}.") from None
                except (ValueError, AttributeError):
                    raise ValueError(
                        f"{path}, line {line}: expected a JSON object, got {text.strip()[:80]!r}."
                    ) from None
                yield line, {id_column: "", **row}
            return
        csv.field_size_limit(features.LONGEST_FIELD)
        reader = csv.DictReader(
            stream,
            delimiter=_DELIMITERS[kind],
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            strict=True,
        )
        if id_column not in (reader.fieldnames or ()):
            raise ValueError(
                f"{path} has no column {id_column!r}; its header is {reader.fieldnames}. Name it with --item-id-column."
            )
        try:
            for fields in reader:
                values = [*fields.pop(None, ()), *(value for value in fields.values() if value is not None)]
                if len(values) != len(fields):
                    raise ValueError(
                        f"{path}, line {reader.line_num}: expected {len(fields)} fields, got {len(values)}."
                    )
                yield reader.line_num, fields
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num}: quotes do not match: {error}.") from None


def _encoded(rows, feature: schema_lib.Feature, learned):
    """Values of a number, a category or several: [N, ...], as `records.DatasetFolder.item_values` has them."""
    encode = features.Encoder([feature], learned)
    values = []
    for row in rows.values():
        try:
            values.append(encode([row.get(feature.name, "")])[feature.name])
        except ValueError as error:
            raise ValueError(f"{row['']}: {feature.name}: {error}.") from None
    if feature.is_list:
        values = padding.listed_categories(values, feature.max_length)
    return np.array(values, feature.dense_dtype)


def _vectors(rows, column: str, about: dict[str, Any], image_folder: str):
    """Vectors of a text or image column: float32 [N, dim], zeros where there is nothing to encode."""
    import tensorflow as tf

    from seqrec_tf.encoders import decode_image, identity_of, image_path, load_encoder

    encode, dim = load_encoder(about["encoder"]), about["dim"]
    if identity_of(about["encoder"], about["image_size"]) != about["identity"]:
        raise ValueError(
            f"The encoder {about['encoder']} is another one than made the dataset's vectors of {column}. Give it back "
            "the model that it had."
        )
    vectors = np.zeros([len(rows), dim], np.float32)
    given = [(place, row) for place, row in enumerate(rows.values()) if row.get(column, "").strip()]
    for start in range(0, len(given), _ENCODED_AT_ONCE):
        part = given[start : start + _ENCODED_AT_ONCE]
        contents: list[Any] = []
        for _, row in part:
            content: Any = row[column].strip()
            if about["image_size"]:
                image = image_path(image_folder, content)
                try:
                    with tf.io.gfile.GFile(image, "rb") as stream:
                        content = decode_image(stream.read(), about["image_size"])
                except (tf.errors.OpError, ValueError) as error:
                    raise ValueError(f"{row['']}: {column} {image}: {error}.") from None
            contents.append(content)
        batch = np.array(contents, np.float32 if about["image_size"] else object)
        encoded = np.asarray(encode(batch))
        if encoded.shape[1:] != (dim,):  # what a handle stands for may change
            raise ValueError(
                f"The encoder {about['encoder']} gives vectors of width {encoded.shape[-1]} now, and gave {dim} when "
                "the dataset was embedded. Give it back the model that it had."
            )
        vectors[[place for place, _ in part]] = encoded
    return vectors

"""Records: a schema's features to `tf.train.Example` bytes and back, and the dataset folder that holds them.

`encode_example` and `parsing_spec` are an inverse pair derived from the same features, so the writer (Beam) and the
reader (tf.data) cannot disagree. TensorFlow is imported when first needed.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from seqrec_tf import manifest, padding
from seqrec_tf import schema as schema_lib
from seqrec_tf.messages import DATASET, RUN, kind_of, not_expected, parse_json
from seqrec_tf.schema import Feature, Schema

COMPRESSION = "GZIP"
RECORD_SUFFIX = ".tfrecord.gz"


def shard_name(index: int, num_shards: int) -> str:
    """File name of one shard of a split."""
    return f"part-{index:05d}-of-{num_shards:05d}{RECORD_SUFFIX}"


def encode_example(values: Mapping[str, Any], features: Iterable[Feature]) -> bytes:
    """Serialise one record.

    Args:
        values: Feature name to value: a scalar for shape `()`, else a list or 1-D array.
        features: The features of the record; all must be present and no other may be.

    Returns:
        A serialised `tf.train.Example`, the same bytes for the same values.

    Raises:
        ValueError: A feature is missing, unknown, of the wrong length or type.
    """
    from tensorflow.core.example import example_pb2

    example = example_pb2.Example()
    features = tuple(features)
    unknown = values.keys() - {feature.name for feature in features}
    if unknown:
        raise ValueError(f"The record has features {sorted(unknown)} that its schema does not declare.")
    for feature in features:
        if feature.name not in values:
            raise ValueError(f"The record lacks feature `{feature.name}`, which its schema declares.")
        value: Any = values[feature.name]
        value = [value] if feature.shape == () else value
        if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
            raise ValueError(f"Feature `{feature.name}` must hold {feature.dtype}: a list of them, got {value!r}.")
        if feature.shape not in ((), (None,)) and len(value) != feature.shape[0]:
            raise ValueError(f"Feature `{feature.name}` must have {feature.shape[0]} values, got {len(value)}.")
        message = example.features.feature[feature.name]
        try:
            if feature.dtype == "int64":
                message.int64_list.value.extend(value)
            elif feature.dtype == "float32":
                message.float_list.value.extend(value)
            else:
                message.bytes_list.value.extend(v.encode() if isinstance(v, str) else v for v in value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Feature `{feature.name}` must hold {feature.dtype}: {error}.") from error
    return example.SerializeToString(deterministic=True)


def parsing_spec(features: Iterable[Feature]) -> dict[str, Any]:
    """The argument of `tf.io.parse_example` that undoes `encode_example`.

    A feature of shape `()` comes back as [B], `(n,)` as [B, n], `(None,)` as a `tf.RaggedTensor` [B, None].
    """
    import tensorflow as tf

    return {
        feature.name: (
            tf.io.RaggedFeature(tf.as_dtype(feature.dtype), row_splits_dtype=tf.int64)
            if feature.shape == (None,)
            else tf.io.FixedLenFeature(feature.shape, tf.as_dtype(feature.dtype))
        )
        for feature in features
    }


def user_fingerprint(user_id):
    """Raw user ids, string [...], as what models take: int64 [...], a hash in [0, 2^63 - 1), the same everywhere."""
    import tensorflow as tf

    return tf.strings.to_hash_bucket_fast(user_id, 2**63 - 1)


class DatasetFolder:
    """A finished dataset folder, opened for reading.

    Args:
        path: The folder that `seqrec prepare` wrote, local or remote (`gs://`).

    Raises:
        FileNotFoundError: There is no such folder, the job that writes it has not finished, or a file is missing.
        ValueError: A file has another size, or one that is no file of records another content, than was written.

    Attributes:
        path: The folder.
        manifest: What was written to its files; of the vectors, the manifests are in `vectors`.
    """

    def __init__(self, path: str | pathlib.Path):
        self.path = str(path).rstrip("/")
        make = f"Make it with `seqrec prepare --input FILES --output {self.path}`."
        if not self._exists(schema_lib.COMPLETED_FILE):
            if self._exists(schema_lib.SCHEMA_FILE):
                raise FileNotFoundError(
                    f"{self.path} is not finished: it has no {schema_lib.COMPLETED_FILE} file. {make}"
                )
            raise not_expected(self.path, DATASET, make=make)
        if "://" not in self.path and kind_of(self.path) == RUN:  # which has such a file too
            raise not_expected(self.path, DATASET, make=make)
        self.manifest = manifest.read(self.path, manifest.DATASET)
        self.manifest.check_sizes()
        # A dataset means nothing with the statistics or the vocabulary of another one.
        for name, file in self.manifest.files.items():
            if file.records is None and not name.startswith(f"{schema_lib.REJECTED_FOLDER}/"):
                self.manifest.content(name)

    def file(self, name: str) -> str:
        """Path of a file of this folder."""
        return f"{self.path}/{name}"

    def _exists(self, name: str) -> bool:
        return manifest.size_of(self.file(name)) is not None

    def read_text(self, name: str) -> str:
        """Content of a text file of this folder, as it was written."""
        return self.manifest.content(name).decode()

    def _read_json(self, name: str) -> Any:
        return parse_json(self.read_text(name), self.file(name))

    @functools.cached_property
    def schema(self) -> Schema:
        """What the records hold, and the vectors that were made of them since."""
        file = schema_lib.SCHEMA_FILE
        schema = Schema.from_dict(self._read_json(file), called=f"The schema {self.file(file)}")
        vectors = (
            Feature(schema_lib.vector_name(column), "float32", (about["dim"],), f"by {about['encoder']}", "vector")
            for column, about in self.vectors.items()
        )
        return dataclasses.replace(schema, item_features=(*schema.item_features, *vectors))

    @functools.cached_property
    def vectors(self) -> dict[str, dict[str, Any]]:
        """Embedded columns: name to the content of its `encoder.json`."""
        return {column: about for column, (about, _) in self._vectors.items()}

    @functools.cached_property
    def _vectors(self) -> dict[str, tuple[dict[str, Any], manifest.Manifest]]:
        columns = manifest.names_in(self.file(schema_lib.VECTORS_FOLDER))
        found = {column: manifest.read_vectors(self.path, column) for column in columns}
        return {column: vectors for column, vectors in found.items() if vectors}

    @property
    def encoders(self) -> dict[str, str]:
        """What tells the encoder of each feature of vectors from another."""
        return {schema_lib.vector_name(column): about["identity"] for column, about in self.vectors.items()}

    @functools.cached_property
    def stats(self) -> dict[str, Any]:
        """The content of `stats.json`."""
        return self._read_json(schema_lib.STATS_FILE)

    @property
    def fingerprint(self) -> str:
        """Digest of the records and vocabularies: equal for equal data."""
        return self.stats["fingerprint"]

    @property
    def num_training_sequences(self) -> int:
        """Records of the training split."""
        return self.stats["splits"]["train"]["sequences"]

    @property
    def training_lengths(self) -> dict[str, float]:
        """Events of a training sequence: "mean" and, where the job has told them, quantiles and ends."""
        return self.stats["splits"]["train"]["length"]

    @property
    def num_items(self) -> int:
        """Size of the item vocabulary, padding not counted."""
        return self.schema.num_items

    @functools.cached_property
    def learned_of_items(self) -> dict[str, dict[str, Any]]:
        """What was learned of the features of items: name to what `features.Encoder` takes."""
        return self._read_json(schema_lib.FEATURES_FILE) if self.schema.item_features else {}

    @functools.cached_property
    def learned_of_users(self) -> dict[str, dict[str, Any]]:
        """What was learned of the features of users: name to what `features.Encoder` takes."""
        return self._read_json(schema_lib.USER_FEATURES_FILE) if self.schema.user_features else {}

    @functools.cached_property
    def item_ids(self) -> list[str]:
        """The item ids as they came; `item_ids[k - 1]` is the item with id `k`."""
        return self.read_text(schema_lib.ITEM_VOCABULARY_FILE).split("\n")[:-1]

    @functools.cached_property
    def item_counts(self) -> list[int]:
        """Training events of each item; `item_counts[k - 1]` is that of the item with id `k`."""
        return [int(line) for line in self.read_text(schema_lib.ITEM_COUNTS_FILE).split()]

    def split_files(self, split: str) -> list[str]:
        """Paths of the TFRecord shards of a split, sorted; empty where the split is empty.

        Raises:
            ValueError: `split` is none of train, valid, test.
        """
        if split not in schema_lib.SPLITS:
            raise ValueError(f"The split must be one of {', '.join(schema_lib.SPLITS)}, got {split!r}.")
        return list(map(self.file, self.manifest.below(split)))

    def num_records(self, part: str) -> int:
        """How many records were written to a split, or to the items folder."""
        return sum(self.manifest.files[name].records or 0 for name in self.manifest.below(part))

    def check_split(self, split: str) -> None:
        """Raise a ValueError where a split is empty."""
        if not self.split_files(split):
            hint = " or a larger --valid-share" if split == "valid" else ""
            raise ValueError(
                f"{self.path} has no sequences in its split {split!r}. Prepare it with another --split{hint}."
            )

    def training_users(self):
        """Whose training sequences these are: numpy int64 [U], fingerprints, in the order of the records."""
        import numpy as np

        batches = read_split(self, "train", [schema_lib.USER_ID])
        return np.concatenate([user_fingerprint(batch[schema_lib.USER_ID]).numpy() for batch in batches])

    def training_events(self):
        """Events of the training sequences: numpy int64 [E], the number of the sequence; int64 [E], the item id."""
        import numpy as np

        parts = [batch[schema_lib.ITEM_IDS] for batch in read_split(self, "train", [schema_lib.ITEM_IDS])]
        lengths = np.concatenate([part.row_lengths().numpy() for part in parts])
        return np.repeat(np.arange(len(lengths)), lengths), np.concatenate([part.flat_values.numpy() for part in parts])

    def item_values(self, names: Iterable[str]) -> dict[str, Any]:
        """Features of all items: name to a numpy array [num_items + 1, ...] whose row k is the item with id k.

        Row 0 is empty. Numbers are float32 (NaN where missing), a category int32, several int32 [.., max_length] with
        zeros on the right, a vector float32 [.., n], a text or a path bytes.
        """
        import numpy as np
        import tensorflow as tf

        names = set(names)
        features = [feature for feature in self.schema.item_features if feature.name in names]
        embedded = {schema_lib.vector_name(column): column for column in self.vectors}
        wanted = [feature for feature in features if feature.name not in embedded]
        values = {}
        for feature in features:
            shape = [self.num_items + 1, *feature.dense_shape]
            is_text = feature.dtype == "string"
            values[feature.name] = np.full(
                shape, b"" if is_text else feature.missing, object if is_text else feature.dense_dtype
            )
        if wanted:
            row = 1  # item records lie in the order of the ids
            for batch in read_files(self.item_files(), wanted, self.num_records(schema_lib.ITEMS_FOLDER)):
                for feature in wanted:
                    parsed = batch[feature.name]
                    if isinstance(parsed, tf.RaggedTensor):
                        parsed = padding.categories(parsed, feature.max_length)
                    values[feature.name][row : row + len(parsed)] = parsed
                row += len(parsed)
        id_of = {item: number for number, item in enumerate(self.item_ids, start=1)} if embedded.keys() & names else {}
        for name in sorted(embedded.keys() & names):
            about, files = self._vectors[embedded[name]]
            files.check_sizes()
            paths, number = [*map(files.path, files.files)], sum(file.records or 0 for file in files.files.values())
            with files.explaining():
                of_vectors = schema_lib.vector_record(about["dim"])
                for batch in read_files(paths, of_vectors, number):
                    ids = [id_of.get(item.decode(), 0) for item in batch[schema_lib.ITEM_ID].numpy()]
                    values[name][ids] = batch[schema_lib.VECTOR]
            values[name][0] = 0  # where items went that the dataset does not have any more
        return values

    def item_files(self) -> list[str]:
        """Paths of the TFRecord shards of item features, sorted; empty where no items file was given."""
        return list(map(self.file, self.manifest.below(schema_lib.ITEMS_FOLDER)))


def read_split(folder: DatasetFolder, split: str, names: Iterable[str] = ()):
    """The records of a split, as `parsing_spec` gives them, many at a time.

    Args:
        folder: The dataset.
        split: "train", "valid" or "test"; of one without records, nothing comes.
        names: The features to read; all where empty.
    """
    names = set(names)
    wanted = [feature for feature in folder.schema.record_features if not names or feature.name in names]
    return read_files(folder.split_files(split), wanted, folder.num_records(split))


def read_files(files: Sequence[str], features: Iterable[Feature], num_records: int):
    """These features of the records of some files, as `parsing_spec` gives them, many at a time.

    Args:
        files: Their paths.
        features: What to read.
        num_records: How many there must be in all; an error comes at the end where there are not.
    """
    import tensorflow as tf

    spec = parsing_spec(features)
    records = whole(tf.data.TFRecordDataset(files, compression_type=COMPRESSION), num_records).batch(10_000)
    return records.map(lambda serialized: tf.io.parse_example(serialized, spec))


def whole(records, num_records: int):
    """A `tf.data.Dataset` as it is, with an error at its end where it does not have so many elements."""
    import tensorflow as tf

    return records.apply(tf.data.experimental.assert_cardinality(num_records))

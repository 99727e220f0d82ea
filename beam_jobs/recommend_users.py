"""The job of `seqrec batch-recommend`: records to requests, requests to lists by RunInference, lists to files."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.ml.inference.tensorflow_inference import TFModelHandlerTensor

from beam_jobs import prepare_sequences, storage
from beam_jobs.examples import tfrecord_file
from beam_jobs.options import JSON_LINES, PARQUET
from seqrec_tf import padding, records
from seqrec_tf import schema as schema_lib
from seqrec_tf.features import Encoder
from seqrec_tf.records import DatasetFolder
from seqrec_tf.schema import Feature

# What a row of the output holds.
OUTPUT = (
    Feature(schema_lib.USER_ID, "string", ()),
    Feature(schema_lib.ITEMS, "string", (None,)),
    Feature(schema_lib.SCORES, "float32", (None,)),
    Feature(schema_lib.NUM_UNKNOWN, "int64", ()),
)


@dataclasses.dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        dataset: The dataset folder.
        model: Folder of the version.
        output: The file, or what the names of several begin with.
        suffix: How they are written, which ends their names.
        splits: Whose sequences.
        moment: When the lists are shown, seconds.
        batch_size: Users a call of the model.
        num_shards: Files.
    """

    dataset: str
    model: str
    output: str
    suffix: str
    splits: tuple[str, ...]
    moment: int
    batch_size: int
    num_shards: int

    def file(self, shard: int) -> str:
        """Path of one file."""
        if self.num_shards == 1:
            return self.output
        return f"{self.output.removesuffix(self.suffix)}-{shard:05d}-of-{self.num_shards:05d}{self.suffix}"


def run(args: argparse.Namespace, suffix: str) -> None:
    """Make the lists; `batch_recommend.py` has seen to the arguments."""
    options = prepare_sequences.beam_options(args.beam_options, "batch-recommend", vars(args))
    prepare_sequences.check_reachable(options, {name: [getattr(args, name)] for name in ("dataset", "model", "output")})
    folder = DatasetFolder(args.dataset)
    job = Job(
        folder.path,
        args.model,
        args.output,
        suffix,
        (args.split,) if args.split else schema_lib.SPLITS,
        int(time.time()) if args.time is None else args.time,
        args.batch_size,
        args.num_shards,
    )
    _check_output(job, overwrite=args.overwrite)
    check_inputs(folder, load(job.model).structured_input_signature[1], job.model)
    started = time.monotonic()
    prepare_sequences.run_pipeline("Recommend" >> RecommendUsers(job), options)
    files = [job.file(shard) for shard in range(job.num_shards)]
    sys.stdout.write(f"{', '.join(files)}: everyone's list by {job.model}, in {time.monotonic() - started:.1f} s\n")


def _check_output(job: Job, *, overwrite: bool) -> None:
    for shard in range(job.num_shards):
        if FileSystems.exists(job.file(shard)):
            if not overwrite:
                raise FileExistsError(f"{job.file(shard)} exists: replace it with --overwrite, or give another name.")
            if "://" in job.output and not job.output.startswith("gs://"):
                FileSystems.delete([job.file(shard)])  # some file systems do not rename onto a file
    parent = FileSystems.split(job.output)[0]
    if parent and not FileSystems.exists(parent):
        FileSystems.mkdirs(parent)


def load(path: str) -> Any:
    """The default signature of a saved model."""
    import tensorflow as tf

    try:
        model = tf.saved_model.load(path)
    except (OSError, tf.errors.OpError) as error:
        raise ValueError(f"The model {path} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    if schema_lib.RECOMMEND.name not in model.signatures:
        raise ValueError(f"The model {path} has no signature {schema_lib.RECOMMEND.name}: export it again.")
    signature = model.signatures[schema_lib.RECOMMEND.name]
    signature.whole_model = model  # whose variables would go with it
    return signature


def check_inputs(folder: DatasetFolder, inputs: Iterable[str], model: str) -> None:
    """Raise a ValueError where the model takes what the records do not hold."""
    there = {schema_lib.HISTORY, schema_lib.TIMESTAMP, schema_lib.USER_ID}
    there |= {feature.name for feature in folder.schema.user_features}
    there |= {schema_lib.HISTORY_TIMESTAMPS} if schema_lib.TIMESTAMPS in folder.schema else set()
    there |= {schema_lib.HISTORY_LABELS} if schema_lib.LABELS in folder.schema else set()
    if missing := sorted(set(inputs) - there):
        raise ValueError(
            f"The model {model} takes {', '.join(missing)}, which the records of {folder.path} do not hold: give the "
            "dataset that it was trained on."
        )


class RecommendUsers(beam.PTransform):
    """From nothing to the files of everyone's list.

    Args:
        job: What to do.
    """

    def __init__(self, job: Job):
        super().__init__()
        self._job = job

    def expand(self, begin):
        """Build the graph."""
        from apache_beam.ml.inference.base import KeyedModelHandler, RunInference

        job, folder = self._job, DatasetFolder(self._job.dataset)
        files = [(split, file) for split in job.splits for file in folder.split_files(split)]
        return (
            begin
            | "Files" >> beam.Create(files)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> beam.ParDo(_Read())
            | "Newest" >> beam.CombinePerKey(max)
            | "Requests" >> beam.ParDo(_ToRequest(job))
            | "Ask" >> RunInference(KeyedModelHandler(RecommenderHandler(job.model, job.batch_size)))
            | "Shard" >> beam.Map(lambda pair: (shard_of(pair[0], job.num_shards), _row(*pair)))
            | "By shard" >> _ByShard(job.num_shards)
            | "Write" >> beam.ParDo(_Write(job))
        )


class _ByShard(beam.PTransform):
    """Groups rows by shard; a shard that nobody is in has no rows, so that all files that were announced are there.

    Args:
        num_shards: Files.
    """

    def __init__(self, num_shards: int):
        super().__init__()
        self._num_shards = num_shards

    def expand(self, rows):
        """Build the graph."""
        every = [(shard, None) for shard in range(self._num_shards)]
        return (rows, rows.pipeline | "Shards" >> beam.Create(every)) | beam.Flatten() | beam.GroupByKey()


def shard_of(user: str, num_shards: int) -> int:
    """In which file a user is: the same on every machine."""
    return int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8).digest(), "big") % num_shards


class _Read(beam.DoFn):
    """(split, file) to (user, (newest time, place of the split, events, record)), of which the greatest is newest."""

    def process(self, element: tuple[str, str]) -> Iterator[Any]:
        """Read one file."""
        from apache_beam.io.tfrecordio import _TFRecordUtil
        from tensorflow.core.example import example_pb2

        split, file = element
        with FileSystems.open(file, compression_type=CompressionTypes.GZIP) as stream:
            while (record := _TFRecordUtil.read_record(stream)) is not None:
                features = example_pb2.Example.FromString(record).features.feature
                times = features[schema_lib.TIMESTAMPS].int64_list.value
                number = len(features[schema_lib.ITEM_IDS].int64_list.value)
                user = features[schema_lib.USER_ID].bytes_list.value[0].decode()
                yield user, (times[-1] if times else 0, schema_lib.SPLITS.index(split), number, record)


class _ToRequest(beam.DoFn):
    """(user, newest record) to (user, what a client would send)."""

    def __init__(self, job: Job):
        self._job = job

    def setup(self) -> None:
        """Open the dataset."""
        self._folder = DatasetFolder(self._job.dataset)
        self._encoder = Encoder(self._folder.schema.user_features, self._folder.learned_of_users)

    def process(self, element) -> Iterator[tuple[str, dict[str, Any]]]:
        """Make one request."""
        user, (*_, record) = element
        yield user, request_of(record, self._folder, self._encoder) | {schema_lib.TIMESTAMP: self._job.moment}


def request_of(record: bytes, folder: DatasetFolder, encoder: Encoder) -> dict[str, Any]:
    """What a client would send for a record, all of whose events are history."""
    from tensorflow.core.example import example_pb2

    found = example_pb2.Example.FromString(record).features.feature
    catalogue = folder.item_ids
    request: dict[str, Any] = {
        schema_lib.HISTORY: [catalogue[item - 1] for item in found[schema_lib.ITEM_IDS].int64_list.value],
        schema_lib.USER_ID: found[schema_lib.USER_ID].bytes_list.value[0].decode(),
    }
    for name, source in (
        (schema_lib.HISTORY_TIMESTAMPS, schema_lib.TIMESTAMPS),
        (schema_lib.HISTORY_LABELS, schema_lib.LABELS),
    ):
        if source in folder.schema:
            request[name] = list(found[source].int64_list.value)
    for feature in folder.schema.user_features:
        values = found[feature.name]
        several = list(values.float_list.value or values.int64_list.value)
        request[feature.name] = encoder.request(feature, several if feature.is_list else several[0])
    return request


class RecommenderHandler(TFModelHandlerTensor):
    """RunInference's TensorFlow handler for exported models: one copy a process.

    Args:
        model: Folder of the version.
        batch_size: Users a call.
    """

    def __init__(self, model: str, batch_size: int):
        super().__init__(model, inference_fn=recommend_batch, max_batch_size=batch_size)

    def load_model(self):
        """Load it as a server does; Beam's own handler takes Keras models alone."""
        return load(self._model_uri)


def recommend_batch(signature, batch: Sequence[dict[str, Any]], inference_args=None, model_id=None) -> list[Any]:
    """The answers to some requests, in their order."""
    import tensorflow as tf

    feeds = {}
    for name, spec in signature.structured_input_signature[1].items():
        values: Sequence[Any] = [request[name] for request in batch]
        if len(spec.shape) == 2:
            nothing: Any = padding.NO_ITEM if spec.dtype == tf.string else padding.NO_TIME
            values = padding.rows(values, nothing, length=spec.shape[1])
        feeds[name] = tf.constant(values, spec.dtype)
    outputs = {name: output.numpy() for name, output in signature(**feeds).items()}
    return [
        PredictionResult(None, {name: values[row] for name, values in outputs.items()}, model_id)
        for row in range(len(batch))
    ]


def _row(user: str, result: PredictionResult) -> dict[str, Any]:
    """A row of the output; what pads a short list is left out."""
    answer = result.inference
    items = [item.decode() for item in answer[schema_lib.ITEMS]]
    number = len(items) - items.count(padding.NO_ITEM)
    return {
        schema_lib.USER_ID: user,
        schema_lib.ITEMS: items[:number],
        schema_lib.SCORES: [float(score) for score in answer[schema_lib.SCORES][:number]],
        schema_lib.NUM_UNKNOWN: int(answer[schema_lib.NUM_UNKNOWN]),
    }


class _Write(beam.DoFn):
    """(shard, rows) to a file, its rows by user."""

    def __init__(self, job: Job):
        self._job = job

    def process(self, element) -> Iterator[tuple[str, int]]:
        """Write one file."""
        shard, given = element
        rows = sorted((row for row in given if row is not None), key=lambda row: row[schema_lib.USER_ID])
        path = self._job.file(shard)
        with storage.create(path) as stream:
            for piece in encoded(rows, self._job.suffix):
                stream.write(piece)
        yield path, len(rows)


def encoded(rows: Sequence[dict[str, Any]], suffix: str) -> Iterator[bytes]:
    """The bytes of a file of rows, written as its suffix says."""
    if suffix == JSON_LINES:
        for row in rows:
            # A score is float32: its shortest decimal, as REST gives it.
            short = {**row, schema_lib.SCORES: [float(str(np.float32(score))) for score in row[schema_lib.SCORES]]}
            yield (json.dumps(short, ensure_ascii=False) + "\n").encode()
    elif suffix == PARQUET:
        import pyarrow as pa
        import pyarrow.parquet as pq

        types = {"string": pa.string(), "float32": pa.float32(), "int64": pa.int64()}
        fields = [
            (feature.name, pa.list_(types[feature.dtype]) if feature.is_list else types[feature.dtype])
            for feature in OUTPUT
        ]
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rows), pa.schema(fields)), buffer)
        yield buffer.getvalue()
    else:
        yield from tfrecord_file([records.encode_example(row, OUTPUT) for row in rows])

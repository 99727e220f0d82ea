"""The Beam job of `seqrec embed`: a text column and an image column to vectors, each by a SavedModel."""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import hashlib
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.pvalue import AsList, TaggedOutput

from beam_jobs import prepare_sequences, storage
from seqrec_tf import manifest, records
from seqrec_tf import schema as schema_lib
from seqrec_tf.messages import next_command
from seqrec_tf.records import DatasetFolder
from seqrec_tf.writing import LOCK_FILE, only_writer

REJECTED = "rejected"

# A worker holds a shard while it writes it: 160 MB of vectors that are 4,096 wide.
_VECTORS_A_SHARD = 10_000


def run(args: argparse.Namespace) -> None:
    """Embed the columns that are named; `embed.py` has seen to the arguments."""
    folder = DatasetFolder(args.dataset)
    options = prepare_sequences.beam_options(args.beam_options, "embed", vars(args))
    paths = ("dataset", "text_encoder", "image_encoder", "image_folder")
    prepare_sequences.check_reachable(options, {name: [getattr(args, name) or ""] for name in paths})
    folder = DatasetFolder(args.dataset)
    is_remote = "://" in folder.path
    with contextlib.nullcontext() if is_remote else only_writer(f"{folder.path}/{LOCK_FILE}", folder.path):
        _embed(args, folder, options)


def _embed(args: argparse.Namespace, folder: DatasetFolder, options: PipelineOptions) -> None:
    """Embed, where nobody else writes the dataset."""
    jobs = []  # all that can be wrong with the options fails before the first item is encoded
    if args.text_encoder:
        jobs.append(make_job(folder, args.text_feature, args.text_encoder, overwrite=args.overwrite))
    if args.image_encoder:
        jobs.append(
            make_job(
                folder,
                args.image_feature,
                args.image_encoder,
                overwrite=args.overwrite,
                image_size=args.image_size,
                image_folder=args.image_folder,
            )
        )
    for job in jobs:
        started = time.monotonic()
        with folder.manifest.explaining(folder.manifest.below(schema_lib.ITEMS_FOLDER), also=(RuntimeError,)):
            prepare_sequences.run_pipeline("Embed" >> EmbedItems(job), options)
        _check_result(job)
        sys.stdout.write(summary(job, time.monotonic() - started))
    vectors = ",".join(schema_lib.vector_name(job.feature) for job in jobs)
    sys.stdout.write(
        next_command("train", "--dataset", folder.path, "--model", "nova", "--output", "RUN", "--set").replace(
            "\n", f" model.item_features={vectors}\n"
        )
    )


@dataclasses.dataclass(frozen=True)
class Job:
    """One column to embed.

    Attributes:
        dataset: The dataset folder.
        feature: The column, of the kind text or image-path.
        encoder: TF Hub handle or SavedModel folder.
        identity: Tells one encoder from another: a digest of a local folder, or the handle.
        dim: Width of its vectors.
        image_size: Pixels; 0 for texts.
        image_folder: What image paths are relative to.
        num_items: Items of the dataset.
        item_files: Where they are.
        old_files: Vectors that there are already, of the same encoder.
        name: What the names of the new files begin with.
    """

    dataset: str
    feature: str
    encoder: str
    identity: str
    dim: int
    image_size: int
    image_folder: str
    num_items: int
    item_files: tuple[str, ...]
    old_files: tuple[str, ...]
    name: str

    @property
    def output(self) -> str:
        """The folder of the vectors."""
        return f"{self.dataset}/{schema_lib.VECTORS_FOLDER}/{self.feature}"

    @property
    def rejected_file(self) -> str:
        """Name of the file of what is rejected."""
        return f"{self.name}-rejected.jsonl"


def make_job(
    folder: DatasetFolder,
    feature: str,
    encoder: str,
    *,
    overwrite: bool = False,
    image_size: int = 0,
    image_folder: str = "",
) -> Job:
    """Try the encoder on one example, and look at what there is.

    Raises:
        ValueError: `encoder` is no encoder, or there are vectors of another one.
    """
    from seqrec_tf.encoders import identity_of, load_encoder

    encode = load_encoder(encoder)
    encoder = encoder if "://" in encoder else os.path.abspath(encoder)  # found again from other folders
    probe = np.zeros([1, image_size, image_size, 3], np.float32) if image_size else np.array(["probe"], object)
    try:
        vectors = np.asarray(encode(probe))
    except Exception as error:
        expected = f"float32 [batch, {image_size}, {image_size}, 3]" if image_size else "string [batch]"
        raise ValueError(
            f"The encoder {encoder} does not take {expected}: {' '.join(str(error).split())[:300]}"
        ) from error
    if vectors.ndim != 2 or len(vectors) != 1 or vectors.dtype.kind != "f":
        raise ValueError(
            f"The encoder {encoder} must give float32 [batch, n], got {vectors.dtype} {list(vectors.shape)} for a "
            "batch of one."
        )
    identity, dim, old_files = identity_of(encoder, image_size), vectors.shape[1], ()
    old = folder.vectors.get(feature)
    if old is not None and (old["identity"], old["dim"]) == (identity, dim):
        old_files = tuple(old["files"])
    elif old is not None and not overwrite:
        raise ValueError(
            f"The vectors of {feature} were made by another encoder, {old['encoder']} of width {old['dim']}; this one, "
            f"{encoder}, has the width {dim}. Replace them with --overwrite."
        )
    return Job(
        folder.path,
        feature,
        encoder,
        identity,
        dim,
        image_size,
        image_folder,
        folder.num_items,
        tuple(folder.item_files()),
        old_files,
        uuid.uuid4().hex[:8],
    )


class EmbedItems(beam.PTransform):
    """From nothing to the folder `vectors/NAME` of a dataset.

    Args:
        job: What to do.
    """

    def __init__(self, job: Job):
        super().__init__()
        self._job = job

    def expand(self, begin):
        """Build the graph."""
        from apache_beam.ml.inference.base import KeyedModelHandler, RunInference

        from beam_jobs.encoders import EncoderHandler

        job = self._job
        fields = (
            begin
            | "Items" >> beam.Create(job.item_files)
            | "Read items" >> beam.io.ReadAllFromTFRecord(compression_type=CompressionTypes.GZIP)
            | "Parse" >> beam.Map(_item_and_field, job.feature)
        )
        old = (
            begin
            | "Old files" >> beam.Create([f"{job.output}/{file}" for file in job.old_files])
            | "Read old" >> beam.io.ReadAllFromTFRecord(compression_type=CompressionTypes.GZIP)
            | "Key old" >> beam.Map(lambda record: (_example(record)[schema_lib.ITEM_ID].decode(), record))
        )
        sorted_out = (
            {"field": fields, "old": old}
            | "Join" >> beam.CoGroupByKey()
            | "Sort out" >> beam.ParDo(_SortOut(job)).with_outputs("kept", REJECTED, main="new")
        )
        new = (
            sorted_out["new"]
            | "Encode" >> RunInference(KeyedModelHandler(EncoderHandler(job.encoder)))
            | "To records" >> beam.ParDo(_ToRecord(job)).with_outputs(REJECTED, main="records")
        )
        num_shards = -(-job.num_items // _VECTORS_A_SHARD)
        written = (
            (sorted_out["kept"], new["records"])
            | "All records" >> beam.Flatten()
            | "By shard" >> beam.GroupBy(lambda pair: _shard(pair[0], num_shards))
            | "Write" >> beam.ParDo(_WriteVectors(job, num_shards))
        )
        rejected = (sorted_out[REJECTED], new[REJECTED]) | "All rejected" >> beam.Flatten()
        reused = sorted_out["kept"] | "Count kept" >> beam.combiners.Count.Globally()
        return (
            begin
            | "End" >> beam.Create([job])
            | "Finish" >> beam.Map(_finish, AsList(written), AsList(rejected), beam.pvalue.AsSingleton(reused))
        )


def _example(record: bytes) -> dict[str, Any]:
    """First values of the features of an Example; all of `vector`."""
    from tensorflow.core.example import example_pb2

    values = {}
    for name, feature in example_pb2.Example.FromString(record).features.feature.items():
        several = feature.bytes_list.value or feature.float_list.value or feature.int64_list.value
        values[name] = several if name == schema_lib.VECTOR else several[0] if several else b""
    return values


def _item_and_field(record: bytes, feature: str) -> tuple[str, str]:
    values = _example(record)
    return values[schema_lib.ITEM_ID].decode(), values[feature].decode()


def _shard(item: str, num_shards: int) -> int:
    return int.from_bytes(hashlib.blake2b(item.encode(), digest_size=8).digest(), "big") % num_shards


class _SortOut(beam.DoFn):
    """(item, {field, old}) to ((item, digest), what to encode); kept: (item, record); rejected: (item, reason)."""

    def __init__(self, job: Job):
        self._job = job

    def process(self, element) -> Iterator[Any]:
        """Sort out one item."""
        from seqrec_tf.encoders import decode_image

        item, grouped = element
        fields = list(grouped["field"])
        if not fields:  # old vectors of an item that the dataset does not have any more
            return
        job, field = self._job, fields[0].strip()
        if not field:
            yield TaggedOutput(REJECTED, (item, "empty"))
            return
        try:
            content = _read_image(job, field) if job.image_size else field.encode()
            digest = hashlib.sha256(content).hexdigest()[:32]
            for record in grouped["old"]:
                if _example(record)[schema_lib.DIGEST].decode() == digest:
                    yield TaggedOutput("kept", (item, record))
                    return
            yield (item, digest), decode_image(content, job.image_size) if job.image_size else field
        except ValueError as error:
            yield TaggedOutput(REJECTED, (item, str(error)))


def _read_image(job: Job, field: str) -> bytes:
    from seqrec_tf.encoders import image_path

    path = image_path(job.image_folder, field)
    if not FileSystems.exists(path):  # asked first, as each file system says it by another exception when it opens
        raise ValueError(f"there is no such file: {path}")
    try:
        with FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED) as stream:
            return stream.read()
    except IsADirectoryError:
        raise ValueError(f"not a file but a folder: {path}") from None
    except PermissionError:
        raise ValueError(f"may not be read: {path}") from None


class _ToRecord(beam.DoFn):
    """((item, digest), PredictionResult) to (item, record); rejected: (item, reason)."""

    def __init__(self, job: Job):
        self._features = schema_lib.vector_record(job.dim)

    def process(self, element) -> Iterator[Any]:
        """Encode one record."""
        (item, digest), result = element
        vector = np.asarray(result.inference, np.float32)
        if not np.all(np.isfinite(vector)):
            yield TaggedOutput(REJECTED, (item, "the encoder gave NaN or infinite numbers"))
            return
        values = {schema_lib.ITEM_ID: item, schema_lib.DIGEST: digest, schema_lib.VECTOR: vector.tolist()}
        yield item, records.encode_example(values, self._features)


class _WriteVectors(beam.DoFn):
    """(shard, [(item, record), ...]) to a file; gives (its name, what was written, its smallest, greatest length)."""

    def __init__(self, job: Job, num_shards: int):
        self._job = job
        self._num_shards = num_shards

    def process(self, element) -> Iterator[tuple[str, manifest.File, float, float]]:
        """Write one file."""
        shard, pairs = element
        ordered = [record for _, record in sorted(pairs)]
        lengths = [float(np.linalg.norm(_example(record)[schema_lib.VECTOR])) for record in ordered]
        name = f"{self._job.name}-{records.shard_name(shard, self._num_shards)}"
        file = storage.write_records(f"{self._job.output}/{name}", ordered)
        yield name, file, min(lengths), max(lengths)


def _finish(
    job: Job,
    written: Sequence[tuple[str, manifest.File, float, float]],
    rejected: Sequence[tuple[str, str]],
    num_reused: int,
) -> None:
    """Write what was rejected and, last, the manifest of the vectors; then remove those that it replaces.

    Where there are no vectors, what was there stays as it was.
    """
    rows = [{"item": item, "reason": reason} for item, reason in sorted(rejected)]
    if not FileSystems.exists(job.output):
        FileSystems.mkdirs(job.output)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    storage.write_text(f"{job.output}/{job.rejected_file}", text)
    if not written:
        return
    files = manifest.as_dict({name: file for name, file, *_ in written})
    description = {
        "feature": job.feature,
        "encoder": job.encoder,
        "identity": job.identity,
        "dim": job.dim,
        "image_size": job.image_size,  # 0 of texts
        "vectors": sum(file.records or 0 for _, file, *_ in written),
        "reused": num_reused,
        "rejected": len(rejected),
        # Lengths of the vectors: both 1 where the encoder normalises.
        "shortest": min(low for *_, low, _ in written),
        "longest": max(high for *_, high in written),
        "files": files,
        "rejected_file": job.rejected_file,
    }
    path = f"{job.output}/{schema_lib.ENCODER_FILE}"
    if "://" in path and not path.startswith("gs://") and FileSystems.exists(path):
        FileSystems.delete([path])  # some file systems, HDFS for one, do not rename onto a file
    storage.write_text(path, manifest.seal(description))
    kept = {*files, job.rejected_file, schema_lib.ENCODER_FILE}
    present = [file.path for file in FileSystems.match([f"{job.output}/*"])[0].metadata_list]
    if outdated := [path for path in present if path.rsplit("/", 1)[-1] not in kept]:
        FileSystems.delete(outdated)


def _check_result(job: Job) -> None:
    """Raise a RuntimeError where no item got a vector."""
    done = DatasetFolder(job.dataset).vectors.get(job.feature)
    if done is None or done["rejected_file"] != job.rejected_file:
        raise RuntimeError(
            f"No item got a vector of its {job.feature}: {_reasons(job)}. Each is in {job.output}/{job.rejected_file}; "
            + ("the vectors that were there still are." if done else "there are no vectors yet.")
        )


def _reasons(job: Job) -> str:
    """The most frequent reasons of what was rejected, with how many items each has."""
    text = DatasetFolder(job.dataset).read_text(f"{schema_lib.VECTORS_FOLDER}/{job.feature}/{job.rejected_file}")
    reasons = collections.Counter(json.loads(line)["reason"].partition(": ")[0] for line in text.split("\n") if line)
    return "; ".join(f"{number:,} {reason}" for reason, number in reasons.most_common(5))


def summary(job: Job, seconds: float) -> str:
    """What was done, in a few lines."""
    done = DatasetFolder(job.dataset).vectors[job.feature]
    new = done["vectors"] - done["reused"]
    lines = [
        f"{job.feature}: {done['vectors']:,} vectors of width {done['dim']} from {job.encoder}; {done['reused']:,} "
        f"were there already; {new:,} encoded in {seconds:.1f} s ({new / seconds:,.0f} a second)"
    ]
    if done["rejected"]:
        lines.append(f"rejected: {done['rejected']:,} items ({_reasons(job)}), in {job.output}/{job.rejected_file}")
    return "\n".join(lines) + "\n"

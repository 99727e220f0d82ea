"""Texts and images of items to vectors, with TF Hub encoders and Apache Beam.

Reads the items of a dataset folder, encodes a text column and an image column each with a SavedModel (a TF Hub handle
or a local folder), and writes the vectors to `vectors/` in the dataset folder: models then read them as the features
NAME_vector, where NAME is the column. What was encoded before, by the same encoder from the same text or image, is not
encoded again. An image that is missing or broken, and an empty text, are rejected one by one, with the reason: such
items train with a learned vector.

Encoders: text takes string [batch], images float32 [batch, size, size, 3] in [0, 1]; both give float32 [batch, n]. For
example https://tfhub.dev/google/universal-sentence-encoder/4 and
https://tfhub.dev/google/imagenet/mobilenet_v2_100_224/feature_vector/5 (--image-size 224).

Example:
  seqrec embed --dataset shop --text-encoder models/minilm --image-encoder models/vgg16-fc2 --image-folder photos
"""

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
from beam_jobs.options import flag
from seqrec_tf import manifest, records
from seqrec_tf import schema as schema_lib
from seqrec_tf.records import DatasetFolder
from seqrec_tf.writing import LOCK_FILE, only_writer

TAKES_BEAM_OPTIONS = True
NEEDS_TENSORFLOW = True

REJECTED = "rejected"

# A worker holds a shard while it writes it: 160 MB of vectors that are 4,096 wide.
_VECTORS_A_SHARD = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--dataset", required=True, metavar="DATASET", help="folder made by `seqrec prepare --items`")
    parser.add_argument("--text-encoder", metavar="HANDLE", help="TF Hub handle or SavedModel folder")
    parser.add_argument("--text-feature", metavar="NAME", help="text column (default: the only one)")
    parser.add_argument("--image-encoder", metavar="HANDLE", help="TF Hub handle or SavedModel folder")
    parser.add_argument("--image-feature", metavar="NAME", help="image-path column (default: the only one)")
    parser.add_argument("--image-folder", default="", metavar="DIR", help="what image paths are relative to")
    parser.add_argument("--image-size", type=int, default=224, help="pixels of a side (default 224)")
    parser.add_argument("--overwrite", action="store_true", help="replace the vectors of another encoder")
    parser.epilog = "Other options go to Beam, as for `seqrec prepare`."


def run(args: argparse.Namespace) -> None:
    """Embed what is asked for."""
    if not args.text_encoder and not args.image_encoder:
        raise ValueError("Give --text-encoder, --image-encoder or both.")
    if args.image_size < 1:
        raise ValueError(f"--image-size must be at least 1, got {args.image_size}.")
    for name, encoder in (
        ("text_feature", "text_encoder"),
        ("image_feature", "image_encoder"),
        ("image_folder", "image_encoder"),
    ):
        if getattr(args, name) and not getattr(args, encoder):
            raise ValueError(f"{flag(name)} needs {flag(encoder)}.")
    options = prepare_sequences.beam_options(getattr(args, "beam_options", None) or [], "embed", vars(args))
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
        feature = _feature(folder, "text", args.text_feature)
        jobs.append(make_job(folder, feature, args.text_encoder, overwrite=args.overwrite))
    if args.image_encoder:
        feature = _feature(folder, "image-path", args.image_feature)
        jobs.append(
            make_job(
                folder,
                feature,
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


def _feature(folder: DatasetFolder, kind: str, name: str | None) -> str:
    names = [feature.name for feature in folder.schema.item_features if feature.kind == kind]
    option = "--text-feature" if kind == "text" else "--image-feature"
    if name is None and len(names) == 1:
        return names[0]
    if name not in names:
        there = f"there are: {', '.join(names)}" if names else f"prepare it with --item-feature NAME:{kind}"
        raise ValueError(f"{option} must name a column of the kind {kind} of {folder.path}, got {name}; {there}.")
    return name


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
    lines.append(
        f"next: seqrec train --dataset {job.dataset} --model nova --output RUN --set "
        f"'model.item_features=[\"{schema_lib.vector_name(job.feature)}\"]'"
    )
    return "\n".join(lines) + "\n"

"""Write a run's best model as a SavedModel that TF Serving serves: string ids in, string ids and scores out.

Signature `serving_default`, what to recommend:
  history      string [batch, length]  item ids, oldest first; "" is padding, ids the model does not know are ignored
  items        string [batch, k]       recommended ids, best first; "" where fewer than k are left
  scores       float32 [batch, k]      their scores, in descending order
  num_unknown  int32 [batch]           how many ids of the history were ignored

Signature `rank`, how good each of some candidates is:
  history      as above
  candidates   string [batch, number]  item ids, in any order
  scores       float32 [batch, number] in the order of the candidates; the lowest number for an id that is not known
  num_unknown  as above

Both take more where the model reads it: `user_id` string [batch]; `history_timestamps` int64 [batch, length] and
`timestamp` int64 [batch], seconds, when the events happened and when the answer is for; features of users by their
names in the schema: a number as float32 [batch] (NaN where missing), a category as string [batch], several as string
[batch, number] ("" where missing).

A history without any known item gets the most popular items, scored by the logarithm of their share of the events; but
models that know the user answer by their vector, and ranking models by the candidate and what they know of the user.
Ranking models of a dataset with labels take a history of liked events alone.

With --items, items that came after training are candidates too, for models that know items by their features.

Beside the model, in assets.extra/, go warm-up requests for TF Serving, golden requests (histories with the answers that
the trained model gave), the schema and the configuration. The saved model is loaded the way TF Serving loads it, and
nothing is published unless it gives the golden answers.

Example:
  seqrec export --run runs/sasrec --output models/shop
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import pathlib
import shutil
import sys
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrec_tf import new_items
from seqrec_tf import run_folder as run_lib
from seqrec_tf import schema as schema_lib
from seqrec_tf.features import MISSING, UNKNOWN
from seqrec_tf.run_folder import RunFolder
from seqrec_tf.schema import (
    CANDIDATES,
    HISTORY,
    HISTORY_TIMESTAMPS,
    ITEMS,
    SCORES,
    TIMESTAMP,
)

if TYPE_CHECKING:
    from seqrec_tf.models.base import SequenceModel
    from seqrec_tf.records import DatasetFolder

NEEDS_TENSORFLOW = True

SIGNATURE, RANK_SIGNATURE = "serving_default", "rank"
EXTRA_FOLDER = "assets.extra"
WARM_UP_FILE = "tf_serving_warmup_requests"  # TF Serving's name for it
GOLDEN_FILE = "golden_requests.json"

_NUM_GOLDEN, _LEAST_GOLDEN = 50, 3
# Scores, in all, of golden requests to a model that scores items one by one.
_GOLDEN_SCORES = 1_000_000
_WARM_UP_BATCH_SIZES = (1, 8, 64)  # the allowed batch sizes of serving/batching.config
# float32 sums in another order: what the same scores may differ by.
_SCORE_TOLERANCE = 1e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--run", required=True, metavar="RUN", help="folder made by `seqrec train`")
    parser.add_argument(
        "--output", required=True, metavar="MODELS/NAME", help="the version goes to MODELS/NAME/VERSION"
    )
    parser.add_argument("--version", type=int, help="positive integer (default: one more than the newest there)")
    parser.add_argument("--k", type=int, default=20, help="items in an answer (default 20)")
    parser.add_argument("--dataset", metavar="DATASET", help="where the run's dataset is now, if it was moved")
    parser.add_argument(
        "--items", metavar="FILE", help="CSV, TSV or JSON lines (UTF-8) with new items, columns as in training"
    )
    parser.add_argument("--item-id-column", help="of --items (default item_id)")
    parser.add_argument("--image-folder", metavar="DIR", help="what image paths of --items are relative to")
    parser.add_argument("--keep-history", action="store_true", help="let items of the history be recommended")
    parser.add_argument(
        "--history-length",
        type=int,
        help="fix the second dimension of `history`, as TF Serving's batching needs; by default it is free",
    )


def run(args: argparse.Namespace) -> None:
    """Export as the arguments say."""
    for name in ("item_id_column", "image_folder"):
        if getattr(args, name) is not None and not args.items:
            raise ValueError(f"--{name.replace('_', '-')} needs --items.")
    path = export(
        RunFolder(args.run),
        args.output,
        version=args.version,
        k=args.k,
        dataset=args.dataset,
        keep_history=args.keep_history,
        history_length=args.history_length,
        items=args.items,
        item_id_column=args.item_id_column or "item_id",
        image_folder=args.image_folder or "",
    )
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    golden = json.loads((path / EXTRA_FOLDER / GOLDEN_FILE).read_text(encoding="utf-8"))
    if note := changed_inputs(path):
        sys.stderr.write(f"{note}\n")
    sys.stdout.write(
        f"{path}: {size / 1e6:.1f} MB; {len(golden)} golden requests answered as by the trained model\n"
        + f"Next: seqrec serve --models {path.parent.parent}\n"
    )


def export(
    run_folder: RunFolder,
    output: str | os.PathLike,
    *,
    version: int | None = None,
    k: int = 20,
    dataset: str | None = None,
    keep_history: bool = False,
    history_length: int | None = None,
    items: str | None = None,
    item_id_column: str = "item_id",
    image_folder: str = "",
) -> pathlib.Path:
    """Write the best model of a run to `output/version`.

    Args:
        run_folder: A finished run.
        output: Folder of the model's versions; its name is the model's name.
        version: Positive; by default one more than the newest there, or 1.
        k: Items in an answer.
        dataset: Where the run's dataset is now, if it was moved.
        keep_history: Whether items of the history may be recommended even if the run excluded them.
        history_length: Second dimension of `history`; any where None.
        items: File with items that came after training, for `new_items.read`.
        item_id_column: Its column with the item's id.
        image_folder: What its image paths are relative to.

    Returns:
        The version's folder.

    Raises:
        FileExistsError: The version is there already.
        ValueError: `k` is more than there are items.
        RuntimeError: The saved model does not give the trained model's answers; nothing is published.
    """
    import tensorflow as tf

    from seqrec_tf.ranking import multiply_exactly
    from seqrec_tf.serving_module import input_specs, make_serving_module

    output = run_lib.local_path(output, "--output")
    versions = [int(entry.name) for entry in output.glob("*") if entry.name.isdigit()]
    version = version if version is not None else max(versions, default=0) + 1
    if version < 1:
        raise ValueError(f"--version must be a positive integer, got {version}.")
    if history_length is not None and history_length < 1:
        raise ValueError(f"--history-length must be at least 1, got {history_length}.")
    target = output / str(version)
    if target.exists():
        raise FileExistsError(f"{target} is there already. Leave out --version to write {max(versions) + 1}.")
    folder = run_folder.open_dataset(dataset)
    if not 1 <= k <= folder.num_items:
        raise ValueError(f"--k must be from 1 to the number of items, {folder.num_items}, got {k}.")
    multiply_exactly()
    model = run_folder.load_model()
    exclude_history = run_folder.config.data.exclude_history and not keep_history
    catalogue = folder.item_ids
    if items:
        wanted = [feature.name for feature in model.item_features.features] if model.item_features else []
        new = new_items.read(items, folder, wanted, id_column=item_id_column, image_folder=image_folder)
        model = model.with_new_items(len(new.ids), new.values)
        catalogue = [*catalogue, *new.ids]

    partial = output / f"partial-{uuid.uuid4().hex[:8]}"  # no integer, so no server takes it for a version
    partial.mkdir(parents=True)
    try:
        vocabulary = partial / "item_id.txt"  # saved as an asset, so removed below
        vocabulary.write_text("".join(f"{item}\n" for item in catalogue), encoding="utf-8")
        model.freeze_item_table()
        module = make_serving_module(model, folder, str(vocabulary), k=k, exclude_history=exclude_history)
        specs = input_specs(model, history_length)
        candidates = tf.TensorSpec([None, None], tf.string, name=CANDIDATES)
        signatures = {
            SIGNATURE: module.recommend.get_concrete_function(**specs),
            RANK_SIGNATURE: module.rank.get_concrete_function(**specs, candidates=candidates),
        }
        tf.saved_model.save(module, str(partial), signatures=signatures)
        vocabulary.unlink()
        extra = partial / EXTRA_FOLDER
        extra.mkdir()
        golden = golden_requests(
            model, folder, catalogue, k=k, exclude_history=exclude_history, history_length=history_length
        )
        check_golden(partial, golden, history_length)
        (extra / GOLDEN_FILE).write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
        (extra / schema_lib.SCHEMA_FILE).write_text(folder.schema.to_json(), encoding="utf-8")
        for file in (run_lib.CONFIG_FILE, run_lib.DATASET_FILE):  # what the model was made of
            shutil.copy(run_folder.path / file, extra / file)
        # A model that scores items one by one takes long over all of them: once is enough.
        sizes = {SIGNATURE: _WARM_UP_BATCH_SIZES[: 1 if model.scores_one_by_one else None]}
        sizes[RANK_SIGNATURE] = _WARM_UP_BATCH_SIZES
        _write_warm_up(extra / WARM_UP_FILE, output.name, golden, history_length, sizes)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def golden_requests(
    model: SequenceModel,
    folder: DatasetFolder,
    catalogue: Sequence[str],
    *,
    k: int,
    exclude_history: bool,
    history_length: int | None,
) -> list[dict[str, Any]]:
    """Requests made of the dataset, each with the trained model's answer, computed without any of the serving code."""
    import tensorflow as tf

    from seqrec_tf import data
    from seqrec_tf.models.base_batches import EXCLUDED
    from seqrec_tf.ranking import recommend
    from seqrec_tf.schema import ITEM_IDS, TARGET_TIME, TIMESTAMPS, USER_ID
    from seqrec_tf.serving_module import user_features

    split = next(split for split in ("test", "valid", "train") if folder.split_files(split))
    batches = data.evaluation_batches(folder, split, model, batch_size=1, exclude_history=True)
    requests, number = [], _NUM_GOLDEN
    if model.scores_one_by_one:
        number = min(number, max(_LEAST_GOLDEN, _GOLDEN_SCORES // model.num_items))
    # Neighbours that are alike, because what lay between them was filtered out, are repeats to a server.
    if folder.options.get("duplicates") == "consecutive":
        batches = batches.filter(lambda _, labels: tf.reduce_all(labels[EXCLUDED][:, 1:] != labels[EXCLUDED][:, :-1]))
    # Every fourth, as neighbours are of like length.
    for inputs, labels in itertools.islice(batches, 0, 4 * number, 4):
        # What the model sees, where that is liked events alone; else all that may not be recommended is sent.
        history = (inputs[ITEM_IDS] if model.history_is_liked else labels[EXCLUDED]).numpy()[0][
            -(history_length or 0) :
        ]
        of_events = inputs.keys() - {*model.reads_of_user, TARGET_TIME}
        inputs = {name: value[:, -len(history) :] if name in of_events else value for name, value in inputs.items()}
        query, excluded = model.query(inputs), (history if exclude_history else history[:0])[None]
        items, scores = recommend(model, query, excluded, k=k)
        is_there = np.isfinite(scores[0])
        request: dict[str, Any] = {HISTORY: [catalogue[item - 1] if item else "" for item in history]}
        if USER_ID in inputs:
            request[USER_ID] = labels[USER_ID].numpy()[0].decode()
        if TIMESTAMPS in inputs:
            times = inputs[TIMESTAMPS].numpy()[0].tolist()
            request[HISTORY_TIMESTAMPS] = [0] * (len(history) - len(times)) + times  # older ones than the model reads
            request[TIMESTAMP] = int(inputs[TARGET_TIME][0])
        for feature in user_features(model):
            request[feature.name] = _raw(inputs[feature.name].numpy()[0], folder.learned_of_users[feature.name])
        request[ITEMS] = [catalogue[item - 1] for item in items.numpy()[0][is_there]]
        request[SCORES] = scores.numpy()[0][is_there].tolist()
        requests.append(request)
    return requests


def changed_inputs(version: pathlib.Path) -> str:
    """What differs from the inputs of the newest other version beside it, in a sentence; empty where nothing does."""
    import tensorflow as tf
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    def inputs(folder):
        saved_model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        return saved_model.meta_graphs[0].signature_def[SIGNATURE].inputs

    def words(info):
        size = info.tensor_shape.dim[1].size if len(info.tensor_shape.dim) > 1 else -1
        return tf.as_dtype(info.dtype).name + (f" of length {size}" if size >= 0 else "")

    files = version.parent.glob("[0-9]*/saved_model.pb")
    others = [file.parent for file in files if file.parent.name.isdigit() and file.parent != version]
    if not others:
        return ""
    other = max(others, key=lambda folder: int(folder.name))
    try:
        now, before = inputs(version), inputs(other)
    except (DecodeError, IndexError, OSError):  # the other is no whole model
        return ""
    changes = [f"{name} is new" for name in now if name not in before]
    changes += [f"{name} is gone" for name in before if name not in now]
    changes += [
        f"{name} is {words(now[name])}, not {words(before[name])}"
        for name in now
        if name in before and words(now[name]) != words(before[name])
    ]
    if not changes:
        return ""
    return f"Requests for version {other.name} do not fit version {version.name}: {'; '.join(sorted(changes))}."


def _raw(value: Any, learned: dict[str, Any]) -> Any:
    """A user's value as a request has it, from what the records hold: the inverse of `features.Encoder`."""
    if "mean" in learned:
        return float(value * learned["deviation"] + learned["mean"])
    # What training has not seen is any string that it has not seen.
    names = {MISSING: "", UNKNOWN: "\0", **dict(enumerate(learned["values"], start=UNKNOWN + 1))}
    return [names[int(one)] for one in value] if np.ndim(value) else names[int(value)]


def check_golden(saved_model: pathlib.Path, golden: list[dict[str, Any]], history_length: int | None) -> None:
    """Load a SavedModel as TF Serving does, and compare its answers with the golden ones.

    Raises:
        RuntimeError: An answer differs.
    """
    import tensorflow as tf

    # TF Serving is a C++ session loader: graph, tag, signature, no Python object.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(saved_model))

        def answer(name, feeds):
            signature = meta_graph.signature_def[name]
            outputs = {name: info.name for name, info in signature.outputs.items()}
            return session.run(outputs, {signature.inputs[name].name: value for name, value in feeds.items()})

        for request in golden:
            feeds = _feeds([request], history_length)
            recommended = answer(SIGNATURE, feeds)
            items = [item.decode() for item in recommended[ITEMS][0] if item]
            scores = recommended[SCORES][0][: len(items)]
            expected = np.array(request[SCORES], np.float32)
            if len(scores) != len(expected) or not np.allclose(scores, expected, _SCORE_TOLERANCE, _SCORE_TOLERANCE):
                difference = "the scores differ"
            elif any(
                ours != theirs and abs(score - request[SCORES][request[ITEMS].index(ours)]) > _SCORE_TOLERANCE
                if ours in request[ITEMS]
                else abs(score - expected[-1]) > _SCORE_TOLERANCE
                for ours, theirs, score in zip(items, request[ITEMS], scores.tolist(), strict=True)
            ):
                difference = "the items differ"
            elif not np.allclose(
                answer(RANK_SIGNATURE, {**feeds, CANDIDATES: np.array([request[ITEMS]], object)})[SCORES][0],
                expected,
                _SCORE_TOLERANCE,
                _SCORE_TOLERANCE,
            ):
                difference = "the scores of `rank` differ"
            else:
                continue
            raise RuntimeError(
                f"The saved model does not answer as the trained one; {difference}. For the history "
                f"{request[HISTORY][-5:]} (newest 5) it gives {items[:5]}, expected {request[ITEMS][:5]}. Nothing was "
                "published."
            )


def _write_warm_up(
    path: pathlib.Path,
    model_name: str,
    golden: list[dict[str, Any]],
    length: int | None,
    sizes: dict[str, tuple[int, ...]],
) -> None:
    """Requests that TF Serving runs before it announces the model, so that the first user does not wait."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, batch_sizes in sizes.items():
            for batch_size in batch_sizes:
                feeds = _feeds([golden[i % len(golden)] for i in range(batch_size)], length)
                if signature == RANK_SIGNATURE:
                    feeds[CANDIDATES] = np.array([golden[0][ITEMS]] * batch_size, object)
                request = predict_pb2.PredictRequest()
                request.model_spec.name = model_name
                request.model_spec.signature_name = signature
                for name, value in feeds.items():
                    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
                log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
                writer.write(log.SerializeToString(deterministic=True))


def _feeds(requests: list[dict[str, Any]], history_length: int | None) -> dict[str, np.ndarray]:
    """Requests as one batch: an array for each input that they have, padded on the right."""
    length = history_length or max(len(request[HISTORY]) for request in requests)
    feeds = {}
    for name in requests[0].keys() - {ITEMS, SCORES}:
        values = [request[name] for request in requests]
        if name in (HISTORY, HISTORY_TIMESTAMPS):
            padding = "" if name == HISTORY else 0
            values = [value + [padding] * (length - len(value)) for value in values]
        first = values[0][0] if isinstance(values[0], list) else values[0]
        feeds[name] = np.array(values, {str: object, int: np.int64, float: np.float32}[type(first)])
    return feeds

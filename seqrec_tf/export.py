"""Write a run's best model as a SavedModel that TF Serving serves: string ids in, string ids and scores out.

Signature `serving_default`:
  history      string [batch, length]  item ids, oldest first; "" is padding, ids the model does not know are ignored
  items        string [batch, k]       recommended ids, best first; "" where fewer than k are left
  scores       float32 [batch, k]      their scores, in descending order
  num_unknown  int32 [batch]           how many ids of the history were ignored

A history without any known item gets the most popular items, scored by the logarithm of their share of the events.

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
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrec_tf import run_folder as run_lib
from seqrec_tf import schema as schema_lib
from seqrec_tf.run_folder import RunFolder

if TYPE_CHECKING:
    from seqrec_tf.models.base import SequenceModel
    from seqrec_tf.records import DatasetFolder

NEEDS_TENSORFLOW = True

SIGNATURE = "serving_default"
HISTORY, ITEMS, SCORES, NUM_UNKNOWN = "history", "items", "scores", "num_unknown"
EXTRA_FOLDER = "assets.extra"
WARM_UP_FILE = "tf_serving_warmup_requests"  # TF Serving's name for it
GOLDEN_FILE = "golden_requests.json"

_NUM_GOLDEN = 50
_WARM_UP_BATCH_SIZES = (1, 8, 64)  # the allowed batch sizes of serving/batching.config
# float32 sums in another order: what the same scores may differ by.
_SCORE_TOLERANCE = 1e-4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--run", required=True, metavar="RUN", help="folder made by `seqrec train`")
    parser.add_argument(
        "--output", required=True, metavar="MODELS/NAME", help="the version goes to MODELS/NAME/VERSION"
    )
    parser.add_argument("--version", type=int, help="positive integer; one more than the newest there")
    parser.add_argument("--k", type=int, default=20, help="items in an answer (default 20)")
    parser.add_argument("--dataset", metavar="DATASET", help="where the run's dataset is now, if it was moved")
    parser.add_argument("--keep-history", action="store_true", help="let items of the history be recommended")
    parser.add_argument(
        "--history-length",
        type=int,
        help="fix the second dimension of `history`, as TF Serving's batching needs; by default it is free",
    )


def run(args: argparse.Namespace) -> None:
    """Export as the arguments say."""
    path = export(
        RunFolder(args.run),
        args.output,
        version=args.version,
        k=args.k,
        dataset=args.dataset,
        keep_history=args.keep_history,
        history_length=args.history_length,
    )
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    golden = json.loads((path / EXTRA_FOLDER / GOLDEN_FILE).read_text(encoding="utf-8"))
    sys.stdout.write(
        f"{path}: {size / 1e6:.1f} MB; {len(golden)} golden requests answered as by the trained model\n"
        f"Next: seqrec serve --models {path.parent.parent}\n"
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

    Returns:
        The version's folder.

    Raises:
        FileExistsError: The version is there already.
        ValueError: `k` is more than there are items.
        RuntimeError: The saved model does not give the trained model's answers; nothing is published.
    """
    import tensorflow as tf

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
    model = run_folder.load_model()
    exclude_history = run_folder.config.data.exclude_history and not keep_history

    partial = output / f"partial-{uuid.uuid4().hex[:8]}"  # no integer, so no server takes it for a version
    partial.mkdir(parents=True)
    try:
        vocabulary = partial / "item_id.txt"  # saved as an asset, so removed below
        vocabulary.write_text(folder.read_text(schema_lib.ITEM_VOCABULARY_FILE), encoding="utf-8")
        module = make_serving_module(
            model,
            folder,
            str(vocabulary),
            k=k,
            exclude_history=exclude_history,
            history_length=history_length,
        )
        tf.saved_model.save(module, str(partial), signatures={SIGNATURE: module.recommend})
        vocabulary.unlink()
        extra = partial / EXTRA_FOLDER
        extra.mkdir()
        golden = golden_requests(model, folder, k=k, exclude_history=exclude_history, history_length=history_length)
        check_golden(partial, golden, history_length)
        (extra / GOLDEN_FILE).write_text(json.dumps(golden, indent=1) + "\n", encoding="utf-8")
        (extra / schema_lib.SCHEMA_FILE).write_text(folder.schema.to_json(), encoding="utf-8")
        shutil.copy(run_folder.path / run_lib.CONFIG_FILE, extra / run_lib.CONFIG_FILE)
        _write_warm_up(extra / WARM_UP_FILE, output.name, [request[HISTORY] for request in golden], history_length)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def make_serving_module(
    model: SequenceModel,
    folder: DatasetFolder,
    vocabulary: str,
    *,
    k: int,
    exclude_history: bool,
    history_length: int | None,
):
    """A `tf.Module` whose `recommend` is the serving signature; TensorFlow core operations only."""
    import tensorflow as tf

    from seqrec_tf.models.base import PADDING_ID
    from seqrec_tf.schema import ITEM_IDS

    counts = np.asarray(folder.item_counts, np.float64)
    with np.errstate(divide="ignore"):
        log_share = np.log(counts[:k] / counts.sum()).astype(np.float32)  # ids are in order of frequency
    line, whole = tf.lookup.TextFileIndex.LINE_NUMBER, tf.lookup.TextFileIndex.WHOLE_LINE

    class Recommender(tf.Module):
        def __init__(self):
            super().__init__()
            self.model_variables = [variable.value for variable in model.variables]
            self.line_of_item = tf.lookup.StaticHashTable(
                tf.lookup.TextFileInitializer(vocabulary, tf.string, whole, tf.int64, line), default_value=-1
            )
            self.item_of_line = tf.lookup.StaticHashTable(
                tf.lookup.TextFileInitializer(vocabulary, tf.int64, line, tf.string, whole), default_value=""
            )

        @tf.function(input_signature=[tf.TensorSpec([None, history_length], tf.string, name=HISTORY)])
        def recommend(self, history):
            ids = tf.cast(self.line_of_item.lookup(history) + 1, tf.int32)  # [B, L], 0 where unknown or padding
            is_known = ids != PADDING_ID
            num_unknown = tf.reduce_sum(tf.cast(~is_known & (history != ""), tf.int32), axis=1)
            # Known ids to the right, in their order; the model has learned from the newest max_len.
            order = tf.argsort(tf.cast(is_known, tf.int32), axis=1, stable=True)
            newest = tf.gather(ids, order, batch_dims=1)[:, -model.config.max_len :]
            newest = tf.pad(newest, [[0, 0], [0, tf.cast(tf.shape(newest)[1] == 0, tf.int32)]])  # at least one column
            excluded = ids if exclude_history else ids[:, :0]
            items, scores = model.recommend(model.query({ITEM_IDS: newest}), excluded, k=k)
            is_cold = ~tf.reduce_any(is_known, axis=1, keepdims=True)
            items = tf.where(is_cold, tf.range(1, k + 1), items)
            scores = tf.where(is_cold, tf.constant(log_share), scores)
            is_there = tf.math.is_finite(scores)
            lines = tf.where(is_there, tf.cast(items, tf.int64) - 1, -1)
            return {
                ITEMS: self.item_of_line.lookup(lines),
                SCORES: tf.where(is_there, scores, tf.float32.min),  # JSON has no infinity
                NUM_UNKNOWN: num_unknown,
            }

    return Recommender()


def golden_requests(
    model: SequenceModel, folder: DatasetFolder, *, k: int, exclude_history: bool, history_length: int | None
) -> list[dict[str, Any]]:
    """Histories of the dataset with the trained model's answers, computed without any of the serving code."""
    from seqrec_tf import data
    from seqrec_tf.models.base import EXCLUDED
    from seqrec_tf.schema import ITEM_IDS

    split = next(split for split in ("test", "valid", "train") if folder.split_files(split))
    batches = data.evaluation_batches(folder, split, max_len=model.config.max_len, batch_size=1, exclude_history=True)
    requests = []
    # Every fourth, as neighbours are of like length.
    for _, labels in itertools.islice(batches, 0, 4 * _NUM_GOLDEN, 4):
        history = labels[EXCLUDED].numpy()[0][-(history_length or 0) :]
        query = model.query({ITEM_IDS: history[None, -model.config.max_len :]})
        excluded = history if exclude_history else history[:0]
        items, scores = model.recommend(query, excluded[None], k=k)
        is_there = np.isfinite(scores[0])
        requests.append(
            {
                HISTORY: [folder.item_ids[item - 1] for item in history],
                ITEMS: [folder.item_ids[item - 1] for item in items.numpy()[0][is_there]],
                SCORES: scores.numpy()[0][is_there].tolist(),
            }
        )
    return requests


def check_golden(saved_model: pathlib.Path, golden: list[dict[str, Any]], history_length: int | None) -> None:
    """Load a SavedModel as TF Serving does, and compare its answers with the golden ones.

    Raises:
        RuntimeError: An answer differs.
    """
    import tensorflow as tf

    # TF Serving is a C++ session loader: graph, tag, signature, no Python object.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(saved_model))
        signature = meta_graph.signature_def[SIGNATURE]
        outputs = {name: info.name for name, info in signature.outputs.items()}
        for request in golden:
            padded = _padded([request[HISTORY]], history_length)
            answer = session.run(outputs, {signature.inputs[HISTORY].name: padded})
            items = [item.decode() for item in answer[ITEMS][0] if item]
            scores = answer[SCORES][0][: len(items)]
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
            else:
                continue
            raise RuntimeError(
                f"The saved model does not answer as the trained one; {difference}. For the history "
                f"{request[HISTORY][-5:]} (newest 5) it gives {items[:5]}, expected {request[ITEMS][:5]}. Nothing was "
                "published."
            )


def _write_warm_up(path: pathlib.Path, model_name: str, histories: list[list[str]], history_length: int | None) -> None:
    """Requests that TF Serving runs before it announces the model, so that the first user does not wait."""
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch_size in _WARM_UP_BATCH_SIZES:
            request = predict_pb2.PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = SIGNATURE
            batch = [histories[i % len(histories)] for i in range(batch_size)]
            request.inputs[HISTORY].CopyFrom(tf.make_tensor_proto(_padded(batch, history_length), tf.string))
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString(deterministic=True))


def _padded(histories: list[list[str]], length: int | None) -> np.ndarray:
    length = length or max(map(len, histories))
    return np.array([history + [""] * (length - len(history)) for history in histories], object)

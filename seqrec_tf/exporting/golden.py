"""Golden requests of an exported model: made of the dataset, answered by the trained model, asked of the saved one.

They lie beside the model, so that whoever serves it can ask them again, and its warm-up requests are made of them.

Example of one: {"history": ["tent", "mat"], "items": ["stove", "lamp"], "scores": [3.1, 2.7]}
"""

from __future__ import annotations

import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrec_tf import padding
from seqrec_tf.features import Encoder
from seqrec_tf.schema import (
    CANDIDATES,
    DROP_CONSECUTIVE_REPEATS,
    EXCLUDED,
    HISTORY,
    HISTORY_TIMESTAMPS,
    ITEM_IDS,
    ITEMS,
    RANK,
    RECOMMEND,
    SCORES,
    SIGNATURES,
    TARGET_TIME,
    TIMESTAMP,
    TIMESTAMPS,
    USER_ID,
    Signature,
)

if TYPE_CHECKING:
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    from seqrec_tf.models.base import SequenceModel
    from seqrec_tf.records import DatasetFolder

_NUM_GOLDEN, _LEAST_GOLDEN = 50, 3
# Scores, in all, of golden requests to a model that scores items one by one.
_GOLDEN_SCORES = 1_000_000
_WARM_UP_BATCH_SIZES = (1, 8, 64)  # the allowed batch sizes of serving/batching.config
# float32 sums in another order: what the same scores may differ by.
_SCORE_TOLERANCE = 1e-4


def golden_requests(
    model: SequenceModel,
    folder: DatasetFolder,
    catalogue: Sequence[str],
    *,
    k: int,
    exclude_history: bool,
    history_length: int | None,
) -> list[dict[str, Any]]:
    """Requests made of the dataset, each with the trained model's answer, computed without any of the serving code.

    Args:
        model: The trained model.
        folder: The dataset that it was trained on.
        catalogue: The item with id i at place i - 1.
        k: Items in an answer.
        exclude_history: Whether items of the history are not recommended.
        history_length: The longest history that may be sent; any where None.
    """
    number = _NUM_GOLDEN
    if model.scores_one_by_one:
        number = min(number, max(_LEAST_GOLDEN, _GOLDEN_SCORES // model.num_items))
    return [
        _request(model, folder, catalogue, history, inputs, user_id)
        | _answer(model, catalogue, inputs, history if exclude_history else history[:0], k)
        for history, inputs, user_id in _histories(model, folder, number, history_length)
    ]


def _histories(
    model: SequenceModel, folder: DatasetFolder, number: int, history_length: int | None
) -> Iterator[tuple[np.ndarray, dict[str, Any], str]]:
    """Histories to send, int32 [L], with what the model takes of each, a batch of one, and the user ("" if unknown)."""
    import tensorflow as tf

    from seqrec_tf import data

    split = next(split for split in ("test", "valid", "train") if folder.split_files(split))
    batches = data.evaluation_batches(folder, split, model, batch_size=1, exclude_history=True)
    # Neighbours that are alike, because what lay between them was filtered out, are repeats to a server.
    if folder.schema.repeats == DROP_CONSECUTIVE_REPEATS:
        batches = batches.filter(lambda _, labels: tf.reduce_all(labels[EXCLUDED][:, 1:] != labels[EXCLUDED][:, :-1]))
    # Every fourth, as neighbours are of like length.
    for inputs, labels in itertools.islice(batches, 0, 4 * number, 4):
        # What the model sees, where that is liked events alone; else all that may not be recommended is sent.
        history = (inputs[ITEM_IDS] if model.history_is_liked else labels[EXCLUDED]).numpy()[0]
        history = history[-(history_length or 0) :]
        of_events = inputs.keys() - {*model.reads_of_user, TARGET_TIME}
        cut = {name: value[:, -len(history) :] if name in of_events else value for name, value in inputs.items()}
        yield history, cut, labels[USER_ID].numpy()[0].decode() if USER_ID in labels else ""


def _request(
    model: SequenceModel,
    folder: DatasetFolder,
    catalogue: Sequence[str],
    history: np.ndarray,
    inputs: dict[str, Any],
    user_id: str,
) -> dict[str, Any]:
    """What a client would send for a history."""
    from seqrec_tf.exporting.serving_module import user_features

    request: dict[str, Any] = {HISTORY: [catalogue[item - 1] if item else padding.NO_ITEM for item in history]}
    if USER_ID in inputs:
        request[USER_ID] = user_id
    if TIMESTAMPS in inputs:
        times = inputs[TIMESTAMPS].numpy()[0].tolist()
        older = [padding.NO_TIME] * (len(history) - len(times))  # than the model reads
        request[HISTORY_TIMESTAMPS] = older + times
        request[TIMESTAMP] = int(inputs[TARGET_TIME][0])
    features = user_features(model)
    encoder = Encoder(features, folder.learned_of_users)
    return request | {feature.name: encoder.request(feature, inputs[feature.name].numpy()[0]) for feature in features}


def _answer(
    model: SequenceModel, catalogue: Sequence[str], inputs: dict[str, Any], excluded: np.ndarray, k: int
) -> dict[str, Any]:
    """What the trained model recommends."""
    from seqrec_tf.learning.ranking import recommend

    items, scores = recommend(model, model.query(inputs), excluded[None], k=k)
    is_there = np.isfinite(scores[0])
    return {
        ITEMS: [catalogue[item - 1] for item in items.numpy()[0][is_there]],
        SCORES: scores.numpy()[0][is_there].tolist(),
    }


def check_golden(saved_model: pathlib.Path, golden: list[dict[str, Any]], history_length: int | None) -> None:
    """Load a SavedModel as TF Serving does, and compare its answers with the golden ones.

    Raises:
        RuntimeError: An answer differs.
    """
    import tensorflow as tf

    # TF Serving is a C++ session loader: graph, tag, signature, no Python object.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(saved_model))

        def answer(asked: Signature, feeds):
            signature = meta_graph.signature_def[asked.name]
            outputs = {name: info.name for name, info in signature.outputs.items()}
            return session.run(outputs, {signature.inputs[name].name: value for name, value in feeds.items()})

        for request in golden:
            items, difference = _difference(request, answer, _feeds([request], history_length))
            if difference:
                raise RuntimeError(
                    f"The saved model does not answer as the trained one; {difference}. For the history "
                    f"{request[HISTORY][-5:]} (newest 5) it gives {items[:5]}, expected {request[ITEMS][:5]}. Nothing "
                    "was published."
                )


def _difference(request: dict[str, Any], answer: Callable[..., Any], feeds: dict[str, Any]) -> tuple[list[str], str]:
    """The items that a saved model recommends, and in what its answers to a golden request differ ("" in nothing)."""
    recommended = answer(RECOMMEND, feeds)
    items = [item.decode() for item in recommended[ITEMS][0] if item]
    scores, expected = recommended[SCORES][0][: len(items)], np.array(request[SCORES], np.float32)

    def are_close(scores) -> bool:
        return np.allclose(scores, expected, _SCORE_TOLERANCE, _SCORE_TOLERANCE)

    if len(scores) != len(expected) or not are_close(scores):
        return items, "the scores differ"
    expected_of = dict(zip(request[ITEMS], request[SCORES], strict=True))
    for ours, theirs, score in zip(items, request[ITEMS], scores.tolist(), strict=True):
        # Items of nearly equal scores may change places, among each other or with those that are just not listed.
        if ours != theirs and abs(score - expected_of.get(ours, expected[-1])) > _SCORE_TOLERANCE:
            return items, "the items differ"
    candidates = np.array([request[ITEMS]], object)
    if not are_close(answer(RANK, {**feeds, CANDIDATES: candidates})[SCORES][0]):
        return items, "the scores of `rank` differ"
    return items, ""


def warm_up_requests(
    model_name: str, golden: list[dict[str, Any]], history_length: int | None, *, scores_one_by_one: bool
) -> Iterator[PredictRequest]:
    """Requests in batches of the sizes that a server allows, to each signature.

    Args:
        model_name: Name of the model on the server.
        golden: What the requests are made of.
        history_length: Second dimension of `history`; any where None.
        scores_one_by_one: Whether the model takes long over all items, so that one request for these is enough.
    """
    import tensorflow as tf
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    for signature in SIGNATURES:
        is_costly = scores_one_by_one and not signature.inputs
        for batch_size in _WARM_UP_BATCH_SIZES[: 1 if is_costly else None]:
            feeds = _feeds([golden[i % len(golden)] for i in range(batch_size)], history_length)
            for feature in signature.inputs:  # ids of items: those of the first answer
                items = golden[0][ITEMS] if feature.is_list else golden[0][ITEMS][0]
                feeds[feature.name] = np.array([items] * batch_size, object)
            request = PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = signature.name
            for name, value in feeds.items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            yield request


def write_warm_up(path: pathlib.Path, requests: Iterable[PredictRequest]) -> None:
    """Write requests that TF Serving runs before it announces the model, so that the first user does not wait."""
    import tensorflow as tf
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog, PredictLog

    with tf.io.TFRecordWriter(str(path)) as writer:
        for request in requests:
            log = PredictionLog(predict_log=PredictLog(request=request))
            writer.write(log.SerializeToString(deterministic=True))


def _feeds(requests: list[dict[str, Any]], history_length: int | None) -> dict[str, np.ndarray]:
    """Requests as one batch: an array for each input that they have."""
    feeds = {}
    for name in requests[0].keys() - {ITEMS, SCORES}:
        values = [request[name] for request in requests]
        if name in (HISTORY, HISTORY_TIMESTAMPS):
            nothing = padding.NO_ITEM if name == HISTORY else padding.NO_TIME
            values = padding.rows(values, nothing, length=history_length)
        first = values[0][0] if isinstance(values[0], list) else values[0]
        feeds[name] = np.array(values, {str: object, int: np.int64, float: np.float32}[type(first)])
    return feeds

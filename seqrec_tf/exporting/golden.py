"""Golden requests of an exported model: made of the dataset, answered by the trained model, asked of the saved one.

They lie beside the model, so that whoever serves it can ask them again, and its warm-up requests are made of them.

Example of one: {"history": ["tent", "mat"], "items": ["stove", "lamp"], "scores": [3.1, 2.7]}
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from seqrec_tf import answers as answers_lib
from seqrec_tf import padding
from seqrec_tf.features import Encoder
from seqrec_tf.records import encode_example
from seqrec_tf.schema import (
    ALLOW,
    CANDIDATES,
    CLASSES,
    DROP_CONSECUTIVE_REPEATS,
    EMBED,
    EXAMPLES,
    EXCLUDE,
    EXCLUDED,
    HISTORY,
    HISTORY_LABELS,
    HISTORY_TIMESTAMPS,
    ITEM_IDS,
    ITEMS,
    LABELS,
    OF_HISTORY,
    OUTPUTS,
    PADDING_ID,
    PLACE,
    RANK,
    RECOMMEND,
    RECOMMEND_AMONG,
    REGRESS,
    SCORES,
    SERIALIZED,
    TARGET_TIME,
    TIMESTAMP,
    TIMESTAMPS,
    USER_ID,
    VECTOR,
    Feature,
    K,
    Signature,
)

if TYPE_CHECKING:
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    from seqrec_tf.exporting.serving_module import Answers, Trained
    from seqrec_tf.models.base import SequenceModel
    from seqrec_tf.records import DatasetFolder

_NUM_GOLDEN, _LEAST_GOLDEN = 50, 3
_OF_ALL_SIGNATURES = 10  # golden requests that are asked in every way
# Scores, in all, of golden requests to a model that scores items one by one.
_GOLDEN_SCORES = 1_000_000
WARM_UP_BATCH_SIZES = (1, 8, 64)  # the allowed batch sizes of serving/deploy/batching.config


def golden_requests(stages: Sequence[Trained], catalogue: Sequence[str], answers: Answers) -> list[dict[str, Any]]:
    """Requests made of the dataset, each with the trained model's answer, computed without any of the serving code.

    Args:
        stages: The trained model; or one that proposes items, and one that ranks these.
        catalogue: The item with id i at place i - 1.
        answers: How the model is to answer.
    """
    model = stages[0].model
    number = _NUM_GOLDEN
    if model.scores_one_by_one:
        number = min(number, max(_LEAST_GOLDEN, _GOLDEN_SCORES // model.num_items))
    cases = (
        _cases(model, stages[0].folder, number, answers) if len(stages) == 1 else _cases_of_two(stages, number, answers)
    )
    return [
        _request([stage.model for stage in stages], catalogue, case) | _answer(stages, catalogue, case, answers)
        for case in cases
    ]


@dataclasses.dataclass(frozen=True)
class _Case:
    """A history to send, and what the models take of it.

    Attributes:
        history: int32 [L].
        inputs: What each stage takes, a batch of one.
        times: int64 [L], of the events of the history; None where nothing reads it.
        labels: int64 [L], which of them were liked; None where nothing reads it.
        user_id: The user; "" if unknown.
        folders: The dataset of each stage.
    """

    history: np.ndarray
    inputs: Sequence[Mapping[str, Any]]
    times: np.ndarray | None
    labels: np.ndarray | None
    user_id: str
    folders: Sequence[DatasetFolder]


def _cases(model: SequenceModel, folder: DatasetFolder, number: int, answers: Answers) -> Iterator[_Case]:
    """Cases of one model."""
    import tensorflow as tf

    from seqrec_tf import data

    batches = data.evaluation_batches(folder, _split(folder), model, batch_size=1, exclude_history=True)
    # Neighbours that are alike, because what lay between them was filtered out, are repeats to a server.
    if folder.schema.repeats == DROP_CONSECUTIVE_REPEATS:
        batches = batches.filter(lambda _, labels: tf.reduce_all(labels[EXCLUDED][:, 1:] != labels[EXCLUDED][:, :-1]))
    # Every fourth, as neighbours are of like length.
    for inputs, labels in itertools.islice(batches, 0, 4 * number, 4):
        # What the model sees, where that is liked events alone; else all that may not be recommended is sent.
        history = (inputs[ITEM_IDS] if model.history_is_liked else labels[EXCLUDED]).numpy()[0]
        history = history[-(answers.history_length or 0) :]
        cut = _newest(model, inputs, len(history))
        times = None
        if TIMESTAMPS in inputs:
            seen = cut[TIMESTAMPS].numpy()[0]
            # Before them, those that are older than the model reads.
            times = np.concatenate([np.full(len(history) - len(seen), padding.NO_TIME, np.int64), seen])
        user_id = labels[USER_ID].numpy()[0].decode() if USER_ID in labels else ""
        yield _Case(history, [cut], times, None, user_id, [folder])


def _cases_of_two(stages: Sequence[Trained], number: int, answers: Answers) -> Iterator[_Case]:
    """Cases of two models, by the events to predict of the second one's dataset."""
    from seqrec_tf import data
    from seqrec_tf.exporting.serving_module import takes_labels
    from seqrec_tf.records import read_split

    folder, of_labels = stages[-1].folder, takes_labels(stages)
    split = _split(folder)
    inputs_at: list[dict[tuple[int, ...], Any]] = [{} for _ in stages]
    for stage, at in zip(stages, inputs_at, strict=True):
        batches = data.evaluation_batches(
            folder, split, stage.model, batch_size=1, exclude_history=True, max_sequences=4 * number
        )
        for inputs, labels in batches:
            at[tuple(labels[PLACE].numpy()[0].tolist())] = inputs
    sequences = itertools.chain.from_iterable(_rows(batch) for batch in read_split(folder, split))
    of_sequence = list(itertools.islice(sequences, 4 * number))
    found = 0
    for (sequence, position), first in sorted(inputs_at[0].items()):
        row = of_sequence[sequence]
        start = max(0, position - (answers.history_length or position))
        history = row[ITEM_IDS][start:position].astype(np.int32)
        labels = row[LABELS][start:position] if of_labels else None
        # What happened at one moment is no history to a ranking model, and neighbours that filters made are repeats.
        same_time = TIMESTAMPS in row and row[TIMESTAMPS][position - 1] == row[TIMESTAMPS][position]
        is_repeat = folder.schema.repeats == DROP_CONSECUTIVE_REPEATS and np.any(history[1:] == history[:-1])
        if same_time or is_repeat:
            continue
        liked = len(history) if labels is None else int(labels.sum())
        if not liked:
            continue
        lengths = [liked if stage.model.history_is_liked else len(history) for stage in stages]
        inputs = [
            _newest(stage.model, of_stage, length)
            for stage, of_stage, length in zip(stages, (first, inputs_at[1][sequence, position]), lengths, strict=True)
        ]
        times = row[TIMESTAMPS][start:position] if any(TIMESTAMPS in of_stage for of_stage in inputs) else None
        user_id = row[USER_ID].decode() if USER_ID in row else ""
        yield _Case(history, inputs, times, labels, user_id, [stage.folder for stage in stages])
        found += 1
        if found == number:
            return


def _split(folder: DatasetFolder) -> str:
    return next(split for split in ("test", "valid", "train") if folder.split_files(split))


def _newest(model: SequenceModel, inputs: Mapping[str, Any], length: int) -> dict[str, Any]:
    """What a model takes, of the newest events of a history alone."""
    of_events = inputs.keys() - {*model.reads_of_user, TARGET_TIME}
    return {name: value[:, -length:] if name in of_events else value for name, value in inputs.items()}


def _rows(batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The records of a batch, one by one: name to an array or a value."""
    columns = {name: value.numpy() for name, value in batch.items()}
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _request(models: Sequence[SequenceModel], catalogue: Sequence[str], case: _Case) -> dict[str, Any]:
    """What a client would send for a history."""
    from seqrec_tf.exporting.stage import user_features

    request: dict[str, Any] = {HISTORY: [catalogue[item - 1] if item else padding.NO_ITEM for item in case.history]}
    for model, inputs, folder in zip(models, case.inputs, case.folders, strict=True):
        if USER_ID in inputs:
            request[USER_ID] = case.user_id
        if TIMESTAMPS in inputs and case.times is not None:
            request[HISTORY_TIMESTAMPS] = case.times.tolist()
            request[TIMESTAMP] = int(inputs[TARGET_TIME][0])
        features = user_features(model)
        encoder = Encoder(features, folder.learned_of_users)
        request |= {feature.name: encoder.request(feature, inputs[feature.name].numpy()[0]) for feature in features}
    if case.labels is not None:
        request[HISTORY_LABELS] = case.labels.tolist()
    return request


def _answer(stages: Sequence[Trained], catalogue: Sequence[str], case: _Case, answers: Answers) -> dict[str, Any]:
    """What the trained models recommend, by the rules of the export."""
    from seqrec_tf.learning.ranking import recommend

    model, rules = stages[0].model, answers.rules
    excluded = case.history if answers.exclude_history else case.history[:0]
    if rules is not None and rules.is_banned is not None:
        excluded = np.concatenate([excluded, np.flatnonzero(rules.is_banned).astype(np.int32)])
    limits = () if rules is None else rules.limits
    number = answers.num_candidates or (model.num_items if limits else answers.k)
    items, scores = (
        found.numpy()[0] for found in recommend(model, model.query(case.inputs[0]), excluded[None], k=number)
    )
    items, scores = items[np.isfinite(scores)], scores[np.isfinite(scores)]
    if len(stages) > 1:
        ranker = stages[1].model
        scores = ranker.score_candidates(ranker.query(case.inputs[1]), items[None]).numpy()[0]
        order = np.argsort(-scores, kind="stable")
        items, scores = items[order], scores[order]
    taken = greedy(items, [(limit.categories, limit.most) for limit in limits])[: answers.k]
    return {ITEMS: [catalogue[item - 1] for item in items[taken]], SCORES: scores[taken].tolist()}


def greedy(items: np.ndarray, limits: Sequence[tuple[np.ndarray, int]]) -> list[int]:
    """Go through a ranked list, and take each item none of whose categories is full: the places of those taken.

    Args:
        items: int [M], best first.
        limits: Of each column, the categories of the items by their ids, int [V, W], 0 being none; and how many items
            of one category are taken.
    """
    counts: list[dict[int, int]] = [{} for _ in limits]
    taken = []
    for place, item in enumerate(items):
        of_item = [set(categories[item].tolist()) - {PADDING_ID} for categories, _ in limits]
        is_full = any(
            count.get(category, 0) >= most
            for count, (_, most), categories in zip(counts, limits, of_item, strict=True)
            for category in categories
        )
        if is_full:
            continue
        taken.append(place)
        for count, categories in zip(counts, of_item, strict=True):
            for category in categories:
                count[category] = count.get(category, 0) + 1
    return taken


def check_golden(
    saved_model: pathlib.Path,
    golden: list[dict[str, Any]],
    history_length: int | None,
    item_vectors: np.ndarray | None = None,
    catalogue: Sequence[str] = (),
) -> None:
    """Load a SavedModel as TF Serving does, and compare its answers with the golden ones.

    Args:
        saved_model: Its folder.
        golden: What `golden_requests` gave.
        history_length: The length of every history; any where None.
        item_vectors: float32 [V - 1, D], with which vectors of `embed` give scores; None where they are not compared.
        catalogue: The ids of their items.

    Raises:
        RuntimeError: An answer differs.
    """
    import tensorflow as tf

    vector_of = None if item_vectors is None else dict(zip(catalogue, item_vectors, strict=True))
    # TF Serving is a C++ session loader: graph, tag, signature, no Python object.
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.load(session, ["serve"], str(saved_model))

        def answer(asked: Signature, feeds):
            signature = meta_graph.signature_def[asked.name]
            outputs = {name: info.name for name, info in signature.outputs.items()}
            return session.run(outputs, {signature.inputs[name].name: value for name, value in feeds.items()})

        for number, request in enumerate(golden):
            of_all = number < _OF_ALL_SIGNATURES
            items, difference = _difference(request, answer, history_length, vector_of, of_all=of_all)
            if difference:
                raise RuntimeError(
                    f"The saved model does not answer as the trained one; {difference}. For the history "
                    f"{request[HISTORY][-5:]} (newest 5) it gives {items[:5]}, expected {request[ITEMS][:5]}. Nothing "
                    "was published."
                )


def _difference(
    request: dict[str, Any],
    answer: Callable[..., Any],
    history_length: int | None,
    vector_of: Mapping[str, np.ndarray] | None,
    *,
    of_all: bool,
) -> tuple[list[str], str]:
    """The items that a saved model recommends, and in what its answers to a golden request differ ("" in nothing).

    `of_all` asks every signature that takes a history, else those two that compute scores in different ways.
    """
    feeds = _feeds([request], history_length)
    recommended = answer(RECOMMEND, feeds)
    items, difference = _as_listed(recommended[ITEMS], recommended[SCORES], request[ITEMS], request[SCORES])
    if difference or not request[ITEMS]:
        return items, difference
    ids, scores = request[ITEMS], request[SCORES]
    if not answers_lib.are_close(answer(RANK, {**feeds, CANDIDATES: _strings([ids])})[SCORES][0], scores):
        return items, "the scores of `rank` differ"
    if not of_all:
        return items, ""
    among = {EXCLUDE: _strings([ids[:1]]), ALLOW: _strings([ids[::-1]]), K: np.array([len(ids)])}
    others = answer(RECOMMEND_AMONG, {**feeds, **among})
    if _as_listed(others[ITEMS], others[SCORES], ids[1:], scores[1:])[1]:
        return items, "`recommend` differs"
    listed = answer(EXAMPLES, {SERIALIZED: _strings([_example(request)])})
    if _as_listed(listed[CLASSES], listed[SCORES], ids, scores)[1]:
        return items, "`examples` differs"
    asked = {SERIALIZED: _strings([_example({**request, CANDIDATES: ids[:1]})])}
    if not answers_lib.are_close(answer(REGRESS, asked)[OUTPUTS], scores[:1]):
        return items, "the score of `regress` differs"
    if vector_of is not None:
        vector = answer(EMBED, feeds)[VECTOR][0]
        if not answers_lib.are_close([vector @ vector_of[item] for item in ids], scores):
            return items, "the products of the vectors of `embed` differ from the scores"
    return items, ""


def _as_listed(items, scores, expected_items: list[str], expected_scores: list[float]) -> tuple[list[str], str]:
    """The items of the first row of an answer, and in what it differs from what is expected ("" in nothing)."""
    listed = [item.decode() for item in items[0]]
    difference = answers_lib.difference(listed, scores[0].tolist(), expected_items, expected_scores)
    return [item for item in listed if item], difference


def _strings(values: list[Any]) -> np.ndarray:
    return np.array(values, object)


def _example(request: Mapping[str, Any]) -> bytes:
    """A request as a serialized Example."""
    values = {name: value for name, value in request.items() if name not in (ITEMS, SCORES)}
    features = []
    for name, value in values.items():
        first = (value[0] if value else padding.NO_ITEM) if isinstance(value, list) else value
        dtype = {str: "string", int: "int64", float: "float32"}[type(first)]
        features.append(Feature(name, dtype, (None,) if isinstance(value, list) else ()))
    return encode_example(values, features)


def warm_up_requests(
    model_name: str,
    golden: list[dict[str, Any]],
    model: SequenceModel,
    history_length: int | None,
    *,
    batch_sizes: Sequence[int],
) -> Iterator[PredictRequest]:
    """Requests in batches of the sizes that a server allows, to each signature.

    Args:
        model_name: Name of the model on the server.
        golden: What the requests are made of.
        model: The model, or the first of two stages: one request over all items is enough where that takes long.
        history_length: Second dimension of `history`; any where None.
        batch_sizes: Rows of the requests.
    """
    import tensorflow as tf
    from tensorflow_serving.apis.predict_pb2 import PredictRequest

    from seqrec_tf.exporting.serving_module import signatures_of

    for signature in signatures_of(model):
        is_costly = model.scores_one_by_one and signature in (RECOMMEND, RECOMMEND_AMONG, EXAMPLES)
        for batch_size in batch_sizes[: 1 if is_costly else None]:
            rows = [golden[i % len(golden)] for i in range(batch_size)]
            request = PredictRequest()
            request.model_spec.name = model_name
            request.model_spec.signature_name = signature.name
            for name, value in _warm_up_feeds(signature, rows, history_length).items():
                request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            yield request


def _warm_up_feeds(
    signature: Signature, requests: list[dict[str, Any]], history_length: int | None
) -> dict[str, np.ndarray]:
    """What a signature takes, beside histories ids of items that the first answer lists."""
    items, rows = requests[0][ITEMS] or [padding.NO_ITEM], len(requests)
    of_lists = {CANDIDATES: items, EXCLUDE: items[:1], ALLOW: [padding.NO_ITEM]}
    feeds = _feeds(requests, history_length) if signature.takes_history else {}
    for feature in signature.inputs:
        if feature.name == SERIALIZED:
            feeds[SERIALIZED] = _strings([_example({**request, CANDIDATES: items}) for request in requests])
        elif feature.name == K:
            feeds[K] = np.zeros([rows], np.int64)
        else:
            feeds[feature.name] = _strings([of_lists[feature.name] if feature.is_list else items[0]] * rows)
    return feeds


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
        if name in OF_HISTORY:
            nothing = padding.NO_ITEM if name == HISTORY else padding.NO_TIME
            values = padding.rows(values, nothing, length=history_length)
        first = values[0][0] if isinstance(values[0], list) else values[0]
        feeds[name] = np.array(values, {str: object, int: np.int64, float: np.float32}[type(first)])
    return feeds

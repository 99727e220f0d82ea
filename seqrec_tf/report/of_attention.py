"""What a report shows of a model's attention: how much of each event goes into the state of another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from seqrec_tf.schema import ITEM_IDS, PADDING_ID

if TYPE_CHECKING:
    from seqrec_tf.models.base import SequenceModel

# Newest events that the pictures show, as Figure 4 of the SASRec paper does.
NEWEST = 15


def mean_attention(model: SequenceModel, batches) -> list[list[list[list[float | None]]]] | None:
    """The attention weights between the newest events of histories, averaged over histories.

    Args:
        model: The model.
        batches: Batches of `(inputs, labels)`, as of `data.evaluation_batches`.

    Returns:
        For each layer and head, a matrix: row q, column k is the mean weight that the q-th newest event takes of the
        k-th newest, from 1, over the histories that have both; None where none has. None for models without attention
        between events.
    """
    totals: np.ndarray | None = None
    numbers = np.zeros((NEWEST, NEWEST))
    for inputs, _ in batches:
        weights = attention_of(model, inputs)
        if weights is None:
            return None
        found = np.stack(weights)  # [layers, B, H, L, L]
        if totals is None:
            shape = (found.shape[0], found.shape[2], NEWEST, NEWEST)
            totals = np.zeros(shape)
        for row, ids in enumerate(inputs[ITEM_IDS].numpy()):
            newest = np.flatnonzero(ids != PADDING_ID)[::-1][:NEWEST]
            known = len(newest)
            totals[:, :, :known, :known] += found[:, row][:, :, newest][:, :, :, newest]
            numbers[:known, :known] += 1
    if totals is None:
        return None
    with np.errstate(invalid="ignore"):
        means = totals / numbers
    return [[_rounded(head) for head in layer] for layer in means]


def attention_of(model: SequenceModel, inputs) -> list[np.ndarray] | None:
    """The attention weights of a batch of histories, layer by layer: float32 [B, H, L, L] each; None without any."""
    from seqrec_tf.layers.attention import watched_attention
    from seqrec_tf.layers.transformer import SequenceEncoder

    if not isinstance(getattr(model, "encoder", None), SequenceEncoder):
        return None
    with watched_attention() as weights:
        model(inputs, training=False)
    return [layer.numpy().astype(np.float32) for layer in weights]


def attention_of_one(model: SequenceModel, inputs, name) -> dict[str, Any] | None:
    """The attention weights of one history, with the names of its newest events, oldest first.

    Args:
        model: The model.
        inputs: The inputs of one history, as of `data.evaluation_batches`, with B of 1.
        name: A function from an item's number to its name.
    """
    weights = attention_of(model, inputs)
    if weights is None:
        return None
    ids = inputs[ITEM_IDS].numpy()[0]
    newest = np.flatnonzero(ids != PADDING_ID)[-NEWEST:]
    layers = [[_rounded(head[newest][:, newest]) for head in layer[0]] for layer in weights]
    return {"names": [name(int(item)) for item in ids[newest]], "layers": layers}


def _rounded(matrix: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(value) else round(float(value), 4) for value in row] for row in matrix]

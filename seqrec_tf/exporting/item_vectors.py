"""Item vectors: of models whose scores are dot products, for indexes outside of a saved model and for similar items.

The score of an item is the product of its vector with that of a history, which the signature `embed` gives. Where a
model has a bias of each item, it is the last number of the item's vector, and that of a history is 1.

Tensor letters: B batch, D width of the vectors, V items (padding row included), V' items of a block.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from seqrec_tf.run_folder import local_path
from seqrec_tf.schema import ITEM_ID, ITEM_IDS, VECTOR

if TYPE_CHECKING:
    from seqrec_tf.models.base import SequenceModel


def with_one(query, model: SequenceModel):
    """Vectors of histories, float32 [B, D], with the factor of the items' bias, where there is one."""
    return query if model.item_bias() is None else tf.pad(query, [[0, 0], [0, 1]], constant_values=1.0)


def of_items(model: SequenceModel):
    """The vectors of all items, in the order of their ids: float32 [V - 1, D], or [V - 1, D + 1] with a bias."""
    vectors = tf.cast(model.table_to_score()[1 : model.num_items + 1], tf.float32)
    bias = model.item_bias()
    return vectors if bias is None else tf.concat([vectors, bias[1 : model.num_items + 1, None]], axis=1)


def new_folder(path: str) -> pathlib.Path:
    """The folder of --item-vectors.

    Raises:
        FileExistsError: It is there already.
        ValueError: It is remote.
    """
    folder = local_path(path, "--item-vectors")
    if folder.exists():
        raise FileExistsError(f"--item-vectors {path} is there already. Choose another, or remove it.")
    return folder


def write(folder: pathlib.Path, catalogue: Sequence[str], vectors: np.ndarray) -> None:
    """Write the items' ids and vectors: `items.parquet`, and the same as `vectors.npy` with a line of `ids.txt` each.

    Args:
        folder: Is not there yet.
        catalogue: The item ids, in the order of the vectors.
        vectors: float32 [V - 1, D].
    """
    import pyarrow as pa
    from pyarrow import parquet

    partial = folder.with_name(f"partial-{uuid.uuid4().hex[:8]}")
    partial.mkdir(parents=True)
    try:
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        table = pa.table({ITEM_ID: pa.array(catalogue, pa.string()), VECTOR: column})
        parquet.write_table(table, partial / "items.parquet")
        np.save(partial / "vectors.npy", vectors)
        (partial / "ids.txt").write_text("".join(f"{item}\n" for item in catalogue), encoding="utf-8")
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class Alike(tf.Module):
    """How alike items are: the cosine of their vectors, without the bias; or the model's own sense, where it has one.

    Args:
        inverse_norms: One over the length of each item's vector, float32 [V]; None where the model has its own sense.
    """

    def __init__(self, inverse_norms=None):
        super().__init__()
        self.inverse_norms = None if inverse_norms is None else tf.Variable(inverse_norms, trainable=False)

    @classmethod
    def knows(cls, model: SequenceModel) -> bool:
        """Whether this model can tell."""
        return model.scores_by_vectors or model.scores_by_similarity

    @classmethod
    def of(cls, model: SequenceModel) -> Alike | None:
        """That of a model; None where it cannot tell."""
        if not cls.knows(model):
            return None
        if model.scores_by_similarity:
            return cls()
        norms = tf.norm(tf.cast(model.table_to_score()[: model.num_items + 1], tf.float32), axis=1)
        return cls(tf.math.divide_no_nan(1.0, norms))

    def query(self, model: SequenceModel, item):
        """What the scorer takes of items, int32 [B]."""
        if self.inverse_norms is None:
            return model.query({ITEM_IDS: item[:, None]})
        vectors = tf.cast(tf.gather(model.table_to_score(), item), tf.float32)
        return vectors * tf.gather(self.inverse_norms, item)[:, None]

    def scorer(self, model: SequenceModel) -> Any:
        """A `ranking.Scorer` of how alike all items are to these."""
        return model if self.inverse_norms is None else _Cosine(model, self.inverse_norms)


class _Cosine:
    """The cosine of a vector of length 1 with those of the items."""

    scores_one_by_one = False

    def __init__(self, model: SequenceModel, inverse_norms):
        self.num_items = model.num_items
        self._model = model
        self._inverse_norms = inverse_norms

    def score_block(self, query, start, stop):
        """Score the items with ids in [start, stop): float32 [B, stop - start]."""
        vectors = tf.cast(self._model.table_to_score()[start:stop], tf.float32)
        return tf.matmul(query, vectors, transpose_b=True) * self._inverse_norms[start:stop]

"""What models, training and evaluation do with batches of histories.

Tensor letters: B batch, L length, D model dim.
"""

from __future__ import annotations

import tensorflow as tf

from seqrec_tf.padding import one_column_at_least
from seqrec_tf.schema import ITEM_IDS, PADDING_ID, SEEN, TARGET, TARGET_LABEL


def liked_alone(inputs, labels):
    """Take the rows of a batch of `data.load` whose target was liked; all of them where there are no labels."""
    if TARGET_LABEL not in labels:
        return inputs, labels
    is_liked = labels[TARGET_LABEL] == 1
    return tf.nest.map_structure(lambda rows: tf.boolean_mask(rows, is_liked), (inputs, labels))


def liked_batches(batches, where):
    """Take of each batch the rows whose target was liked, and leave out batches without any.

    Args:
        batches: Batches of `data.load` from `valid` or `test`: pairs of inputs and labels.
        where: What the batches are made of, for the error, such as "split test of data/shop".

    Yields:
        Inputs and labels of a batch.

    Raises:
        ValueError: Nothing was liked.
    """
    any_liked = False
    for inputs, labels in batches:
        inputs, labels = liked_alone(inputs, labels)
        if len(labels[TARGET]):
            any_liked = True
            yield inputs, labels
    if not any_liked:
        raise ValueError(f"No event of the {where} has the label 1, so there is nothing to rank.")


def negatives_avoid(x, y):
    """Find the items of each training sequence, which are no negatives of its targets: int32 [B, S]."""
    return x[SEEN] if SEEN in x else tf.concat([x[ITEM_IDS], y], axis=1)


def newest_position(item_ids):
    """Find the position of the last real id of each row, 0 where there is none: [7, 9, 0] gives 1; int32 [B]."""
    positions = tf.range(tf.shape(item_ids)[1])
    return tf.maximum(0, tf.reduce_max(tf.where(item_ids != PADDING_ID, positions, 0), axis=1))


def align_left(item_ids):
    """Move the events of histories to the left, in their order: [0, 7, 0, 9] becomes [7, 9, 0, 0].

    Args:
        item_ids: int32 [B, L], 0 is padding, anywhere.

    Returns:
        aligned: int32 [B, max(L, 1)], padding to the right.
        place: int32 [B, L], the column that each event has gone to, and padding with the event before it; in the
            example [0, 0, 0, 1].
    """
    is_real = tf.cast(item_ids != PADDING_ID, tf.int32)
    aligned = tf.gather(item_ids, tf.argsort(1 - is_real, axis=1, stable=True), batch_dims=1)
    return one_column_at_least(aligned), tf.maximum(tf.cumsum(is_real, axis=1) - 1, 0)


def events_or_zero(table, item_ids, training=False):
    """Look up vectors of events, zero at padding, so that of a user without events nothing but the user counts.

    Args:
        table: An `Embedding`.
        item_ids: int32 [B, L], 0 is padding.
        training: Whether rows are read in place.

    Returns:
        float [B, L, D].
    """
    vectors = table(item_ids, training=training)
    return vectors * tf.cast(item_ids != PADDING_ID, vectors.dtype)[..., None]

"""What models, training and evaluation do with batches of histories.

Tensor letters: B batch, L length, D model dim.
"""

from __future__ import annotations

import tensorflow as tf

from seqrec_tf.padding import one_column_at_least
from seqrec_tf.schema import ITEM_IDS, PADDING_ID, SEEN, TARGET, TARGET_LABEL


def liked_alone(inputs, labels):
    """The rows of a batch of `data.load` whose event to predict was liked; all of them where there are no labels."""
    if TARGET_LABEL not in labels:
        return inputs, labels
    is_liked = labels[TARGET_LABEL] == 1
    return tf.nest.map_structure(lambda rows: tf.boolean_mask(rows, is_liked), (inputs, labels))


def liked_batches(batches, where):
    """The batches of `data.load` without what was not liked, and without those of which nothing is left.

    Args:
        batches: Of `valid` or `test`.
        where: What they are of, for the error.

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
    """The items of each training sequence, which are no negatives of its targets: int32 [B, S]."""
    return x[SEEN] if SEEN in x else tf.concat([x[ITEM_IDS], y], axis=1)


def newest_position(item_ids):
    """Position of the last real id of each row, 0 where there is none: int32 [B]."""
    positions = tf.range(tf.shape(item_ids)[1])
    return tf.maximum(0, tf.reduce_max(tf.where(item_ids != PADDING_ID, positions, 0), axis=1))


def align_left(item_ids):
    """Histories with their events first, in their order.

    Args:
        item_ids: int32 [B, L], 0 is padding, anywhere.

    Returns:
        aligned: int32 [B, max(L, 1)], padding to the right.
        place: int32 [B, L], where each event has gone; padding, where the event before it has.
    """
    is_real = tf.cast(item_ids != PADDING_ID, tf.int32)
    aligned = tf.gather(item_ids, tf.argsort(1 - is_real, axis=1, stable=True), batch_dims=1)
    return one_column_at_least(aligned), tf.maximum(tf.cumsum(is_real, axis=1) - 1, 0)


def events_or_zero(table, item_ids, training=False):
    """Vectors of events, float [B, L, D]; zero at padding, so that a user without events has nothing but themselves."""
    vectors = table(item_ids, training=training)
    return vectors * tf.cast(item_ids != PADDING_ID, vectors.dtype)[..., None]

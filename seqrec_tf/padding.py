"""Padding: lists of different lengths in one array. On which side, with what and how wide is decided here alone.

Padding stands on the right of what there is: `schema.PADDING_ID` in arrays, NO_ITEM or NO_TIME in requests, where ids
still are strings. Models take it anywhere; `models.base_batches` moves it where one of them needs it elsewhere.

  function             what is padded                                     to which length
  ids                  item ids of training sequences, of targets         the longest row's
  history              what happened before an event to predict           the longest row's, and 1 at least
  categories           several categories of one item or user             `max_length` of their feature
  listed_categories    the same, in lists
  rows                 lists of a request                                 the longest row's, or the signature's

The contract's other modules do without TensorFlow, so it is imported when first needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seqrec_tf.schema import PADDING_ID

# Padding of a request's ids (and of several categories), and of its times.
NO_ITEM, NO_TIME = "", 0


def ids(ragged):
    """Item ids, ragged [B, None], as int32 [B, L]: [[3, 5], [7]] becomes [[3, 5], [7, 0]]."""
    import tensorflow as tf

    return tf.cast(ragged.to_tensor(default_value=PADDING_ID), tf.int32)


def history(ragged):
    """Events of histories, ragged [B, None], as [B, L] of the same dtype; L is 1 where nothing happened before."""
    return one_column_at_least(ragged.to_tensor())


def one_column_at_least(values):
    """[B, L], with a column of zeros where L is 0: models look at the newest event of each row."""
    import tensorflow as tf

    return tf.pad(values, [[0, 0], [0, tf.cast(tf.shape(values)[1] == 0, tf.int32)]])


def categories(ragged, max_length: int):
    """Ids of several categories, ragged [B, None], as [B, max_length]: the first so many, then zeros."""
    return ragged[:, :max_length].to_tensor(shape=[None, max_length])


def listed_categories(values: Sequence[Sequence[int]], max_length: int) -> list[list[int]]:
    """What `categories` gives, from lists to lists: with 2, [[4], [7, 8, 9]] becomes [[4, 0], [7, 8]]."""
    return [[*row[:max_length], *[PADDING_ID] * (max_length - len(row))] for row in values]


def rows(values: Sequence[Sequence[Any]], padding: Any, *, length: int | None = None) -> list[list[Any]]:
    """Lists of a request in one length, of which those that are longer keep their newest, last elements.

    With 2, [["a"], ["b", "c", "d"]] becomes [["a", ""], ["c", "d"]].

    Args:
        values: The lists.
        padding: NO_ITEM or NO_TIME.
        length: That of the signature, if it is fixed; else the longest list's, and 1 at least.
    """
    if length is None:
        length = max([1, *map(len, values)])
    return [[*row[-length:], *[padding] * (length - len(row))] for row in values]

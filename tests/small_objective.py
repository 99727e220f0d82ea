"""Three targets in two sequences of five items, and objectives to compute the losses of."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.learning.objective import LOSSES, NEGATIVES, NextItemObjective, ObjectiveConfig

# 3 targets in 2 sequences, 5 items, D = 2; row 0 of the table is padding.
NUM_ITEMS = 5
SEQUENCE = np.array([[1, 3, 3, 2], [5, 0, 3, 0]], np.int32)  # the histories, then the targets
IS_TARGET = np.array([[True, True], [True, False]])
TARGETS = np.array([3, 2, 3], np.int32)
OF_OTHER_SEQUENCES = [[], [3], [2]]  # for each target, those of the other sequences that are not the same item
HIDDEN = np.array([[0.5, -1.0], [1.5, 0.3], [-0.7, 0.2]], np.float32)
TABLE = np.array([[9.0, 9.0], [0.1, -0.4], [1.2, 0.5], [-0.3, 0.8], [0.6, -1.1], [-0.9, 0.2]], np.float32)
BIAS = np.array([9.0, 0.3, -0.2, 0.1, 0.0, -0.5], np.float32)
COUNTS = [8, 4, 2, 1, 1]

# Every loss with every kind of negatives that it takes.
COMBINATIONS = [
    {"loss": loss, "negatives": negatives, "share_negatives": is_shared, "num_negatives": 4}
    for loss, negatives, is_shared in itertools.product(LOSSES, NEGATIVES, [False, True])
    if (loss not in ("gbce", "softmax") or negatives == "uniform")
    and not (
        is_shared and (loss in ("gbce", "softmax") or negatives == "in-batch")  # which always shares
    )
]
for _options in COMBINATIONS:
    if _options["loss"] == "softmax":
        _options["num_negatives"] = 1  # which it has no use for
every_combination = pytest.mark.parametrize(
    "options", COMBINATIONS, ids=lambda options: "-".join(map(str, options.values()))
)


def make_objective(*, counts=COUNTS, num_items=NUM_ITEMS, **options):
    keras.utils.set_random_seed(1)
    objective = NextItemObjective(ObjectiveConfig(**options), num_items)
    if counts is not None:
        objective.adapt(counts)
    return objective


def losses_of(objective, *, hidden=HIDDEN, targets=TARGETS, bias=BIAS, **others):
    values = {"sequence": SEQUENCE, "is_target": IS_TARGET, "table": TABLE, **others}
    bias = None if bias is None else tf.constant(bias)
    return objective(
        tf.constant(hidden),
        tf.constant(targets),
        bias=bias,
        **{key: tf.constant(value) for key, value in values.items()},
    )


def slow_score(n, item, bias=BIAS):
    return float(HIDDEN[n] @ TABLE[item]) + float(bias[item])

"""Losses of next-item prediction, as pure functions of logits.

Every loss takes the logits of N targets and returns one value for each of them. Padding is no target: the caller has
removed it. `cross_entropy` takes states instead, and computes the logits itself. The model takes the mean, because it
knows how many targets the whole batch has over all replicas.

In the examples the target's logit is 2, and those of two other items are 0 and 1.

Tensor letters: N targets, K negatives of each, V items.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf


def binary_cross_entropy(positive, negatives):
    """Binary cross-entropy of one positive and K sampled negatives (SASRec, "Network Training", for K = 1).

    loss = -1 / (K + 1) * (log sigmoid(positive) + sum_k log(1 - sigmoid(negatives_k)))

    Example: positive [2] and negatives [[0, 1]] cost (log(1 + e^-2) + log 2 + log(1 + e)) / 3 = 0.71.

    Args:
        positive: float32 [N], logits of the targets.
        negatives: float32 [N, K], logits of items that were not chosen; -inf adds nothing to the sum, but counts in K.

    Returns:
        float32 [N], nats.
    """
    num_terms = tf.cast(tf.shape(negatives)[1] + 1, positive.dtype)
    return (tf.nn.softplus(-positive) + tf.reduce_sum(tf.nn.softplus(negatives), axis=1)) / num_terms


# A finite logit of what is not there, whose softmax is 0.
_NOT_THERE = -1e9

# Logits that `cross_entropy` holds at once (64 MB), and the fewest targets whose logits these may be.
BLOCK_LOGITS, LEAST_ROWS = 16_000_000, 64


def logits_at_once(num_items: int) -> int:
    """Count the logits that one call of `cross_entropy` holds at once, at most.

    Example: 16,000,000 (64 MB) for 3 or for 1,000 items; 64,000,000 for 1,000,000 items, which is 64 targets.

    Args:
        num_items: V.
    """
    return max(BLOCK_LOGITS, LEAST_ROWS * num_items)


def cross_entropy(hidden, table, bias, targets, *, first=0, end=None):
    """Cross-entropy of the target among all items, without the logits of all targets at once.

    loss = -log softmax(hidden table^T + bias)[target]

    Example: logits [[2, 0, 1]] with target row 0 cost log(1 + e^-2 + e^-1) = 0.41. With target row 2 and `first` 1, row
    0 takes no part, and the cost is log(1 + e^-1) = 0.31.

    The function goes through the targets in blocks. It computes the gradients of a block right after its loss, from the
    same logits, and then forgets the logits. These gradients are for a weight of 1 on each target. Where all targets
    have the same weight, as in a mean, the backward pass multiplies them by it; else it computes them anew. Both are
    exact. Probabilities are never computed: the exponentials of the logits are multiplied instead, and their total
    divides the states, which are far fewer.

    Args:
        hidden: float32 [N, D], the state that predicts each target.
        table: float32 [V, D], the vector of each item.
        bias: float32 [V], added to the logits, or None.
        targets: int32 [N], the target's row of the table, in [first, end).
        first: The first row of the table that is a candidate. (A part of the table, given instead, would be a copy.)
        end: The row after the last candidate; None for V.

    Returns:
        float32 [N], nats.
    """
    num_rows = table.shape[0]
    end = num_rows if end is None else end
    rows_at_once = logits_at_once(num_rows) // num_rows
    excluded = [columns for columns in ((0, first), (end, num_rows)) if columns[0] < columns[1]]

    def in_blocks(hidden, table, bias, weights):
        """Compute the losses [N], and the gradients of their weighted sum.

        There is a gradient for the states [N, D], for the table [V, D] and, where there is a bias, for it [V].
        """
        number, dim = tf.shape(hidden)[0], hidden.shape[1]
        num_blocks = tf.maximum(-(-number // rows_at_once), 1)
        weights = tf.ones([number]) if weights is None else weights
        # What multiplies a row's probabilities in the gradients: of the table, and of the bias.
        inputs = hidden if bias is None else tf.concat([hidden, tf.ones([number, 1])], axis=1)  # [N, D'], D or D + 1

        def block(index, losses, of_hidden, of_columns):
            part = slice(index * rows_at_once, (index + 1) * rows_at_once)
            logits = tf.matmul(hidden[part], table, transpose_b=True)  # [rows, V]
            logits = logits if bias is None else logits + bias
            for start, stop in excluded:  # in place
                logits = tf.raw_ops.TensorStridedSliceUpdate(
                    input=logits,
                    begin=[0, start],
                    end=[0, stop],
                    strides=[1, 1],
                    begin_mask=1,  # all rows
                    end_mask=1,
                    value=tf.fill([tf.shape(logits)[0], stop - start], _NOT_THERE),
                )
            true = tf.gather(logits, targets[part], batch_dims=1)[:, None]
            highest = tf.reduce_max(logits, axis=1, keepdims=True)
            with tf.control_dependencies([true, highest]):  # so that the exponentials take the place of the logits
                exponentials = tf.exp(logits - highest)
            total = tf.reduce_sum(exponentials, axis=1, keepdims=True)
            scale = weights[part, None] / total
            expected = tf.matmul(exponentials, table) * scale  # the vector of an item, by the probabilities
            return (
                index + 1,
                losses.write(index, (tf.math.log(total) + highest - true)[:, 0]),
                of_hidden.write(index, expected - tf.gather(table, targets[part]) * weights[part, None]),
                of_columns + tf.matmul(inputs[part] * scale, exponentials, transpose_a=True),
            )

        def array(*shape):
            return tf.TensorArray(tf.float32, num_blocks, infer_shape=False, element_shape=[None, *shape])

        _, losses, of_hidden, of_columns = tf.while_loop(
            lambda index, *_: index < num_blocks,
            block,
            (0, array(), array(dim), tf.zeros([inputs.shape[1], table.shape[0]])),
            parallel_iterations=1,  # more would hold more blocks
        )
        of_rows = tf.tensor_scatter_nd_sub(tf.transpose(of_columns), targets[:, None], inputs * weights[:, None])
        of_candidates = [of_rows] if bias is None else [of_rows[:, :dim], of_rows[:, dim]]
        return losses.concat(), of_hidden.concat(), *of_candidates

    @tf.custom_gradient
    def loss_of(hidden, table, bias=None):
        losses, *gradients = in_blocks(hidden, table, bias, None)

        def backward(weights):
            first = weights[:1]
            return tf.cond(
                tf.reduce_all(weights == first),
                lambda: [gradient * tf.reduce_sum(first) for gradient in gradients],
                lambda: list(in_blocks(hidden, table, bias, weights)[1:]),
            )

        return losses, backward

    return loss_of(hidden, table) if bias is None else loss_of(hidden, table, bias)


def generalized_binary_cross_entropy(positive, negatives, *, num_items, calibration):
    """gBCE: binary cross-entropy that corrects the overconfidence of negative sampling (gSASRec, arXiv:2308.07192).

    The positive term is multiplied by beta, which depends on the sampling rate a = K / (num_items - 1):

    beta = a * (calibration * (1 - 1 / a) + 1 / a)

    loss = -1 / (K + 1) * (beta * log sigmoid(positive) + sum_k log(1 - sigmoid(negatives_k)))

    Example: 2 negatives of 5 items are a rate of 1/2, and so beta is 1/2 for calibration 1. Positive [2] and negatives
    [[0, 1]] then cost (log(1 + e^-2) / 2 + log 2 + log(1 + e)) / 3 = 0.69; for calibration 0 they cost 0.71, as in BCE.

    Args:
        positive: float32 [N], logits of the targets.
        negatives: float32 [N, K], logits of items drawn uniformly.
        num_items: Number of items in the catalogue.
        calibration: t in [0, 1]: 0 is plain BCE, 1 gives calibrated probabilities.

    Returns:
        float32 [N], nats.
    """
    num_negatives = tf.cast(tf.shape(negatives)[1], positive.dtype)
    rate = num_negatives / (num_items - 1)
    beta = rate * (calibration * (1 - 1 / rate) + 1 / rate)
    terms = beta * tf.nn.softplus(-positive) + tf.reduce_sum(tf.nn.softplus(negatives), axis=1)
    return terms / (num_negatives + 1)


def sampled_softmax(positive, negatives):
    """Cross-entropy of the target among itself and its sampled negatives.

    loss = -log(exp(positive) / (exp(positive) + sum_k exp(negatives_k)))

    Example: positive [2] and negatives [[0, 1]] cost log(1 + e^-2 + e^-1) = 0.41; negatives [[0, -inf]] cost
    log(1 + e^-2) = 0.13.

    Where a sampler is not uniform, the caller has added the logQ correction to the logits
    (`objective.NextItemObjective` does).

    Args:
        positive: float32 [N], logits of the targets.
        negatives: float32 [N, K], logits of items that were not chosen; -inf takes no part.

    Returns:
        float32 [N], nats.
    """
    return tf.reduce_logsumexp(tf.concat([positive[:, None], negatives], axis=1), axis=1) - positive


def bayesian_personalized_ranking(positive, negatives):
    """BPR (Rendle et al. 2009; GRU4Rec, "Ranking loss").

    loss = -1 / K * sum_k log sigmoid(positive - negatives_k)

    Example: positive [2] and negatives [[0, 1]] cost (log(1 + e^-2) + log(1 + e^-1)) / 2 = 0.22.

    Arguments and result are those of `binary_cross_entropy`.
    """
    return tf.reduce_mean(tf.nn.softplus(negatives - positive[:, None]), axis=1)


def top1(positive, negatives):
    """TOP1 (GRU4Rec, "Ranking loss"): the target's relative rank, plus a term that pulls the negatives' logits to 0.

    loss = 1 / K * sum_k (sigmoid(negatives_k - positive) + sigmoid(negatives_k^2))

    Example: positive [2] and negatives [[0, 1]] cost (sigmoid(-2) + sigmoid(0) + sigmoid(-1) + sigmoid(1)) / 2 =
    (0.12 + 0.50 + 0.27 + 0.73) / 2 = 0.81.

    Arguments and result are those of `binary_cross_entropy`; the loss has no unit.
    """
    is_there, finite = _finite(negatives)
    terms = tf.sigmoid(finite - positive[:, None]) + tf.sigmoid(tf.square(finite))
    return tf.reduce_mean(tf.where(is_there, terms, 0.0), axis=1)


def bpr_max(positive, negatives, *, regularization):
    """BPR-max (GRU4Rec+, ranking-max losses): each negative has the softmax of its logit as its weight.

    With s = softmax(negatives) over the K negatives:

    loss = -log(sum_k s_k sigmoid(positive - negatives_k)) + regularization * sum_k s_k negatives_k^2

    Example: negatives [[0, 1]] have the weights s = [0.27, 0.73]. With positive [2] and regularization 0 they cost
    -log(0.27 sigmoid(2) + 0.73 sigmoid(1)) = 0.26; regularization 1 adds 0.27 * 0^2 + 0.73 * 1^2 = 0.73.

    Args:
        positive: float32 [N], logits of the targets.
        negatives: float32 [N, K], logits of items that were not chosen; -inf takes no part.
        regularization: Weight of the second term, which pulls the negatives' logits to 0.

    Returns:
        float32 [N], 0 where every negative is -inf.
    """

    @tf.custom_gradient  # the operations' own gradients make three times as many passes over [N, K]
    def loss_of(positive, negatives):
        highest = tf.maximum(tf.reduce_max(negatives, axis=1, keepdims=True), _NOT_THERE)  # [N, 1]
        any_there = highest[:, 0] > _NOT_THERE
        negatives = tf.maximum(negatives, _NOT_THERE)
        exponentials = tf.exp(negatives - highest)
        total = tf.reduce_sum(exponentials, axis=1, keepdims=True)
        # sigmoid(positive - negative) = above / below, of which neither overflows nor all is 0.
        lead = positive[:, None] - highest
        above = tf.exp(tf.minimum(lead, 0.0)) + np.finfo(np.float32).tiny
        below = above + tf.exp(-tf.maximum(lead, 0.0)) * exponentials
        ratios = exponentials / below
        ratio = tf.reduce_sum(ratios, axis=1, keepdims=True)
        log_likelihood = tf.minimum(lead, 0.0) + tf.math.log(ratio) - tf.math.log(total)
        square = tf.reduce_sum(exponentials * tf.square(negatives), axis=1, keepdims=True) / total
        loss = tf.where(any_there, (regularization * square - log_likelihood)[:, 0], 0.0)

        def backward(of_loss):
            of_loss = tf.where(any_there, of_loss, 0.0)
            shares = ratios / below * (above / ratio)  # of the likelihood, times the sigmoid
            pull = negatives * (negatives + 2.0) * regularization + (1.0 - regularization * square)
            of_negatives = exponentials * pull * (of_loss[:, None] / total) - shares * of_loss[:, None]
            return of_loss * (tf.reduce_sum(shares, axis=1) - 1.0), of_negatives

        return loss, backward

    return loss_of(positive, negatives)


def top1_max(positive, negatives):
    """TOP1-max (GRU4Rec+, ranking-max losses): TOP1 where each negative has the softmax of its logit as its weight.

    loss = sum_k softmax(negatives)_k * (sigmoid(negatives_k - positive) + sigmoid(negatives_k^2))

    Example: negatives [[0, 1]] have the weights [0.27, 0.73]; with positive [2] they cost
    0.27 * (sigmoid(-2) + sigmoid(0)) + 0.73 * (sigmoid(-1) + sigmoid(1)) = 0.27 * 0.62 + 0.73 * 1 = 0.90.

    Arguments and result are those of `sampled_softmax`; the loss has no unit.
    """
    is_there, finite = _finite(negatives)
    weights = tf.nn.softmax(tf.maximum(negatives, _NOT_THERE))
    terms = tf.sigmoid(finite - positive[:, None]) + tf.sigmoid(tf.square(finite))
    return tf.reduce_sum(tf.where(is_there, weights * terms, 0.0), axis=1)


def _finite(negatives):
    """Find where a logit is not -inf, and put 0 for the other logits, so that no gradient is infinite times 0."""
    is_there = negatives > negatives.dtype.min
    return is_there, tf.where(is_there, negatives, 0.0)


# The losses by the names that `model.loss` has for them. A new loss that is a function of sampled logits is registered
# here and nowhere else. `objective` passes a loss the options that it has, and treats "softmax" apart: it samples
# nothing.
BY_NAME: dict[str, Callable[..., Any]] = {
    "bce": binary_cross_entropy,
    "gbce": generalized_binary_cross_entropy,
    "softmax": cross_entropy,
    "sampled-softmax": sampled_softmax,
    "bpr": bayesian_personalized_ranking,
    "top1": top1,
    "bpr-max": bpr_max,
    "top1-max": top1_max,
}

"""Gated recurrent units on processors that have no kernel for them.

Tensor letters: B batch, L length, U units.
"""

from __future__ import annotations

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("seqrec_tf")
class GRU(keras.layers.GRU):
    """Keras' GRU by its defaults, with `return_sequences`, faster where there is no GPU (and so no cuDNN).

    Example: where both gates are 1/2 and the candidate state is the input, each state is the mean of the state before
    (at first 0) and the input: inputs [[[1], [1], [-1]]] give [[[0.5], [0.75], [-0.125]]].

    Keras multiplies the inputs by their weights event by event, and differentiates its loop operation by operation.
    This layer multiplies the inputs of all events at once, and writes the gradient out: the gradient of the recurrent
    weights is one product over all events. The only product left in the loops is that with the state before.

    Args:
        units: U.

    Call arguments:
        sequences: float [B, L, D].
        training: Whether the gradient is wanted. Where it is and there is a GPU, cuDNN computes. A saved model never
            uses cuDNN, and so it can be served without a GPU.

    Returns:
        float [B, L, U], the state after each event.
    """

    def __init__(self, units, *, name=None, trainable=True, dtype=None):
        super().__init__(units, return_sequences=True, name=name, trainable=trainable, dtype=dtype)

    def build(self, sequences_shape):  # without the shape of an initial state, which `call` does not take
        super().build(sequences_shape)

    def call(self, sequences, training=False):
        if training and tf.config.list_logical_devices("GPU"):
            rows = tf.shape(sequences)[0]
            # A replica may be without rows, which cuDNN would not take.
            sequences = tf.pad(sequences, [[0, tf.cast(rows == 0, tf.int32)], [0, 0], [0, 0]])
            return super().call(sequences, training=training)[:rows]
        cell = self.cell
        of_input, of_state = tf.unstack(tf.cast(cell.bias, sequences.dtype))
        kernel = tf.cast(cell.kernel, sequences.dtype)
        projected = tf.tensordot(sequences, kernel, axes=1) + of_input  # one product, where matmul makes one a row
        states = recur(tf.transpose(projected, [1, 0, 2]), tf.cast(cell.recurrent_kernel, sequences.dtype), of_state)
        return tf.transpose(states, [1, 0, 2])

    def get_config(self):
        return {**keras.layers.Layer.get_config(self), "units": self.units}


def recur(projected, kernel, bias):
    """Compute the states of a GRU whose reset gate follows the product (Keras' `reset_after`).

    With [a, b, c] = projected_t and [p, q, s] = state_(t-1) kernel + bias: z = sigmoid(a + p), r = sigmoid(b + q),
    candidate = tanh(c + r s), state_t = z state_(t-1) + (1 - z) candidate; the first state follows one of zeros.

    Args:
        projected: float [L, B, 3 U], inputs times their weights.
        kernel: float [U, 3 U].
        bias: float [3 U].

    Returns:
        float [L, B, U].
    """
    length, units = tf.shape(projected)[0], kernel.shape[0]
    zeros = tf.zeros([tf.shape(projected)[1], units], projected.dtype)

    @tf.custom_gradient
    def states_of(projected, kernel, bias):
        def forward(step, state):
            update_in, reset_in, candidate_in = tf.split(projected[step], 3, axis=1)
            update, reset, recurrent = tf.split(tf.matmul(state, kernel) + bias, 3, axis=1)
            update, reset = tf.sigmoid(update + update_in), tf.sigmoid(reset + reset_in)
            candidate = tf.tanh(candidate_in + reset * recurrent)
            after = candidate + update * (state - candidate)
            return after, step, (state, tf.concat([update, reset], axis=1), candidate, recurrent, after)

        *saved, states = _loop(forward, length, zeros, widths=(units, 2 * units, units, units, units))
        return states, lambda of_states: _gradients(of_states, kernel, zeros, *saved)

    return states_of(projected, kernel, bias)


def _gradients(of_states, kernel, zeros, befores, gates, candidates, recurrents):
    """Compute the gradients of what `recur` takes, from the last event to the first.

    Args:
        of_states: float [L, B, U], the gradients of the states.
        kernel: float [U, 3 U].
        zeros: float [B, U].
        befores: float [L, B, U], the state before each event.
        gates: float [L, B, 2 U], z and r of each event.
        candidates: float [L, B, U].
        recurrents: float [L, B, U], s of each event.

    Returns:
        float [L, B, 3 U], [U, 3 U] and [3 U].
    """
    length, units = tf.shape(of_states)[0], kernel.shape[0]
    # What of the gradient does not depend on later events is made for all at once.
    updates, resets = tf.split(gates, 2, axis=2)
    to_candidate = (1.0 - updates) * (1.0 - tf.square(candidates))
    to_update = (befores - candidates) * updates * (1.0 - updates)
    to_reset = recurrents * resets * (1.0 - resets)

    def backward(step, of_state):
        at = length - 1 - step
        of_state += of_states[at]
        of_candidate = of_state * to_candidate[at]
        of_gates = [of_state * to_update[at], of_candidate * to_reset[at]]
        of_product = tf.concat([*of_gates, of_candidate * resets[at]], axis=1)
        of_before = of_state * updates[at] + tf.matmul(of_product, kernel, transpose_b=True)
        return of_before, at, (tf.concat([*of_gates, of_candidate], axis=1), of_product)

    of_inputs, of_products = _loop(backward, length, zeros, widths=(3 * units, 3 * units))
    rows = tf.reshape(of_products, [-1, 3 * units])
    of_kernel = tf.matmul(tf.reshape(befores, [-1, units]), rows, transpose_a=True)
    return of_inputs, of_kernel, tf.reduce_sum(rows, axis=0)


def _loop(body, length, state, *, widths):
    """Run a body once for each event, and stack what it gives.

    Args:
        body: A function of the step, from 0, and the state, to the next state, the place of the event, and its results,
            float [B, width] each.
        length: int32 scalar, L.
        state: float [B, U], the first.
        widths: Width of each result.

    Returns:
        A list of float [L, B, width], each result in the order of the places.
    """
    arrays = [tf.TensorArray(state.dtype, length, element_shape=[None, width]) for width in widths]

    def write(step, state, *arrays):
        state, place, results = body(step, state)
        return step + 1, state, *(array.write(place, result) for array, result in zip(arrays, results, strict=True))

    _, _, *arrays = tf.while_loop(lambda step, *_: step < length, write, (0, state, *arrays))
    return [array.stack() for array in arrays]

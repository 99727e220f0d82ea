"""What several benchmarks measure: the seconds of epochs, the arithmetic of a step, and how fast a machine does it."""

import time


def epoch_seconds(model, batches, epochs: int, steps: int) -> list[float]:
    """Seconds of each epoch that a compiled model is fitted; the first one's hold its compilation.

    Args:
        model: The model.
        batches: Those of all epochs, one after the other, as `seqrec train` has them.
        epochs: How many.
        steps: Of each.
    """
    import keras

    seconds = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.started = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            seconds.append(time.perf_counter() - self.started)

    model.fit(batches, steps_per_epoch=steps, epochs=epochs, shuffle=False, verbose=0, callbacks=[Clock()])
    return seconds


def training_flops(lengths, *, dim: int, blocks: int, scored: int) -> float:
    """Floating-point operations of the matrix products of SASRec, forward and backward (twice as many).

    Args:
        lengths: Events of each history.
        dim: Width of states, and of the feed-forward network.
        blocks: Of the encoder.
        scored: Items that are scored for each event: 2 with one negative, all of them with the loss over all.
    """
    events, pairs = sum(lengths), sum(length * length for length in lengths)
    # Three projections and two layers of the feed-forward network; logits and weighted values of attention.
    forward = blocks * (5 * 2 * dim * dim * events + 2 * 2 * dim * pairs) + 2 * dim * scored * events
    return 3.0 * forward


def matmul_rate(size: int = 2048, rounds: int = 5) -> float:
    """Floating-point operations a second of TensorFlow's product of two square matrices, the best of some."""
    import tensorflow as tf

    matrix = tf.random.normal([size, size])
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(matrix, matrix)))
    product()
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        product().numpy()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best

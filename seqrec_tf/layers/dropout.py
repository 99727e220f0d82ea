"""Dropout that costs little."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from seqrec_tf.learning.sampling import next_seed

# A decision takes 8 random bits.
_LEVELS = 1 << 8


@keras.saving.register_keras_serializable("seqrec_tf")
class Dropout(keras.layers.Layer):
    """Dropout (Srivastava et al., 2014): some entries become 0, and the others are scaled up to keep the mean.

    Example: at a rate of 0.5, [1, 2, 3] becomes [2, 0, 6] in training if the second entry is dropped, and stays
    [1, 2, 3] otherwise.

    The layer does what Keras' does with fewer random bits. Keras draws a float of 23 bits for each entry, which takes
    longer than all else that is done to the entry. This layer draws 8 bits for each entry, a number from 0 to 255, and
    drops the entry if the number is below a threshold. A rate of 0.2 asks for a threshold of 0.2 * 256 = 51.2: each
    call draws 51 (four times of five) or 52 (else), so that an entry is dropped with a probability of exactly 0.2. The
    threshold is at most 255, and so no rate above 255 / 256 is reached.

    Args:
        rate: Probability that an entry is dropped, in [0, 1).

    Call arguments:
        x: float [...], the entries.
        training: Whether anything is dropped.

    Returns:
        float [...].
    """

    def __init__(self, rate, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        if rate:
            self.seed_generator = keras.random.SeedGenerator()
        self.built = True

    @property
    def scale(self) -> float:
        """The factor of an entry that is kept: 1.25 at a rate of 0.2."""
        return 1.0 / (1.0 - self.rate)

    def mask(self, shape, dtype, *, scale=1.0):
        """Draw the factor of each entry: 0 where it is dropped, else `scale`.

        Args:
            shape: int32 [rank], the shape of the entries.
            dtype: Dtype of the factors.
            scale: The factor of an entry that is kept.

        Returns:
            dtype [...], of that shape.
        """
        number, seed = tf.reduce_prod(shape), next_seed(self.seed_generator)
        words = tf.random.stateless_uniform([1 - (-number // 8)], seed, None, None, tf.uint64)
        draws = tf.reshape(tf.bitcast(words[1:], tf.uint8), [-1])[:number]
        whole = math.floor(self.rate * _LEVELS)
        fraction = tf.cast(tf.bitwise.right_shift(words[0], tf.constant(40, tf.uint64)), tf.float32) / 2.0**24
        is_up = fraction < self.rate * _LEVELS - whole
        threshold = tf.cast(tf.minimum(whole + tf.cast(is_up, tf.int32), _LEVELS - 1), tf.uint8)
        is_kept = tf.reshape(draws >= threshold, shape)
        if scale == 1.0:
            return tf.cast(is_kept, dtype)
        return tf.where(is_kept, tf.constant(scale, dtype), tf.zeros([], dtype))

    def call(self, x, training=False):
        if not training or not self.rate:
            return x
        return x * self.mask(tf.shape(x), x.dtype, scale=self.scale)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}

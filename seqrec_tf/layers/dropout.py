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

    As that of Keras, which draws a float of 23 random bits for each entry: that takes longer than all else that is done
    to the entry. Here it is 8 bits, compared with a threshold that is drawn for all entries of a call, so that each is
    dropped with the rate, exactly up to 255 of 256: for a rate of 0.2 it is 51 in four of five calls, else 52.

    Args:
        rate: Probability of an entry to be dropped, in [0, 1).

    Call arguments:
        x: float [...].
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
        """What an entry that is kept is multiplied by."""
        return 1.0 / (1.0 - self.rate)

    def mask(self, shape, dtype, *, scale=1.0):
        """What to multiply entries by: `dtype` of that shape, int32 [rank]; 0 or `scale`."""
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

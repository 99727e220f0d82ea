"""Dropout that costs little."""

from __future__ import annotations

import keras
import tensorflow as tf

# A decision takes 16 random bits, and a rate is rounded to what they can tell.
_LEVELS = 1 << 16


@keras.saving.register_keras_serializable("seqrec_tf")
class Dropout(keras.layers.Layer):
    """Dropout (Srivastava et al., 2014): some entries become 0, and the others are scaled up to keep the mean.

    As that of Keras, which draws a float of 23 random bits for each entry: that takes longer than all else that is done
    to the entry.

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
        self._threshold = round(rate * _LEVELS)
        if rate:
            self.seed_generator = keras.random.SeedGenerator()
        self.built = True

    @property
    def scale(self) -> float:
        """What an entry that is kept is multiplied by."""
        return _LEVELS / (_LEVELS - self._threshold)

    def keep(self, shape):
        """Which entries are kept: bool, of that shape, int32 [rank]."""
        number, seed = tf.reduce_prod(shape), tf.cast(self.seed_generator.next(), tf.int32)
        words = tf.random.stateless_uniform([-(-number // 4)], seed, None, None, tf.uint64)
        draws = tf.reshape(tf.bitcast(words, tf.uint16), [-1])[:number]
        return tf.reshape(draws >= tf.constant(self._threshold, tf.uint16), shape)

    def call(self, x, training=False):
        if not training or not self.rate:
            return x
        return tf.where(self.keep(tf.shape(x)), x * tf.cast(self.scale, x.dtype), tf.zeros([], x.dtype))

    def get_config(self):
        return {**super().get_config(), "rate": self.rate}

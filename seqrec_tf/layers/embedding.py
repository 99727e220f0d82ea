"""Lookup in a table that may be large.

Tensor letters: V rows, D model dim.
"""

from __future__ import annotations

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("seqrec_tf")
class Embedding(keras.layers.Layer):
    """Rows of a table by their number.

    Example: from the table [[0, 0], [1, 2], [3, 4]], ids [2, 1, 2] read [[3, 4], [1, 2], [3, 4]].

    In training, this layer reads the rows in place and then casts them. `keras.layers.Embedding` reads the whole table
    (and casts it, in mixed precision). So with a sampled loss a training step costs the same for any number of rows.

    Args:
        num_rows: V.
        dim: D.
        initializer: How the table starts: a Keras initializer, or a float, the standard deviation of a normal
            distribution.
        constraint: A Keras constraint that the table meets after each step, such as `keras.constraints.MaxNorm`.

    Call arguments:
        ids: int [...], in [0, V).
        training: Whether rows are read in place.

    Returns:
        float [..., D], the rows.
    """

    def __init__(self, num_rows, dim, *, initializer=0.02, constraint=None, **kwargs):
        super().__init__(**kwargs)
        self.num_rows = num_rows
        self.dim = dim
        if isinstance(initializer, float):
            initializer = keras.initializers.RandomNormal(stddev=initializer)
        self.initializer = keras.initializers.get(initializer)
        self.constraint = keras.constraints.get(constraint)
        self.embeddings = self.add_weight(
            name="embeddings",
            shape=[num_rows, dim],
            initializer=self.initializer,
            constraint=self.constraint,
            autocast=False,
        )
        self.built = True

    @property
    def table(self):
        """The table, a `tf.Variable` float32 [V, D]; `tf.gather` reads from it only the rows that it is asked for."""
        return self.embeddings.value

    def call(self, ids, training=False):
        # Rows that are read in place make TensorFlow copy the variable whenever the whole of it is read, so that it can
        # be written in place. That pays in training, where it is, and would cost a server a copy each request.
        table = self.table if training else tf.convert_to_tensor(self.table)
        return tf.cast(tf.gather(table, ids), self.compute_dtype)

    def get_config(self):
        return {
            **super().get_config(),
            "num_rows": self.num_rows,
            "dim": self.dim,
            "initializer": keras.initializers.serialize(self.initializer),
            "constraint": keras.constraints.serialize(self.constraint),
        }

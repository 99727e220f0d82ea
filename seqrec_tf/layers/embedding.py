"""Lookup in a table that may be large.

Tensor letters: V rows, D model dim.
"""

from __future__ import annotations

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("seqrec_tf")
class Embedding(keras.layers.Layer):
    """Rows of a table by their number.

    Beside `keras.layers.Embedding`: in training, rows are read where they lie and cast after that, where Keras reads
    (and, in mixed precision, casts) the whole table; with a sampled loss a step costs the same for any number of rows.

    Args:
        num_rows: V.
        dim: D.
        initializer: How the table starts; a float is the standard deviation of a normal distribution.
        constraint: What the table is held to after each step, such as `keras.constraints.MaxNorm`.

    Call arguments:
        ids: int [...], in [0, V).

    Returns:
        float [..., D].
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
        """The table, a `tf.Variable` of [V, D], from which `tf.gather` reads the rows alone."""
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

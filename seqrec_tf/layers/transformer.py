"""Transformer blocks for sequences of items.

Tensor letters: B batch, L length, Q queries (L, or 1 where only the newest position is asked for), D model dim,
H heads.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from seqrec_tf.config import check_choice

# Added to the logit of a key that may not be seen. Finite, so that a row without any key is uniform instead of NaN.
_HIDDEN = -1e9


def attention_bias(is_real, *, causal, dtype):
    """What to add to attention logits so that only allowed keys are seen.

    Args:
        is_real: bool [B, L], True where the key is an event.
        causal: Whether a query sees only keys at its own position and before.
        dtype: Floating dtype of the logits.

    Returns:
        dtype [B, 1, L, L] (causal) or [B, 1, 1, L]: 0 where the key is seen, very negative where it is not.
    """
    is_seen = is_real[:, None, None, :]
    if causal:
        length = tf.shape(is_real)[1]
        is_seen &= tf.range(length)[:, None] >= tf.range(length)[None, :]
    # Half of the lowest float16, so that a logit below 0 cannot make it -inf.
    return tf.where(is_seen, tf.zeros([], dtype), tf.constant(max(_HIDDEN, float(tf.as_dtype(dtype).min) / 2), dtype))


@keras.saving.register_keras_serializable("seqrec_tf")
class SelfAttention(keras.layers.Layer):
    """Multi-head scaled dot-product attention (SASRec, Section III-B, eq. 2-3).

    As in the paper there is no output projection; with one head it would be redundant with that of the values.

    Args:
        num_heads: Heads; they divide the dimension of the queries.
        dropout_rate: Of the attention weights.

    Call arguments:
        queries: float [B, Q, D].
        keys_values: float [B, L, D].
        bias: float, broadcastable to [B, H, Q, L], from `attention_bias`.

    Returns:
        float [B, Q, D].
    """

    def __init__(self, *, num_heads, dropout_rate, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.dropout_rate = dropout_rate

    def build(self, queries_shape, keys_values_shape=None, bias_shape=None):
        dim, dtype = queries_shape[-1], self.dtype_policy
        if dim % self.num_heads:
            raise ValueError(f"model.num_heads must divide model.dim, got {self.num_heads} heads for dim {dim}.")
        self.query = keras.layers.Dense(dim, name="query", dtype=dtype)
        self.key_value = keras.layers.Dense(2 * dim, name="key_value", dtype=dtype)  # one matmul for both
        self.dropout = keras.layers.Dropout(self.dropout_rate, dtype=dtype)
        self.query.build(queries_shape)
        self.key_value.build(queries_shape)

    def call(self, queries, keys_values, bias, training=False):
        head_dim = queries.shape[-1] // self.num_heads
        # The scale goes into the smaller tensor: Q x D instead of Q x L.
        query = self._split_heads(self.query(queries) * head_dim**-0.5)  # [B, H, Q, D/H]
        key, value = tf.split(self.key_value(keys_values), 2, axis=-1)
        key, value = self._split_heads(key), self._split_heads(value)  # [B, H, L, D/H]
        logits = tf.matmul(query, key, transpose_b=True) + bias  # [B, H, Q, L]
        weights = self.dropout(tf.nn.softmax(logits), training=training)
        attended = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])  # [B, Q, H, D/H]
        return tf.reshape(attended, tf.shape(queries))  # [B, Q, D]

    def _split_heads(self, x):
        shape = tf.shape(x)
        x = tf.reshape(x, [shape[0], shape[1], self.num_heads, x.shape[-1] // self.num_heads])
        return tf.transpose(x, [0, 2, 1, 3])

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads, "dropout_rate": self.dropout_rate}


@keras.saving.register_keras_serializable("seqrec_tf")
class TransformerBlock(keras.layers.Layer):
    """Self-attention and a point-wise feed-forward network, each with dropout, a residual and layer norm.

    Args:
        num_heads: Attention heads.
        feed_forward_dim: Width of the hidden layer of the feed-forward network.
        dropout_rate: Of attention weights, and of what each half adds.
        norm: "pre" (SASRec, Section III-C: x + dropout(f(norm(x)))) or "post" (BERT: norm(x + dropout(f(x)))).
        activation: Of the hidden layer.

    Call arguments:
        x: float [B, L, D].
        bias: float, broadcastable to [B, H, Q, L], from `attention_bias`.
        queries: float [B, Q, D], the rows of `x` to compute; all of them where it is None.

    Returns:
        float [B, Q, D].
    """

    def __init__(self, *, num_heads, feed_forward_dim, dropout_rate, norm="pre", activation="relu", **kwargs):
        super().__init__(**kwargs)
        check_choice("model.norm", norm, ("pre", "post"))
        self.num_heads = num_heads
        self.feed_forward_dim = feed_forward_dim
        self.dropout_rate = dropout_rate
        self.norm = norm
        self.activation = activation

    def build(self, x_shape, bias_shape=None, queries_shape=None):
        dim, dtype = x_shape[-1], self.dtype_policy
        self.attention = SelfAttention(
            num_heads=self.num_heads, dropout_rate=self.dropout_rate, name="attention", dtype=self.dtype_policy
        )
        self.attention_norm = keras.layers.LayerNormalization(
            epsilon=1e-6, name="attention_norm", dtype=self.dtype_policy
        )
        self.feed_forward_norm = keras.layers.LayerNormalization(
            epsilon=1e-6, name="feed_forward_norm", dtype=self.dtype_policy
        )
        self.hidden = keras.layers.Dense(
            self.feed_forward_dim, activation=self.activation, name="hidden", dtype=self.dtype_policy
        )
        self.output_projection = keras.layers.Dense(dim, name="output", dtype=dtype)
        self.dropout = keras.layers.Dropout(self.dropout_rate, dtype=dtype)
        self.attention.build(x_shape)
        self.attention_norm.build(x_shape)
        self.feed_forward_norm.build(x_shape)
        self.hidden.build(x_shape)
        self.output_projection.build((*x_shape[:-1], self.feed_forward_dim))

    def call(self, x, bias, queries=None, training=False):
        if self.norm == "pre":
            keys_values = self.attention_norm(x)
            normed = keys_values if queries is None else self.attention_norm(queries)
            x = x if queries is None else queries
            x = x + self.dropout(self.attention(normed, keys_values, bias, training=training), training=training)
            return x + self._feed_forward(self.feed_forward_norm(x), training)
        queries = x if queries is None else queries
        attended = self.attention(queries, x, bias, training=training)
        x = self.attention_norm(queries + self.dropout(attended, training=training))
        return self.feed_forward_norm(x + self._feed_forward(x, training))

    def _feed_forward(self, x, training):
        hidden = self.dropout(self.hidden(x), training=training)
        return self.dropout(self.output_projection(hidden), training=training)

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "feed_forward_dim": self.feed_forward_dim,
            "dropout_rate": self.dropout_rate,
            "norm": self.norm,
            "activation": self.activation,
        }

"""Attention between the events of a sequence.

Tensor letters: B batch, L length, Q queries (L, or 1 where only the newest position is asked for), D model dim,
H heads, C width of a head; Q' and L' those of a chunk.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras
import tensorflow as tf

from seqrec_tf.layers.dropout import Dropout

# Standard deviation of the weights of what each half block adds (GPT-2's): it starts as nearly nothing, so that the
# state of an event starts as the event's own vector, instead of vanishing behind random projections of it.
SMALL = 0.02

# Added to the logit of a key that may not be seen. Finite, so that a row without any key is uniform instead of NaN.
_HIDDEN = -1e9

# Queries that causal attention takes at once, where sequences are at least as long as two of these.
_CHUNK = 100

# Where attention weights go that somebody watches, a list for each `watched_attention` that is open.
_watchers: list[list] = []


@contextlib.contextmanager
def watched_attention() -> Iterator[list]:
    """Collect the weights of every attention that is computed inside, eagerly, in the order of the calls.

    Yields:
        A list that fills with float [B, H, Q, L]: how much each query takes of each key; rows sum to 1.
    """
    weights: list = []
    _watchers.append(weights)
    try:
        yield weights
    finally:
        _watchers.remove(weights)


def attention_bias(is_seen, dtype):
    """Make what is added to attention logits so that only some keys are seen.

    Example: [[True, True, False]] gives [[[[0, 0, -1e9]]]] for float32.

    Args:
        is_seen: bool [B, L], True where the key is an event that may be seen.
        dtype: Floating dtype of the logits.

    Returns:
        dtype [B, 1, 1, L]: 0 where the key is seen, very negative where it is not.
    """
    return tf.where(is_seen, tf.zeros([], dtype), _hidden(dtype))[:, None, None, :]


def _hidden(dtype):
    # A quarter of the lowest float16, so that a logit below 0, or two of these, cannot make it -inf.
    return tf.constant(max(_HIDDEN, float(tf.as_dtype(dtype).min) / 4), dtype)


def attend(query, key, value, bias, *, is_causal=False, num_chunks=1, dropout=None):
    """Compute softmax(query key^T + bias) value, with dropout of the attention weights.

    The gradient is written out: it needs the product of the output with its gradient, where that of softmax would go
    over all pairs of positions once more, and no product is with a transposed matrix of pairs. Queries are taken in
    chunks; where they see only earlier keys, a chunk does nothing with the keys that come after it.

    Args:
        query: float [B, H, Q, C], scaled already.
        key: float [B, H, L, C].
        value: float [B, H, L, C].
        bias: float [B, 1, 1, L], from `attention_bias`.
        is_causal: Whether query q sees only keys 0..q; then Q is L.
        num_chunks: Chunks that the queries are taken in.
        dropout: A `Dropout`, or None; weights that are kept are not scaled up.

    Returns:
        float [B, H, Q, C].
    """
    chunks = _chunks(tf.shape(query)[2], num_chunks, is_causal)
    for watcher in _watchers:
        logits = tf.matmul(query, key, transpose_b=True) + bias
        later = _later_keys(slice(0, tf.shape(query)[2]), logits.dtype) if is_causal else 0.0
        watcher.append(tf.nn.softmax(logits + later))

    @tf.custom_gradient
    def forward(query, key, value):
        outputs, saved = [], []
        for queries, keys in chunks:
            logits = tf.matmul(query[:, :, queries], key[:, :, keys], transpose_b=True) + bias[..., keys]
            weights = tf.nn.softmax(logits + _later_keys(queries, logits.dtype) if is_causal else logits)
            mask = None if dropout is None else dropout.mask(tf.shape(weights), weights.dtype)
            kept = weights if mask is None else weights * mask
            outputs.append(tf.matmul(kept, value[:, :, keys]))
            saved.append((weights, mask, kept))
        output = outputs[0] if num_chunks == 1 else tf.concat(outputs, axis=2)

        def backward(gradient):
            of_query, of_key, of_value = [], [], []
            along = tf.reduce_sum(gradient * output, axis=-1, keepdims=True)  # [B, H, Q, 1]
            for (queries, keys), (weights, mask, kept) in zip(chunks, saved, strict=True):
                part = gradient[:, :, queries]
                of_value.append(tf.matmul(part, kept, transpose_a=True))  # [B, H, C, L']
                of_weights = tf.matmul(part, value[:, :, keys], transpose_b=True)
                if mask is not None:
                    of_weights *= mask
                of_logits = weights * (of_weights - along[:, :, queries])
                of_query.append(tf.matmul(of_logits, key[:, :, keys]))
                of_key.append(tf.matmul(query[:, :, queries], of_logits, transpose_a=True))
            of_query = of_query[0] if num_chunks == 1 else tf.concat(of_query, axis=2)
            return of_query, *(tf.transpose(_sum_of_prefixes(parts), [0, 1, 3, 2]) for parts in (of_key, of_value))

        return output, backward

    return forward(query, key, value)


def _chunks(length, num_chunks, is_causal):
    """Cut the queries into chunks: a list of (slice of the queries, slice of the keys that they may see)."""
    ends = [length * (chunk + 1) // num_chunks for chunk in range(num_chunks)]
    return [
        (slice(start, end), slice(0, end) if is_causal else slice(None))
        for start, end in zip([0, *ends[:-1]], ends, strict=True)
    ]


def _later_keys(queries, dtype):
    """Make what is added to the logits of a chunk so that no query sees a later key: dtype [Q', L']."""
    is_later = tf.range(queries.start, queries.stop)[:, None] < tf.range(queries.stop)
    return tf.where(is_later, _hidden(dtype), tf.zeros([], dtype))


def _sum_of_prefixes(parts):
    """The sum of tensors [..., L'], each a prefix of the last one's length, zeros being meant where one has ended."""
    total = parts[0]
    for part in parts[1:]:
        shared = tf.shape(total)[-1]
        total = tf.concat([total + part[..., :shared], part[..., shared:]], axis=-1)
    return total


def _keys_then_small_values(shape, dtype=None):
    keys = keras.initializers.GlorotUniform()([shape[0], shape[1] // 2], dtype=dtype)
    values = keras.initializers.RandomNormal(stddev=SMALL)([shape[0], shape[1] // 2], dtype=dtype)
    return keras.ops.concatenate([keys, values], axis=1)


@keras.saving.register_keras_serializable("seqrec_tf")
class SelfAttention(keras.layers.Layer):
    """Multi-head scaled dot-product attention (SASRec, Section III-B, eq. 2-3).

    The result is what the heads give, side by side, as in that paper. `mixes_heads` adds the layer that the transformer
    has after them, W^O; with one head that layer would add nothing to the projection of the values.

    Example: the events [[[1], [3], [8]]] are queries, keys and values. Where the query weights are 0, all keys count
    alike; where the value weights are the identity, the results are means of the values: [[[4], [4], [4]]], or
    [[[1], [2], [4]]] with is_causal, or [[[2], [2], [2]]] where the bias hides the third key.

    Args:
        num_heads: Number of heads; it must divide D.
        dropout_rate: Share of the attention weights that are dropped.
        mixes_heads: Whether a layer follows the heads (W^O of the transformer).
        max_len: Length of the longest sequences, which tells in how many chunks causal attention takes the queries.
            None where it is not known: one chunk.

    Call arguments:
        queries: float [B, Q, D].
        keys_values: float [B, L, D].
        bias: float [B, 1, 1, L], from `attention_bias`.
        is_causal: Whether query q sees only keys 0..q; then Q is L.
        values: float [B, L, D], what the values are made of (NOVA); None where it is `keys_values`.

    Returns:
        float [B, Q, D].
    """

    def __init__(self, *, num_heads, dropout_rate, mixes_heads=False, max_len=None, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.dropout_rate = dropout_rate
        self.mixes_heads = mixes_heads
        self.max_len = max_len

    def build(self, queries_shape, keys_values_shape=None, bias_shape=None, values_shape=None):
        dim, dtype = queries_shape[-1], self.dtype_policy
        if dim % self.num_heads:
            raise ValueError(f"model.num_heads must divide model.dim, got {self.num_heads} heads for dim {dim}.")
        self.query = keras.layers.Dense(dim, name="query", dtype=dtype)
        initializer = "glorot_uniform" if self.mixes_heads else _keys_then_small_values
        self.key_value = keras.layers.Dense(  # one matmul for both
            2 * dim, kernel_initializer=initializer, name="key_value", dtype=dtype
        )
        self.mix = None
        if self.mixes_heads:
            small = keras.initializers.RandomNormal(stddev=SMALL)
            self.mix = keras.layers.Dense(dim, kernel_initializer=small, name="mix", dtype=dtype)
            self.mix.build(queries_shape)
        self.dropout = Dropout(self.dropout_rate, dtype=dtype)
        self.query.build(queries_shape)
        self.key_value.build(queries_shape)

    def call(self, queries, keys_values, bias, values=None, is_causal=False, training=False):
        head_dim = queries.shape[-1] // self.num_heads
        # The scale goes into the smaller tensor: Q x D instead of Q x L.
        query = self._split_heads(self.query(queries) * head_dim**-0.5)  # [B, H, Q, D/H]
        if values is None:
            key, value = tf.split(self.key_value(keys_values), 2, axis=-1)
        else:
            kernels, biases = tf.split(self.key_value.kernel, 2, axis=1), tf.split(self.key_value.bias, 2)
            key, value = (
                tf.matmul(states, tf.cast(kernel, states.dtype)) + tf.cast(bias_of, states.dtype)
                for states, kernel, bias_of in zip((keys_values, values), kernels, biases, strict=True)
            )
        key, value = self._split_heads(key), self._split_heads(value)  # [B, H, L, D/H]
        dropout = self.dropout if training and self.dropout_rate else None
        if dropout is not None:
            value *= tf.cast(dropout.scale, value.dtype)  # of the smaller tensor again
        num_chunks = max(1, (self.max_len or 0) // _CHUNK) if is_causal else 1
        attended = attend(query, key, value, bias, is_causal=is_causal, num_chunks=num_chunks, dropout=dropout)
        attended = tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), tf.shape(queries))  # [B, Q, D]
        return attended if self.mix is None else self.mix(tf.ensure_shape(attended, queries.shape))

    def _split_heads(self, x):
        shape = tf.shape(x)
        x = tf.reshape(x, [shape[0], shape[1], self.num_heads, x.shape[-1] // self.num_heads])
        return tf.transpose(x, [0, 2, 1, 3])

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "dropout_rate": self.dropout_rate,
            "mixes_heads": self.mixes_heads,
            "max_len": self.max_len,
        }

"""Transformer blocks for sequences of items.

Tensor letters: B batch, L length, Q queries (L, or 1 where only the newest position is asked for), D model dim,
H heads.
"""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from seqrec_tf.config import ModelConfig, check_at_least, check_choice, check_rate
from seqrec_tf.layers.dropout import Dropout
from seqrec_tf.layers.embedding import Embedding

FUSIONS = ("sum", "concat", "gating")

# Added to the logit of a key that may not be seen. Finite, so that a row without any key is uniform instead of NaN.
_HIDDEN = -1e9

# Standard deviation of the weights of what each half block adds (GPT-2's): it starts as nearly nothing, so that the
# state of an event starts as the event's own vector, instead of vanishing behind random projections of it.
_SMALL = 0.02


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


def _keys_then_small_values(shape, dtype=None):
    keys = keras.initializers.GlorotUniform()([shape[0], shape[1] // 2], dtype=dtype)
    values = keras.initializers.RandomNormal(stddev=_SMALL)([shape[0], shape[1] // 2], dtype=dtype)
    return keras.ops.concatenate([keys, values], axis=1)


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
        values: float [B, L, D], where the values are made of something else than the keys (NOVA).

    Returns:
        float [B, Q, D].
    """

    def __init__(self, *, num_heads, dropout_rate, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.dropout_rate = dropout_rate

    def build(self, queries_shape, keys_values_shape=None, bias_shape=None, values_shape=None):
        dim, dtype = queries_shape[-1], self.dtype_policy
        if dim % self.num_heads:
            raise ValueError(f"model.num_heads must divide model.dim, got {self.num_heads} heads for dim {dim}.")
        self.query = keras.layers.Dense(dim, name="query", dtype=dtype)
        self.key_value = keras.layers.Dense(  # one matmul for both
            2 * dim, kernel_initializer=_keys_then_small_values, name="key_value", dtype=dtype
        )
        self.dropout = Dropout(self.dropout_rate, dtype=dtype)
        self.query.build(queries_shape)
        self.key_value.build(queries_shape)

    def call(self, queries, keys_values, bias, values=None, training=False):
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
        logits = tf.matmul(query, key, transpose_b=True) + bias  # [B, H, Q, L]
        weights = tf.nn.softmax(logits)
        if training and self.dropout_rate:
            # The scale goes into the smaller tensor again.
            weights = tf.where(self.dropout.keep(tf.shape(weights)), weights, tf.zeros([], weights.dtype))
            value *= tf.cast(self.dropout.scale, value.dtype)
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
        dropout_rate: Of what each half adds.
        attention_dropout_rate: Of attention weights; `dropout_rate` where None.
        norm: "pre" (SASRec, Section III-C: x + dropout(f(norm(x)))) or "post" (BERT: norm(x + dropout(f(x)))).
        activation: Of the hidden layer; "swiglu" (Shazeer 2020, arXiv:2002.05202) is swish(x W) * (x V), of two layers.
        is_gated: Whether what each half adds is multiplied by sigmoid(x W + b) (LiGR, arXiv:2502.03417), x being the
            half's input.
        fusion: "sum", "concat" or "gating", where queries and keys are made of states and side features (NOVA).

    Call arguments:
        x: float [B, L, D].
        bias: float, broadcastable to [B, H, Q, L], from `attention_bias`.
        queries: float [B, Q, D], the rows of `x` to compute; all of them where it is None.
        side: float [B, L, D] of each side feature, where there is a fusion; then all rows are computed.

    Returns:
        float [B, Q, D].
    """

    def __init__(
        self,
        *,
        num_heads,
        feed_forward_dim,
        dropout_rate,
        attention_dropout_rate=None,
        norm="pre",
        activation="relu",
        is_gated=False,
        fusion=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice("model.norm", norm, ("pre", "post"))
        self.num_heads = num_heads
        self.feed_forward_dim = feed_forward_dim
        self.dropout_rate = dropout_rate
        self.attention_dropout_rate = dropout_rate if attention_dropout_rate is None else attention_dropout_rate
        self.norm = norm
        self.activation = activation
        self.is_gated = is_gated
        self.fusion = fusion

    def build(self, x_shape, bias_shape=None, queries_shape=None, side_shape=None):
        dim, dtype = x_shape[-1], self.dtype_policy
        self.attention = SelfAttention(
            num_heads=self.num_heads,
            dropout_rate=self.attention_dropout_rate,
            name="attention",
            dtype=self.dtype_policy,
        )
        self.attention_norm = keras.layers.LayerNormalization(
            epsilon=1e-6, name="attention_norm", dtype=self.dtype_policy
        )
        self.feed_forward_norm = keras.layers.LayerNormalization(
            epsilon=1e-6, name="feed_forward_norm", dtype=self.dtype_policy
        )
        is_swiglu = self.activation == "swiglu"
        self.hidden = keras.layers.Dense(
            self.feed_forward_dim * (2 if is_swiglu else 1),
            activation=None if is_swiglu else self.activation,
            name="hidden",
            dtype=self.dtype_policy,
        )
        self.output_projection = keras.layers.Dense(
            dim, kernel_initializer=keras.initializers.RandomNormal(stddev=_SMALL), name="output", dtype=dtype
        )
        self.dropout = Dropout(self.dropout_rate, dtype=dtype)
        self.gates = []
        if self.is_gated:
            self.gates = [
                keras.layers.Dense(dim, activation="sigmoid", name=f"{half}_gate", dtype=dtype)
                for half in ("attention", "feed_forward")
            ]
        for gate in self.gates:
            gate.build(x_shape)
        self.fuse = None if self.fusion is None else Fusion(self.fusion, name="fusion", dtype=dtype)
        self.attention.build(x_shape)
        self.attention_norm.build(x_shape)
        self.feed_forward_norm.build(x_shape)
        self.hidden.build(x_shape)
        self.output_projection.build((*x_shape[:-1], self.feed_forward_dim))

    def call(self, x, bias, queries=None, side=None, training=False):
        if self.norm == "pre":
            keys_values = self.attention_norm(x)
            normed = keys_values if queries is None else self.attention_norm(queries)
            x = x if queries is None else queries
            attended = self._attend(normed, keys_values, bias, side, training)
            x = x + self.dropout(self._gated(0, attended, normed), training=training)
            return x + self._feed_forward(self.feed_forward_norm(x), training)
        queries = x if queries is None else queries
        attended = self._attend(queries, x, bias, side, training)
        x = self.attention_norm(queries + self.dropout(self._gated(0, attended, queries), training=training))
        return self.feed_forward_norm(x + self._feed_forward(x, training))

    def _attend(self, queries, keys_values, bias, side, training):
        if self.fuse is None:
            return self.attention(queries, keys_values, bias, training=training)
        fused = self.fuse([keys_values, *side])
        return self.attention(fused, fused, bias, values=keys_values, training=training)

    def _feed_forward(self, x, training):
        hidden = self.hidden(x)
        if self.activation == "swiglu":
            swished, linear = tf.split(hidden, 2, axis=-1)
            hidden = tf.nn.silu(swished) * linear
        hidden = self.output_projection(self.dropout(hidden, training=training))
        return self.dropout(self._gated(1, hidden, x), training=training)

    def _gated(self, half, added, x):
        return self.gates[half](x) * added if self.gates else added

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "feed_forward_dim": self.feed_forward_dim,
            "dropout_rate": self.dropout_rate,
            "attention_dropout_rate": self.attention_dropout_rate,
            "norm": self.norm,
            "activation": self.activation,
            "is_gated": self.is_gated,
            "fusion": self.fusion,
        }


@keras.saving.register_keras_serializable("seqrec_tf")
class Fusion(keras.layers.Layer):
    """States and side features to one vector (NOVA, arXiv:2103.03578, Section "Fusion operations").

    Args:
        kind: "sum"; "concat", a layer on all of them side by side; or "gating", their sum, each times sigmoid(f w).

    Call arguments:
        parts: A list of float [..., D].

    Returns:
        float [..., D].
    """

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        check_choice("model.fusion", kind, FUSIONS)
        self.kind = kind

    def build(self, parts_shape):
        dim, number = parts_shape[0][-1], len(parts_shape)
        if self.kind == "concat":
            self.layer = keras.layers.Dense(dim, name="all", dtype=self.dtype_policy)
            self.layer.build([*parts_shape[0][:-1], number * dim])
        elif self.kind == "gating":
            self.layer = keras.layers.Dense(
                1, use_bias=False, activation="sigmoid", name="gate", dtype=self.dtype_policy
            )
            self.layer.build(parts_shape[0])

    def call(self, parts):
        if self.kind == "sum":
            return tf.add_n(parts)
        if self.kind == "concat":
            return self.layer(tf.concat(parts, axis=-1))
        return tf.add_n([self.layer(part) * part for part in parts])

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


@dataclasses.dataclass(frozen=True)
class EncoderConfig(ModelConfig):
    """Hyper-parameters of a `SequenceEncoder`, for models that have one.

    Attributes:
        dim: Width of embeddings and hidden states.
        num_blocks: Transformer blocks.
        num_heads: Attention heads.
        feed_forward_ratio: Width of the feed-forward's hidden layer over `dim`.
        dropout_rate: Of embeddings and what each half block adds.
        attention_dropout_rate: Of attention weights; `dropout_rate` where there is none. 0 spares a random number for
            each pair of positions.
        norm: "post" (norm(x + f(x))) or "pre" (x + f(norm(x))).
        activation: Of the feed-forward's hidden layer: Keras' names, or "swiglu", with half as many weights again.
        is_gated: Whether each half block's output is gated by its input, as in LiGR.
    """

    dim: int = 64
    num_blocks: int = 2
    num_heads: int = 2
    feed_forward_ratio: float = 4.0
    dropout_rate: float = 0.1
    attention_dropout_rate: float | None = None
    norm: str = "post"
    activation: str = "gelu"
    is_gated: bool = False

    def __post_init__(self):
        super().__post_init__()
        for name in ("dim", "num_blocks", "num_heads"):
            check_at_least(f"model.{name}", getattr(self, name), 1)
        check_rate("model.dropout_rate", self.dropout_rate)
        check_rate("model.attention_dropout_rate", self.attention_dropout_rate or 0.0)
        check_choice("model.norm", self.norm, ("pre", "post"))
        if self.dim % self.num_heads:
            raise ValueError(f"model.num_heads must divide model.dim, got {self.num_heads} heads for dim {self.dim}.")


@keras.saving.register_keras_serializable("seqrec_tf")
class SequenceEncoder(keras.layers.Layer):
    """Embedded events to hidden states: positions, dropout, transformer blocks.

    Positions are learned and counted from the newest event, so that padding on either side changes nothing. With
    norm="pre" the last block's output is normalised, with "post" the embedded events are.

    Args:
        config: The options; events older than its `max_len` share the last position.
        is_causal: Whether a position sees only itself and those before.
        fusion: Of side features into queries and keys, as in NOVA; positions are then one of them. None without.

    Call arguments:
        embedded: float [B, L, D].
        is_real: bool [B, L], True where there is an event.
        side: A list of float [B, L, D], side features of the events; where there is a fusion.
        position: int32 [B], the one position of each row that is asked for; all of them where None.

    Returns:
        float [B, L, D], or [B, D] where a position is given: the last block then computes nothing else.
    """

    def __init__(self, config: EncoderConfig, *, is_causal: bool, fusion: str | None = None, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.is_causal = is_causal
        self.fusion = fusion

    def build(self, embedded_shape, is_real_shape=None, side_shape=None, position_shape=None):
        dim, dtype = embedded_shape[-1], self.dtype_policy
        # Row p is the p-th newest event; row 0 is padding.
        self.positions = Embedding(self.config.max_len + 1, dim, name="positions", dtype=dtype)
        self.dropout = Dropout(self.config.dropout_rate, dtype=dtype)
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6, name="norm", dtype=dtype)
        self.blocks = [
            TransformerBlock(
                num_heads=self.config.num_heads,
                feed_forward_dim=round(self.config.feed_forward_ratio * dim),
                dropout_rate=self.config.dropout_rate,
                attention_dropout_rate=self.config.attention_dropout_rate,
                norm=self.config.norm,
                activation=self.config.activation,
                is_gated=self.config.is_gated,
                fusion=self.fusion,
                name=f"block_{i}",
                dtype=dtype,
            )
            for i in range(self.config.num_blocks)
        ]
        self.norm.build(embedded_shape)
        for block in self.blocks:
            block.build(embedded_shape)

    def call(self, embedded, is_real, side=None, position=None, training=False):
        age = tf.cumsum(tf.cast(is_real, tf.int32), axis=1, reverse=True)  # 1 at the newest event
        age = tf.minimum(age, self.config.max_len) * tf.cast(is_real, tf.int32)
        positions = self.positions(age)
        hidden = embedded if self.fusion else embedded + positions
        side = [*side, positions] if self.fusion else None
        is_pre = self.config.norm == "pre"
        hidden = self.dropout(hidden if is_pre else self.norm(hidden), training=training)
        bias = attention_bias(is_real, causal=self.is_causal, dtype=hidden.dtype)
        for block in self.blocks[:-1]:
            hidden = block(hidden, bias, side=side, training=training)
        if position is None or self.fusion:
            hidden = self.blocks[-1](hidden, bias, side=side, training=training)
            hidden = hidden if position is None else tf.gather(hidden, position, axis=1, batch_dims=1)
        else:
            queries = tf.gather(hidden, position[:, None], axis=1, batch_dims=1)  # [B, 1, D]
            if self.is_causal:
                bias = tf.gather(bias[:, 0], position[:, None], axis=1, batch_dims=1)[:, None]  # [B, 1, 1, L]
            hidden = self.blocks[-1](hidden, bias, queries=queries, training=training)[:, 0]
        return self.norm(hidden) if is_pre else hidden

    def get_config(self):
        options = {field.name: getattr(self.config, field.name) for field in dataclasses.fields(EncoderConfig)}
        return {**super().get_config(), "config": options, "is_causal": self.is_causal, "fusion": self.fusion}

    @classmethod
    def from_config(cls, config):
        return cls(EncoderConfig(**config.pop("config")), **config)

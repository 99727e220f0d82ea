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
from seqrec_tf.layers.norm import LayerNorm

FUSIONS = ("sum", "concat", "gating")

# Added to the logit of a key that may not be seen. Finite, so that a row without any key is uniform instead of NaN.
_HIDDEN = -1e9

# Queries that causal attention takes at once, where sequences are at least as long as two of these.
_CHUNK = 100

# Standard deviation of the weights of what each half block adds (GPT-2's): it starts as nearly nothing, so that the
# state of an event starts as the event's own vector, instead of vanishing behind random projections of it.
_SMALL = 0.02


def attention_bias(is_seen, dtype):
    """What to add to attention logits so that only some keys are seen.

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
    """softmax(query key^T + bias) value, with dropout of the attention weights.

    The gradient is written out: it needs the product of the output with its gradient, where that of softmax would go
    over all pairs of positions once more, and no product is with a transposed matrix of pairs. Queries are taken in
    chunks; where they see only earlier keys, a chunk does nothing with those that come after it.

    Args:
        query: float [B, H, Q, C], scaled already.
        key: float [B, H, L, C].
        value: float [B, H, L, C].
        bias: float [B, 1, 1, L], from `attention_bias`.
        is_causal: Whether query q sees only keys 0..q; then Q is L.
        num_chunks: Chunks of queries.
        dropout: A `Dropout`, or None; what is kept is not scaled up.

    Returns:
        float [B, H, Q, C].
    """
    length = tf.shape(query)[2]
    ends = [length * (chunk + 1) // num_chunks for chunk in range(num_chunks)]
    chunks = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        keys = slice(0, end) if is_causal else slice(None)
        chunks.append((slice(start, end), keys))

    @tf.custom_gradient
    def forward(query, key, value):
        outputs, saved = [], []
        for queries, keys in chunks:
            logits = tf.matmul(query[:, :, queries], key[:, :, keys], transpose_b=True) + bias[..., keys]
            if is_causal:
                is_later = tf.range(queries.start, queries.stop)[:, None] < tf.range(queries.stop)
                logits += tf.where(is_later, _hidden(logits.dtype), tf.zeros([], logits.dtype))
            weights = tf.nn.softmax(logits)  # [B, H, Q', L']
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


def _sum_of_prefixes(parts):
    """The sum of tensors [..., L'], each a prefix of the last one's length, zeros being meant where one has ended."""
    total = parts[0]
    for part in parts[1:]:
        shared = tf.shape(total)[-1]
        total = tf.concat([total + part[..., :shared], part[..., shared:]], axis=-1)
    return total


def _keys_then_small_values(shape, dtype=None):
    keys = keras.initializers.GlorotUniform()([shape[0], shape[1] // 2], dtype=dtype)
    values = keras.initializers.RandomNormal(stddev=_SMALL)([shape[0], shape[1] // 2], dtype=dtype)
    return keras.ops.concatenate([keys, values], axis=1)


@keras.saving.register_keras_serializable("seqrec_tf")
class SelfAttention(keras.layers.Layer):
    """Multi-head scaled dot-product attention (SASRec, Section III-B, eq. 2-3).

    As in that paper nothing follows the heads, unless they are to be mixed; with one head that would be redundant with
    the projection of the values.

    Args:
        num_heads: Heads; they divide the dimension of the queries.
        dropout_rate: Of the attention weights.
        mixes_heads: Whether what the heads give, side by side, passes a layer (W^O of the transformer).
        max_len: Length of the longest sequences; long ones are worth being taken in chunks. None where it is not known.

    Call arguments:
        queries: float [B, Q, D].
        keys_values: float [B, L, D].
        bias: float [B, 1, 1, L], from `attention_bias`.
        is_causal: Whether query q sees only keys 0..q; then Q is L.
        values: float [B, L, D], where the values are made of something else than the keys (NOVA).

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
            small = keras.initializers.RandomNormal(stddev=_SMALL)
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


@keras.saving.register_keras_serializable("seqrec_tf")
class TransformerBlock(keras.layers.Layer):
    """Self-attention and a point-wise feed-forward network, each with dropout, a residual and layer norm.

    Args:
        num_heads: Attention heads.
        feed_forward_dim: Width of the hidden layer of the feed-forward network.
        dropout_rate: Of what each half adds, and of the feed-forward's hidden layer.
        attention_dropout_rate: Of attention weights; `dropout_rate` where None.
        mixes_heads: As that of `SelfAttention`.
        norm: "pre" (SASRec, Section III-C: x + dropout(f(norm(x)))) or "post" (BERT: norm(x + dropout(f(x)))).
        activation: Of the hidden layer; "swiglu" (Shazeer 2020, arXiv:2002.05202) is swish(x W) * (x V), of two layers.
        is_gated: Whether what each half adds is multiplied by sigmoid(x W + b) (LiGR, arXiv:2502.03417), x being the
            half's input.
        fusion: "sum", "concat" or "gating", where queries and keys are made of states and side features (NOVA).
        is_causal: Whether a position sees only itself and those before, where all positions are asked for.
        max_len: As that of `SelfAttention`.

    Call arguments:
        x: float [B, L, D].
        bias: float [B, 1, 1, L], from `attention_bias`.
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
        mixes_heads=False,
        norm="pre",
        activation="relu",
        is_gated=False,
        fusion=None,
        is_causal=False,
        max_len=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice("model.norm", norm, ("pre", "post"))
        self.num_heads = num_heads
        self.feed_forward_dim = feed_forward_dim
        self.dropout_rate = dropout_rate
        self.attention_dropout_rate = dropout_rate if attention_dropout_rate is None else attention_dropout_rate
        self.mixes_heads = mixes_heads
        self.norm = norm
        self.activation = activation
        self.is_gated = is_gated
        self.fusion = fusion
        self.is_causal = is_causal
        self.max_len = max_len

    def build(self, x_shape, bias_shape=None, queries_shape=None, side_shape=None):
        dim, dtype = x_shape[-1], self.dtype_policy
        self.attention = SelfAttention(
            num_heads=self.num_heads,
            dropout_rate=self.attention_dropout_rate,
            mixes_heads=self.mixes_heads,
            max_len=self.max_len,
            name="attention",
            dtype=self.dtype_policy,
        )
        self.attention_norm = LayerNorm(epsilon=1e-6, name="attention_norm", dtype=self.dtype_policy)
        self.feed_forward_norm = LayerNorm(epsilon=1e-6, name="feed_forward_norm", dtype=self.dtype_policy)
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
        is_causal = self.is_causal and queries is None
        if self.norm == "pre":
            keys_values = self.attention_norm(x)
            normed = keys_values if queries is None else self.attention_norm(queries)
            x = x if queries is None else queries
            attended = self._attend(normed, keys_values, bias, side, is_causal, training)
            x = x + self.dropout(self._gated(0, attended, normed), training=training)
            return x + self._feed_forward(self.feed_forward_norm(x), training)
        queries = x if queries is None else queries
        attended = self._attend(queries, x, bias, side, is_causal, training)
        x = self.attention_norm(queries + self.dropout(self._gated(0, attended, queries), training=training))
        return self.feed_forward_norm(x + self._feed_forward(x, training))

    def _attend(self, queries, keys_values, bias, side, is_causal, training):
        if self.fuse is None:
            return self.attention(queries, keys_values, bias, is_causal=is_causal, training=training)
        fused = self.fuse([keys_values, *side])
        return self.attention(fused, fused, bias, values=keys_values, is_causal=is_causal, training=training)

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
            "mixes_heads": self.mixes_heads,
            "norm": self.norm,
            "activation": self.activation,
            "is_gated": self.is_gated,
            "fusion": self.fusion,
            "is_causal": self.is_causal,
            "max_len": self.max_len,
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
        dropout_rate: Of embeddings, what each half block adds, and the feed-forward's hidden layer.
        attention_dropout_rate: Of attention weights; `dropout_rate` where there is none. 0 spares a random number for
            each pair of positions.
        mixes_heads: Whether what the heads give passes a layer of its own, as in BERT.
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
    mixes_heads: bool = False
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
        check_at_least("model.feed_forward_ratio", self.feed_forward_ratio, 1 / self.dim)
        if self.dim % self.num_heads:
            raise ValueError(f"model.num_heads must divide model.dim, got {self.num_heads} heads for dim {self.dim}.")
        if self.activation != "swiglu":
            try:
                keras.activations.get(self.activation)
            except ValueError:
                raise ValueError(
                    f'model.activation must be "swiglu" or an activation of Keras, such as relu or gelu, got '
                    f"{self.activation!r}."
                ) from None


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
        self.norm = LayerNorm(epsilon=1e-6, name="norm", dtype=dtype)
        self.blocks = [
            TransformerBlock(
                num_heads=self.config.num_heads,
                feed_forward_dim=round(self.config.feed_forward_ratio * dim),
                dropout_rate=self.config.dropout_rate,
                attention_dropout_rate=self.config.attention_dropout_rate,
                mixes_heads=self.config.mixes_heads,
                norm=self.config.norm,
                activation=self.config.activation,
                is_gated=self.config.is_gated,
                fusion=self.fusion,
                is_causal=self.is_causal,
                max_len=self.config.max_len,
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
        bias = attention_bias(is_real, hidden.dtype)
        for block in self.blocks[:-1]:
            hidden = block(hidden, bias, side=side, training=training)
        if position is None or self.fusion:
            hidden = self.blocks[-1](hidden, bias, side=side, training=training)
            hidden = hidden if position is None else tf.gather(hidden, position, axis=1, batch_dims=1)
        else:
            queries = tf.gather(hidden, position[:, None], axis=1, batch_dims=1)  # [B, 1, D]
            if self.is_causal:
                is_earlier = tf.range(tf.shape(is_real)[1]) <= position[:, None]
                bias = attention_bias(is_real & is_earlier, hidden.dtype)
            hidden = self.blocks[-1](hidden, bias, queries=queries, training=training)[:, 0]
        return self.norm(hidden) if is_pre else hidden

    def get_config(self):
        options = {field.name: getattr(self.config, field.name) for field in dataclasses.fields(EncoderConfig)}
        return {**super().get_config(), "config": options, "is_causal": self.is_causal, "fusion": self.fusion}

    @classmethod
    def from_config(cls, config):
        return cls(EncoderConfig(**config.pop("config")), **config)

"""Transformer blocks for sequences of items.

Tensor letters: B batch, L length, Q queries (L, or 1 where only the newest position is asked for), D model dim.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from seqrec_tf.config import ModelConfig, Sizes, check_at_least, check_choice, check_rate, nearest
from seqrec_tf.layers.attention import SMALL, SelfAttention, attention_bias
from seqrec_tf.layers.dropout import Dropout
from seqrec_tf.layers.embedding import Embedding
from seqrec_tf.layers.norm import LayerNorm

FUSIONS = ("sum", "concat", "gating")
# Keras' activations that keep the shape, listed so that an option can be checked before Keras is imported.
ACTIVATIONS = (
    *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid", "hard_silu"),
    *("hard_swish", "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "log_softmax", "mish"),
    *("relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softmax"),
    *("softplus", "softsign", "sparse_plus", "sparse_sigmoid", "sparsemax", "squareplus", "swish"),
    *("tanh", "tanh_shrink", "threshold"),
)


@dataclasses.dataclass(frozen=True)
class EncoderConfig(ModelConfig):
    """Options of a `SequenceEncoder` and of each of its blocks, for models that have one.

    Example: EncoderConfig(dim=64, num_heads=2, feed_forward_ratio=4.0) makes heads of width 32, and feed-forward layers
    from 64 to 256 and back to 64.

    Attributes:
        dim: Width of embeddings and hidden states.
        num_blocks: Transformer blocks.
        num_heads: Attention heads.
        feed_forward_ratio: Width of the feed-forward's hidden layer over `dim`.
        dropout_rate: Share of entries that are dropped in embeddings, in what each half block adds, and in the
            feed-forward's hidden layer.
        attention_dropout_rate: Share of attention weights that are dropped; none takes `dropout_rate`. 0 saves a random
            number for each pair of positions.
        mixes_heads: Whether what the heads give passes a layer of its own, as in BERT.
        norm: "post" (BERT: norm(x + dropout(f(x)))) or "pre" (SASRec, Section III-C: x + dropout(f(norm(x)))).
        activation: Function of the feed-forward's hidden layer: Keras' names, or "swiglu" (Shazeer 2020,
            arXiv:2002.05202), swish(x W) * (x V), with half as many weights again.
        is_gated: Whether what each half block adds is multiplied by sigmoid(x W + b), x being the half's input (LiGR,
            arXiv:2502.03417).
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
        if self.activation not in ("swiglu", *ACTIVATIONS):
            raise ValueError(
                f'model.activation must be "swiglu" or an activation of Keras, such as relu or gelu, got '
                f"{self.activation!r}.{nearest(self.activation, ACTIVATIONS)}"
            )

    def sizes(self):
        """As wide as `dim`, with the blocks and their heads."""
        return Sizes(dim=self.dim, num_blocks=self.num_blocks, num_heads=self.num_heads)


def encoder_options(config: EncoderConfig) -> dict[str, Any]:
    """The options of an encoder alone, of a configuration that may have more: keyword arguments of `EncoderConfig`."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(EncoderConfig)}


@keras.saving.register_keras_serializable("seqrec_tf")
class TransformerBlock(keras.layers.Layer):
    """Self-attention and a point-wise feed-forward network, each with dropout, a residual and layer norm.

    Example: x = [[[1, 3], [3, 1], [2, 6]]] is normalised to [[[-1, 1], [1, -1], [-1, 1]]]. Where attention takes
    plain means of these rows and the feed-forward adds nothing, a causal block with norm="pre" adds [-1, 1], [0, 0] and
    [-1/3, 1/3], and so gives [[[0, 4], [3, 1], [1.67, 6.33]]]. With queries = [[[3, 1]]], and a bias that hides the
    third event, it gives [[[3, 1]]].

    Args:
        config: The options. The block does not read `num_blocks`, nor `dim`: D is the width of `x`.
        is_causal: Whether a position sees only itself and those before. It has no effect where `queries` are given:
            then `bias` alone says what they see.
        fusion: How side features enter queries and keys (NOVA): "sum", "concat" or "gating"; None for no side features.

    Call arguments:
        x: float [B, L, D], the states.
        bias: float [B, 1, 1, L], from `attention_bias`.
        queries: float [B, Q, D], the rows of `x` to compute; None for all rows, as a fusion needs.
        side: A list of float [B, L, D], one for each side feature; None without a fusion.

    Returns:
        float [B, Q, D].
    """

    def __init__(self, config: EncoderConfig, *, is_causal: bool = False, fusion: str | None = None, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.is_causal = is_causal
        self.fusion = fusion

    def build(self, x_shape, bias_shape=None, queries_shape=None, side_shape=None):
        config, dim, dtype = self.config, x_shape[-1], self.dtype_policy
        rate = config.attention_dropout_rate
        self.attention = SelfAttention(
            num_heads=config.num_heads,
            dropout_rate=config.dropout_rate if rate is None else rate,
            mixes_heads=config.mixes_heads,
            max_len=config.max_len,
            name="attention",
            dtype=dtype,
        )
        self.attention_norm = LayerNorm(epsilon=1e-6, name="attention_norm", dtype=dtype)
        self.feed_forward_norm = LayerNorm(epsilon=1e-6, name="feed_forward_norm", dtype=dtype)
        width, is_swiglu = round(config.feed_forward_ratio * dim), config.activation == "swiglu"
        self.hidden = keras.layers.Dense(
            2 * width if is_swiglu else width,
            activation=None if is_swiglu else config.activation,
            name="hidden",
            dtype=dtype,
        )
        small = keras.initializers.RandomNormal(stddev=SMALL)
        self.output_projection = keras.layers.Dense(dim, kernel_initializer=small, name="output", dtype=dtype)
        self.dropout = Dropout(config.dropout_rate, dtype=dtype)
        self.gates = []
        if config.is_gated:
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
        self.output_projection.build((*x_shape[:-1], width))

    def call(self, x, bias, queries=None, side=None, training=False):
        is_causal = self.is_causal and queries is None
        if self.config.norm == "pre":
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
        if self.config.activation == "swiglu":
            swished, linear = tf.split(hidden, 2, axis=-1)
            hidden = tf.nn.silu(swished) * linear
        hidden = self.output_projection(self.dropout(hidden, training=training))
        return self.dropout(self._gated(1, hidden, x), training=training)

    def _gated(self, half, added, x):
        return self.gates[half](x) * added if self.gates else added

    def get_config(self):
        options = encoder_options(self.config)
        return {**super().get_config(), "config": options, "is_causal": self.is_causal, "fusion": self.fusion}

    @classmethod
    def from_config(cls, config):
        return cls(EncoderConfig(**config.pop("config")), **config)


@keras.saving.register_keras_serializable("seqrec_tf")
class Fusion(keras.layers.Layer):
    """Makes one vector of a state and its side features (NOVA, arXiv:2103.03578, Section "Fusion operations").

    - sum: the sum of the parts.
    - concat: a learned layer of the parts, side by side.
    - gating: the sum of the parts f, each multiplied by its sigmoid(f w), with a learned w.

    Example: of the parts [[1, 2]], [[3, 0]] and [[0, 1]], "sum" makes [[4, 3]]; "gating" makes [[2, 1.5]] where w is 0;
    "concat" makes a layer of [[1, 2, 3, 0, 0, 1]], of width 2.

    Args:
        kind: "sum", "concat" or "gating".

    Call arguments:
        parts: A list of float [..., D], the state and its side features.

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


@keras.saving.register_keras_serializable("seqrec_tf")
class SequenceEncoder(keras.layers.Layer):
    """Turns embedded events into hidden states: adds learned position vectors, then applies dropout and the blocks.

    Each event has the position vector of its age: 1 for the newest event, 2 for the one before it. So padding on either
    side changes nothing. norm="pre" normalises the output of the last block, "post" normalises the embedded events.

    Example: two events and padding, is_real = [[True, True, False]], have the ages [[2, 1, 0]]. Where position vectors
    are 0 and the blocks add nothing, norm="pre" turns embedded = [[[1, 3], [3, 1], [0, 0]]] to
    [[[-1, 1], [1, -1], [0, 0]]]; with position = [1] the result is [[1, -1]].

    Args:
        config: The options; events of an age above its `max_len` share the last position vector.
        is_causal: Whether a position sees only itself and those before.
        fusion: How side features enter queries and keys (NOVA): "sum", "concat" or "gating". Position vectors are then
            one more side feature, and are not added to the events. None for no side features.

    Call arguments:
        embedded: float [B, L, D], the vector of each event.
        is_real: bool [B, L], True where there is an event.
        side: A list of float [B, L, D], one for each side feature; None without a fusion.
        position: int32 [B], the one position of each row that is asked for; None for all positions.

    Returns:
        float [B, L, D]; or [B, D] where a position is given: without a fusion, the last block then computes that
        position alone.
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
            TransformerBlock(self.config, is_causal=self.is_causal, fusion=self.fusion, name=f"block_{i}", dtype=dtype)
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
        options = encoder_options(self.config)
        return {**super().get_config(), "config": options, "is_causal": self.is_causal, "fusion": self.fusion}

    @classmethod
    def from_config(cls, config):
        return cls(EncoderConfig(**config.pop("config")), **config)

"""Layers that several models share."""

from seqrec_tf.layers.attention import SelfAttention, attention_bias
from seqrec_tf.layers.dropout import Dropout
from seqrec_tf.layers.embedding import Embedding
from seqrec_tf.layers.feature_vectors import FeatureVectors, ItemFeatures
from seqrec_tf.layers.gru import GRU
from seqrec_tf.layers.norm import LayerNorm
from seqrec_tf.layers.transformer import (
    FUSIONS,
    EncoderConfig,
    Fusion,
    SequenceEncoder,
    TransformerBlock,
)
from seqrec_tf.layers.users import UserEmbedding

__all__ = [
    "FUSIONS",
    "GRU",
    "Dropout",
    "Embedding",
    "EncoderConfig",
    "FeatureVectors",
    "Fusion",
    "ItemFeatures",
    "LayerNorm",
    "SelfAttention",
    "SequenceEncoder",
    "TransformerBlock",
    "UserEmbedding",
    "attention_bias",
]

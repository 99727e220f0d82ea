"""Layers that several models share."""

from seqrec_tf.layers.embedding import Embedding
from seqrec_tf.layers.transformer import EncoderConfig, SelfAttention, SequenceEncoder, TransformerBlock, attention_bias
from seqrec_tf.layers.users import UserEmbedding

__all__ = [
    "Embedding",
    "EncoderConfig",
    "SelfAttention",
    "SequenceEncoder",
    "TransformerBlock",
    "UserEmbedding",
    "attention_bias",
]

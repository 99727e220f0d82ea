"""Layers that several models share."""

from seqrec_tf.layers.transformer import SelfAttention, SequenceEncoder, TransformerBlock, attention_bias

__all__ = ["SelfAttention", "SequenceEncoder", "TransformerBlock", "attention_bias"]

"""Layers that several models share."""

from seqrec_tf.layers.transformer import SelfAttention, TransformerBlock, attention_bias

__all__ = ["SelfAttention", "TransformerBlock", "attention_bias"]

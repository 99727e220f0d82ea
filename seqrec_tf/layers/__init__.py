"""Layers that several models share."""

from seqrec_tf.layers.transformer import EncoderConfig, SelfAttention, SequenceEncoder, TransformerBlock, attention_bias

__all__ = ["EncoderConfig", "SelfAttention", "SequenceEncoder", "TransformerBlock", "attention_bias"]

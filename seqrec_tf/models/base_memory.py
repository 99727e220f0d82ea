"""Roughly how much memory training takes, told before it starts from the sizes that a configuration declares."""

from __future__ import annotations

from seqrec_tf.config import ItemFeaturesConfig, ModelConfig, Sizes
from seqrec_tf.learning.losses import logits_at_once
from seqrec_tf.learning.objective import ObjectiveConfig
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.schema import USER_ID, Schema

# Of a number that is learned: itself, its gradient and two moments; of one for the backward pass: itself, its gradient
# and one more.
_LEARNED_BYTES, _HELD_BYTES = 16, 12
# Numbers that a block holds of each unit of the state of an event, and of each head and pair of events.
_STATES, _PAIRS = 20, 6


def training_bytes(model_class: type[SequenceModel], config: ModelConfig, schema: Schema, *, batch_size: int) -> int:
    """Bytes that training needs, roughly: tables with the optimizer's moments, and what a batch holds.

    Args:
        model_class: The model, for what it reads and in how many parts it takes a batch.
        config: Its configuration, for its `sizes`.
        schema: The dataset, for the numbers of items and users and the length of sequences.
        batch_size: Sequences a batch; 0 where nothing is learned by gradients.

    Raises:
        ValueError: The configuration does not declare its sizes.
    """
    sizes = config.sizes()
    examples = batch_size * min(sizes.num_examples, max(schema.max_len, 1)) * sizes.num_candidates
    length = min(config.max_len, schema.max_len or config.max_len)
    tokens = examples * length
    states = 4 * _STATES * tokens * sizes.dim * (1 + sizes.num_blocks)
    attention = 4 * _PAIRS * tokens * length * sizes.num_heads * sizes.num_blocks
    hidden = _HELD_BYTES * examples * sizes.hidden_dim
    scores = _HELD_BYTES * _scores(model_class, config, schema, dim=sizes.dim, tokens=tokens) if batch_size else 0
    return _tables(model_class, config, schema, sizes) + states + attention + hidden + scores


def _tables(model_class: type[SequenceModel], config: ModelConfig, schema: Schema, sizes: Sizes) -> int:
    """Bytes of what is kept of each item and each user."""
    user_dim = sizes.user_dim
    if user_dim is None:
        user_dim = sizes.dim if USER_ID in model_class.reads else 0
    total = _LEARNED_BYTES * (schema.num_items * sizes.dim + schema.num_users * user_dim)
    if not isinstance(config, ItemFeaturesConfig):
        return total
    for feature in schema.item_features:
        if feature.kind == "vector" and ("*" in config.item_features or feature.name in config.item_features):
            width = feature.shape[0] or 0
            width = width if config.item_vectors == "projected" else min(sizes.dim, width)
            of_number = _LEARNED_BYTES if config.item_vectors == "trained" else 2  # float16
            total += of_number * schema.num_items * width
    return total


def _scores(model_class: type[SequenceModel], config: ModelConfig, schema: Schema, *, dim: int, tokens: int) -> int:
    """Numbers of the logits of a batch and, where each target has negatives of its own, of their vectors."""
    if not isinstance(config, ObjectiveConfig):
        return 0
    if config.loss == "softmax":
        return logits_at_once(schema.num_items) * model_class.num_parts(config, schema)
    if config.negatives == "in-batch":
        return tokens * (config.num_negatives + tokens)
    return tokens * config.num_negatives * (1 if config.share_negatives else dim)

import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf.models import FMC
from seqrec_tf.models.fmc import FMCConfig
from seqrec_tf.schema import ITEM_IDS, Schema


def test_the_score_is_the_product_of_the_newest_event_and_the_item():
    model = FMC(FMCConfig(dim=3), Schema(num_items=5))
    left, gone_to = (np.random.default_rng(seed).normal(size=(6, 3)).astype(np.float32) for seed in (0, 1))
    model.inputs.set_weights([left])
    model.outputs.set_weights([gone_to])
    query = model.query({ITEM_IDS: tf.constant([[1, 4, 2, 0], [0, 0, 5, 3]])})
    expected = [[left[newest] @ gone_to[item] for item in range(1, 6)] for newest in (2, 3)]
    np.testing.assert_allclose(model.score_block(query, 1, 6), expected, rtol=1e-5)


def test_a_width_below_one_is_refused():
    with pytest.raises(ValueError, match=r"model\.dim must be at least 1, got 0\."):
        FMCConfig(dim=0)

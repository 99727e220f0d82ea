"""What training needs, by the sizes that configurations declare; `test_contract.py` looks at every model."""

import dataclasses

import pytest

from seqrec_tf import models
from seqrec_tf.config import ModelConfig, Sizes
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.models.base_memory import training_bytes
from seqrec_tf.schema import Feature, Schema

# For each number that is learned: itself, its gradient, and two moments.
LEARNED = 4 * 4


@dataclasses.dataclass(frozen=True)
class OwnConfig(ModelConfig):
    """Its width has a name of its own."""

    width: int = 1000


@dataclasses.dataclass(frozen=True)
class DeclaredConfig(OwnConfig):
    """As `OwnConfig`, but it says how wide it is."""

    def sizes(self):
        return Sizes(dim=self.width)


def of_tables(cls, config, schema):
    """What the items and the users of a schema need, beside what is the same for any number of them."""
    nobody = dataclasses.replace(schema, num_items=0, num_users=0)
    whole, rest = (training_bytes(cls, config, each, batch_size=1) for each in (schema, nobody))
    return whole - rest


def test_a_width_of_another_name_is_an_error_and_not_taken_for_1():
    with pytest.raises(ValueError, match=r"OwnConfig has no option `dim`.* such as `return Sizes\(dim=self\.width\)`"):
        training_bytes(SequenceModel, OwnConfig(), Schema(num_items=10), batch_size=1)


def test_a_declared_width_counts_for_every_item():
    assert of_tables(SequenceModel, DeclaredConfig(), Schema(num_items=10)) == LEARNED * 10 * 1000


@pytest.mark.parametrize(
    ("name", "options", "dim"),
    [
        ("sasrec", {"dim": 16}, 16),
        ("gru4rec", {"units": 24}, 24),
        ("gru4rec", {"units": 24, "is_tied": False, "dim": 8}, 24),
        ("neumf", {"dim": 8, "hidden_dims": (32, 16)}, 8 + 32 // 2),
        ("itemknn", {"num_neighbors": 100}, 100 * (4 + 4) // LEARNED),
        ("poprec", {}, 1),
    ],
)
def test_items_count_by_the_width_of_their_vectors(name, options, dim):
    cls = models.find(name)
    assert of_tables(cls, cls.config_class(**options), Schema(num_items=1_000)) == LEARNED * 1_000 * dim


@pytest.mark.parametrize(
    ("name", "options", "user_dim"),
    [
        ("bprmf", {"dim": 50}, 50),
        ("fpmc", {"dim": 50}, 50),
        ("fmc", {"dim": 50}, 0),
        ("caser", {"dim": 50}, 50),
        ("caser", {"dim": 50, "use_users": False}, 0),
        ("din", {"dim": 50, "user_dim": 10}, 10),
        ("din", {"dim": 50}, 0),
    ],
)
def test_users_count_where_they_have_vectors(name, options, user_dim):
    cls = models.find(name)
    found = of_tables(cls, cls.config_class(**options), Schema(num_items=10, num_users=1_000))
    assert found == LEARNED * (10 * 50 + 1_000 * user_dim)


@pytest.mark.parametrize(
    ("use", "bytes_of_item"), [("projected", 2 * 4096), ("frozen", 2 * 50), ("trained", LEARNED * 50)]
)
def test_vectors_of_items_count_as_they_are_kept(use, bytes_of_item):
    features = (Feature("image_vector", "float32", (4096,), kind="vector"),)
    schema = Schema(num_items=100_000, item_features=features)
    cls = models.SASRec
    plain, with_vectors = (
        training_bytes(cls, cls.config_class(dim=50, **options), schema, batch_size=4)
        for options in ({}, {"item_features": ("*",), "item_vectors": use})
    )
    assert with_vectors - plain == 100_000 * bytes_of_item


def test_attention_counts_by_blocks_and_heads():
    """Each pair of the 50 events, for each head of each block; states grow with the blocks alone."""
    cls, schema = models.SASRec, Schema(num_items=10, max_len=50)
    one, heads, blocks = (
        training_bytes(cls, cls.config_class(dim=8, num_heads=heads, num_blocks=blocks), schema, batch_size=1)
        for heads, blocks in ((1, 1), (3 + 1, 1), (1, 3))
    )
    pairs, states = 6 * 4 * 50 * 50, 20 * 4 * 50 * 8
    assert heads - one == 3 * pairs
    assert blocks - one == 2 * (pairs + states)


def test_examples_of_a_ranking_model_count_with_their_candidates():
    """5 targets a sequence, each with 3 negatives drawn beside it, pass a perceptron of 20 + 10 units."""
    cls, schema = models.DIN, Schema(num_items=10, max_len=30)
    options = {"dim": 4, "max_len": 20, "max_targets": 5, "num_negatives": 3}
    narrow, wide = (
        training_bytes(cls, cls.config_class(**options, hidden_dims=dims), schema, batch_size=2)
        for dims in ((20, 10), (20, 10, 7))
    )
    assert wide - narrow == 12 * 2 * 5 * (1 + 3) * 7

"""What `SequenceModel` gives to every model, on one whose scores are written in the test."""

import math

import keras
import pytest
import tensorflow as tf

from seqrec_tf import models, padding
from seqrec_tf.config import ModelConfig
from seqrec_tf.evaluate import default_protocol
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.models.base_batches import newest_position
from seqrec_tf.schema import EXCLUDED, ITEM_IDS, ITEM_IDS_FEATURE, TARGET, TIMESTAMPS_FEATURE, Schema


def scores(*rows):
    """Scores of items 1, 2, ... as a query."""
    return tf.constant([[99.0, *row] for row in rows])


def excluded(*rows):
    return tf.ragged.constant(rows, dtype=tf.int32, ragged_rank=1).to_tensor()


@keras.saving.register_keras_serializable("test_base")
class Given(SequenceModel):
    """The query is the row of scores: float32 [B, V], column 0 is padding."""

    def create_layers(self):
        pass

    def call(self, inputs, training=False):
        return tf.cast(inputs[ITEM_IDS], tf.float32)[..., None]

    def score_block(self, query, start, stop):
        return query[:, start:stop]

    def score_candidates(self, query, candidates):
        return tf.gather(query, candidates, batch_dims=1)


@pytest.mark.parametrize(
    ("cls", "options", "num_items", "parts"),
    [
        (models.SASRec, {}, 50, 3),
        (models.SASRec, {"loss": "softmax"}, 10_000, 3),
        (models.SASRec, {"loss": "softmax"}, 10_001, 1),
        (models.SASRec, {"loss": "softmax", "item_features": ("*",)}, 50, 1),
        (models.SASRec, {"loss": "softmax", "item_features": ("*",), "score_with_features": False}, 50, 3),
        (models.SASRec, {"item_features": ("*",)}, 50, 3),
        (models.SASRec, {"loss": "sampled-softmax", "share_negatives": True}, 50, 1),
        (models.SASRec, {"loss": "bpr", "negatives": "in-batch"}, 50, 1),
        (models.BST, {"num_negatives": 4}, 50, 3),
    ],
)
def test_a_batch_is_in_parts_where_these_are_independent_and_pay(monkeypatch, cls, options, num_items, parts):
    monkeypatch.setattr("seqrec_tf.models.base.parts_for_cores", lambda: 3)
    assert cls.num_parts(cls.config_class(**options), Schema(num_items)) == parts


def test_validation_is_ndcg_and_hit_rate_at_10_of_full_ranking():
    model = Given(schema=Schema(12))
    model.compile()
    # `query` is the newest item alone, which scores nothing here: the same scores are given for every row instead.
    model.query = lambda inputs: tf.repeat(scores(range(12, 0, -1)), tf.shape(inputs[ITEM_IDS])[0], axis=0)
    labels = {TARGET: tf.constant([1, 3, 12]), EXCLUDED: excluded([], [2], [])}
    logs = model.test_step(({ITEM_IDS: tf.ones([3, 1], tf.int32)}, labels))
    assert float(logs["ndcg@10"]) == pytest.approx((1 + 1 / math.log2(3) + 0) / 3)
    assert float(logs["hr@10"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("history", "position"), [([4, 5, 6], 2), ([4, 5, 0], 1), ([0, 0, 4], 2), ([4, 0, 0], 0), ([0, 0, 0], 0)]
)
def test_the_newest_position_is_that_of_the_last_real_item(history, position):
    assert newest_position(tf.constant([history])).numpy().tolist() == [position]


def test_padding_goes_to_the_right():
    ragged = tf.ragged.constant([[1, 2, 3], [4], []], dtype=tf.int64, ragged_rank=1)
    assert padding.ids(ragged).dtype == tf.int32
    assert padding.ids(ragged).numpy().tolist() == [[1, 2, 3], [4, 0, 0], [0, 0, 0]]


def test_a_model_without_a_schema_says_what_it_needs():
    with pytest.raises(TypeError, match=r"Given needs the schema of its dataset, such as Schema\(num_items=1000\)"):
        Given()


def test_a_model_is_found_by_its_name():
    assert models.find("sasrec") is models.SASRec


def test_a_model_outside_is_found_by_its_path(tmp_path, monkeypatch):
    (tmp_path / "our_shop").mkdir()
    (tmp_path / "our_shop" / "own_model.py").write_text(
        "from seqrec_tf.models import SequenceModel\n\n\nclass OwnModel(SequenceModel):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = models.find("our_shop.own_model")
    assert found.__name__ == "OwnModel"
    assert issubclass(found, SequenceModel)


def test_a_base_class_beside_a_model_outside_may_be_private(tmp_path, monkeypatch):
    (tmp_path / "own_base.py").write_text(
        "from seqrec_tf.models import SequenceModel\n\n\nclass _Base(SequenceModel):\n    pass\n\n\n"
        "class OwnModel(_Base):\n    pass\n"
    )
    (tmp_path / "other_shop").mkdir()
    (tmp_path / "own_base.py").rename(tmp_path / "other_shop" / "own.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert models.find("other_shop.own").__name__ == "OwnModel"


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(ValueError, match=r"--model must be one of .*got 'sasrek'\. Did you mean 'sasrec'\?"):
        models.find("sasrek")


def test_an_unknown_module_outside_is_named():
    with pytest.raises(ValueError, match=r"--model nowhere\.model: there is no module nowhere"):
        models.find("nowhere.model")


def test_a_module_without_a_model_is_refused():
    with pytest.raises(ValueError, match=r"seqrec_tf\.learning\.losses must define one public SequenceModel, found 0"):
        models.find("seqrec_tf.learning.losses")


def test_the_base_is_no_model():
    assert "base" not in models.names()
    with pytest.raises(ValueError, match="--model must be one of"):
        models.find("base")


def test_a_name_that_is_no_model_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'SASRek'"):
        _ = models.SASRek


def test_the_default_configuration_is_that_of_the_class():
    assert Given(schema=Schema(3)).config == ModelConfig()


def test_a_model_that_reads_of_each_event_must_give_it_to_training():
    class Timed(Given):
        reads = ("timestamps",)

    model = Timed(schema=Schema(num_items=5, features=(ITEM_IDS_FEATURE, TIMESTAMPS_FEATURE)))
    with pytest.raises(NotImplementedError, match="Timed reads timestamps of each event"):
        model.make_batch({}, (0, 0))


@pytest.mark.parametrize("name", ["din", "sasrec"])
def test_what_is_slow_to_rank_and_what_sees_liked_events_alone_are_told_apart(name):
    is_ranking = name == "din"
    assert models.find(name).scores_one_by_one == is_ranking
    assert models.find(name).history_is_liked == is_ranking


def test_a_model_that_scores_items_one_by_one_is_not_evaluated_on_all_of_them_by_default():
    """Whatever its histories hold."""

    class Slow(Given):
        scores_one_by_one = True

    class OfLiked(Given):
        history_is_liked = True

    assert default_protocol(Slow(schema=Schema(3))) == "uniform-100"
    assert default_protocol(OfLiked(schema=Schema(3))) == "full"

"""What `SequenceModel` gives to every model, on one whose scores are written in the test."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from seqrec_tf import metrics, models, ranking
from seqrec_tf.config import ModelConfig
from seqrec_tf.models.base import SequenceModel
from seqrec_tf.models.base_batches import EXCLUDED, TARGET, newest_position, pad
from seqrec_tf.schema import ITEM_IDS, ITEM_IDS_FEATURE, TIMESTAMPS_FEATURE, Schema

NAN = float("nan")

# In a graph, TensorFlow rewrites expressions in ways that are wrong for NaN.
in_both_modes = pytest.mark.parametrize("wrap", [lambda function: function, tf.function], ids=["eager", "graph"])


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


def scores(*rows):
    """Scores of items 1, 2, ... as a query."""
    return tf.constant([[99.0, *row] for row in rows])


def excluded(*rows):
    return tf.ragged.constant(rows, dtype=tf.int32, ragged_rank=1).to_tensor()


def slow_rank(row, target, out):
    """Rank of a target among the items of a query's row, ties and NaN against it."""
    if target in out:
        return metrics.IMPOSSIBLE
    rivals = [item for item in range(1, len(row)) if item != target and item not in out]
    return 1 + sum(not row[item] < row[target] for item in rivals)


def slow_recommendation(row, out, k):
    """Items by score, equal ones by id, without the excluded and those without a score."""
    items = [item for item in range(1, len(row)) if item not in out and not math.isnan(row[item])]
    return sorted(items, key=lambda item: (-row[item], item))[:k]


def rank_of(model, query, target, out):
    """Ranks among all items, int32 [B]."""
    return model.rank_and_recommend(query, target, out, k=model.num_items)[0]


def random_case(num_items):
    """Scores with many ties and a few NaN, targets and excluded items of 20 rows."""
    random = np.random.default_rng(num_items)
    query = random.integers(-2, 3, size=(20, num_items + 1)).astype(np.float32)
    query[random.random(query.shape) < 0.1] = np.nan
    target = random.integers(1, num_items + 1, size=20).astype(np.int32)
    out = random.integers(0, num_items + 1, size=(20, 4)).astype(np.int32)
    return query, target, out


@pytest.fixture(params=[2, 3, 7, 65_536])
def block(request, monkeypatch):
    """Sizes of a ranking block: several, with and without a rest, and one for all."""
    monkeypatch.setattr(ranking, "BLOCK", request.param)


@in_both_modes
def test_ranks_among_candidates_equal_a_slow_loop(wrap):
    query, target, _ = random_case(11)
    candidates = np.random.default_rng(1).integers(0, 12, size=(20, 6)).astype(np.int32)
    expected = []
    for row, own in enumerate(target):
        rivals = [item for item in candidates[row] if item not in (0, own)]
        expected.append(1 + sum(not query[row, item] < query[row, own] for item in rivals))
    rank = wrap(Given(schema=Schema(11)).rank_among)(*map(tf.constant, (query, target, candidates)))
    np.testing.assert_array_equal(rank, expected)


@pytest.mark.usefixtures("block")
@in_both_modes
def test_recommendations_equal_a_slow_sort(wrap):
    query, _, out = random_case(11)
    model = Given(schema=Schema(11))
    ids, values = wrap(lambda query, out: model.recommend(query, out, k=5))(tf.constant(query), tf.constant(out))
    for row in range(20):
        expected = slow_recommendation(query[row], out[row], 5)
        there = np.isfinite(values[row])
        assert ids.numpy()[row][there].tolist() == expected
        assert values.numpy()[row][there].tolist() == [query[row, item] for item in expected]


def test_the_rank_counts_higher_scores_of_items_that_are_not_excluded():
    twice = scores([5, 4, 3, 2, 1], [5, 4, 3, 2, 1])
    rank = rank_of(Given(schema=Schema(5)), twice, tf.constant([3, 3]), excluded([], [1]))
    assert rank.numpy().tolist() == [3, 2]


def test_a_target_that_is_excluded_ranks_behind_all_items():
    rank = rank_of(Given(schema=Schema(5)), scores([5, 4, 3, 2, 1]), tf.constant([1]), excluded([2, 1]))
    assert rank.numpy().tolist() == [metrics.IMPOSSIBLE]


def test_a_constant_score_ranks_the_target_last():
    rank = rank_of(Given(schema=Schema(5)), scores([0, 0, 0, 0, 0]), tf.constant([1]), excluded([]))
    assert rank.numpy().tolist() == [5]


def test_a_target_that_the_list_lacks_is_none_of_the_best():
    """Though all items are alike, and its own score, of another product than theirs, rounds up."""
    model = models.SASRec(models.SASRec.config_class(dim=48), Schema(200))
    model.items.embeddings.assign(np.repeat(np.random.default_rng(0).normal(size=[1, 48]), 201, axis=0))
    query = tf.constant(np.random.default_rng(1).normal(size=[500, 48]), tf.float32)
    target, nothing = tf.fill([500], 200), tf.zeros([500, 0], tf.int32)
    rank, ids, _ = model.rank_and_recommend(query, target, nothing, k=20)
    assert not (ids == 200).numpy().any()
    assert rank.numpy().min() == 21


def test_the_rank_among_candidates_leaves_out_padding_and_the_target():
    query = scores([5, 4, 3, 2, 1], [5, 4, 3, 2, 1], [1, 1, 1, 1, 1])
    candidates = tf.constant([[1, 4, 0, 5], [3, 3, 0, 0], [3, 4, 5, 0]])
    rank = Given(schema=Schema(5)).rank_among(query, tf.constant([3, 3, 1]), candidates)
    assert rank.numpy().tolist() == [2, 1, 4]


def test_equal_scores_are_recommended_by_id_across_blocks(monkeypatch):
    monkeypatch.setattr(ranking, "BLOCK", 2)
    ids, _ = Given(schema=Schema(7)).recommend(scores([1, 2, 2, 1, 2, 1, 2]), excluded([]), k=6)
    assert ids.numpy().tolist() == [[2, 3, 5, 7, 1, 4]]


def test_items_without_a_score_are_not_recommended():
    ids, values = Given(schema=Schema(4)).recommend(scores([NAN, 1, NAN, 2]), excluded([]), k=2)
    assert ids.numpy().tolist() == [[4, 2]]
    assert values.numpy().tolist() == [[2, 1]]


@pytest.mark.usefixtures("block")
def test_where_too_few_items_are_left_the_score_is_minus_infinity():
    ids, values = Given(schema=Schema(5)).recommend(scores([1, 2, 3, 4, 5]), excluded([5, 3, 2, 3]), k=4)
    assert ids.shape == [1, 4]
    assert ids.numpy()[0, :2].tolist() == [4, 1]
    assert values.numpy().tolist() == [[4, 1, -math.inf, -math.inf]]


def test_recommending_works_in_a_graph_with_unknown_shapes():
    model = Given(schema=Schema(5))

    @tf.function(input_signature=[tf.TensorSpec([None, 6]), tf.TensorSpec([None, None], tf.int32)])
    def recommend(query, out):
        return model.recommend(query, out, k=2)

    ids, values = recommend(scores([1, 2, 3, 4, 5], [5, 4, 3, 2, 1]), excluded([5], [2]))
    assert ids.numpy().tolist() == [[4, 3], [1, 3]]
    assert values.numpy().tolist() == [[4, 3], [5, 3]]


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
    assert pad(ragged).dtype == tf.int32
    assert pad(ragged).numpy().tolist() == [[1, 2, 3], [4, 0, 0], [0, 0, 0]]


@pytest.mark.usefixtures("block")
@in_both_modes
@pytest.mark.parametrize("k", [1, 3, 5, 10, 11])
def test_one_pass_ranks_and_recommends_as_two(wrap, k):
    case = random_case(11)
    expected = np.array([slow_rank(*of_row) for of_row in zip(*case, strict=True)])
    query, target, out = map(tf.constant, case)
    model = Given(schema=Schema(11))
    rank, ids, values = wrap(lambda *inputs: model.rank_and_recommend(*inputs, k=k))(query, target, out)
    is_known = (expected <= k) | (expected > 11)
    np.testing.assert_array_equal(rank.numpy()[is_known], expected[is_known])
    assert np.all(rank.numpy()[~is_known] > k)
    expected_ids, expected_values = model.recommend(query, out, k=k)
    np.testing.assert_array_equal(values, expected_values)
    np.testing.assert_array_equal(ids.numpy()[np.isfinite(values)], expected_ids.numpy()[np.isfinite(values)])


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
    with pytest.raises(ValueError, match=r"seqrec_tf\.losses must define one public SequenceModel, found 0"):
        models.find("seqrec_tf.losses")


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

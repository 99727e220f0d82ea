"""Evaluation: every figure against a slow loop, and no way for a bad model to look good."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from seqrec_tf import cli, data
from seqrec_tf.evaluate import Result, default_protocol, evaluate
from seqrec_tf.evaluation.intervals import CUTOFFS, label_metrics, list_metrics, rank_metrics
from seqrec_tf.learning import metrics
from seqrec_tf.models import DIN, PopRec, SASRec
from seqrec_tf.records import DatasetFolder


@pytest.fixture(scope="module")
def folder(chain_dataset):
    return DatasetFolder(chain_dataset)


@pytest.fixture
def run_path(finished):
    run, _ = finished
    return run.path


def test_full_ranking_equals_a_slow_loop(folder):
    """PopRec, so that the scores are known: training counts."""
    from seqrec_tf import data

    counts = folder.item_counts
    ranks = []
    model = PopRec.from_dataset(folder)
    for _, labels in data.evaluation_batches(folder, "test", model, batch_size=1, exclude_history=True):
        history, target = set(labels["excluded"].numpy()[0]), int(labels["target"].numpy()[0])
        if target in history:
            ranks.append(len(counts) + 1)
            continue
        rivals = [item for item in range(1, len(counts) + 1) if item not in history and item != target]
        ranks.append(1 + sum(counts[item - 1] >= counts[target - 1] for item in rivals))
    result = evaluate(model, folder, batch_size=64)
    for k in CUTOFFS:
        assert result.metrics[f"hr@{k}"].value == pytest.approx(np.mean([rank <= k for rank in ranks]))
        expected = np.mean([1 / np.log2(rank + 1) if rank <= k else 0 for rank in ranks])
        assert result.metrics[f"ndcg@{k}"].value == pytest.approx(expected)
        expected = np.mean([1 / rank if rank <= k else 0 for rank in ranks])
        assert result.metrics[f"mrr@{k}"].value == pytest.approx(expected)
    assert result.num_targets == 200
    assert result.num_impossible == sum(rank == len(counts) + 1 for rank in ranks)


def test_coverage_and_popularity_equal_a_slow_loop():
    lists = np.array([[1, 2] * 10, [3, 0] + [0] * 18])
    counts = np.array([0, 6, 3, 2, 1])
    metrics = list_metrics(lists, counts, np.array([b"ann", b"bob"]), rng=np.random.default_rng(0))
    assert metrics["coverage@10"].value == 3 / 4
    assert metrics["popularity@10"].value == (4.5 + 2) / 2  # padding is not an item


@pytest.fixture
def targets_of_users():
    """Ranks, and whose each is: 60 users with 1 to 20 targets, who differ in how well they are known."""
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(60), rng.integers(1, 21, 60))
    ranks = 1 + rng.poisson(rng.gamma(0.7, 12, 60)[owners])
    shuffled = rng.permutation(len(ranks))
    return ranks[shuffled], owners[shuffled]


def _resampled(figure, owners, rounds=2000):
    """The figure of the rows of as many users, drawn with replacement, again and again."""
    rng = np.random.default_rng(1)
    rows = [np.flatnonzero(owners == owner) for owner in range(owners.max() + 1)]
    return [
        figure(np.concatenate([rows[owner] for owner in rng.integers(0, len(rows), len(rows))])) for _ in range(rounds)
    ]


@pytest.mark.parametrize("one_each", [True, False])
def test_the_intervals_of_ranks_are_those_of_resampled_users(targets_of_users, one_each):
    ranks, owners = targets_of_users
    owners = np.arange(len(ranks)) if one_each else owners
    found = rank_metrics(ranks, owners, rng=np.random.default_rng(0))
    gain = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0)
    for name, gains in (("ndcg@10", gain), ("hr@20", ranks <= 20)):
        low, high = np.percentile(_resampled(lambda rows, gains=gains: gains[rows].mean(), owners), [2.5, 97.5])
        assert found[name].value == pytest.approx(gains.mean())
        assert found[name].low == pytest.approx(low, abs=0.08 * (high - low))
        assert found[name].high == pytest.approx(high, abs=0.08 * (high - low))


def test_the_intervals_of_lists_are_those_of_resampled_users(targets_of_users):
    _, owners = targets_of_users
    rng = np.random.default_rng(2)
    lists = (1 + (owners[:, None] * 3 + rng.integers(0, 30, (len(owners), 20))) % 400).astype(np.int32)
    counts = np.arange(401)
    found = list_metrics(lists, counts, owners, rng=rng)
    for name, figure in (
        ("coverage@20", lambda rows: len(np.unique(lists[rows])) / 400),
        ("popularity@10", lambda rows: counts[lists[rows, :10]].mean()),
    ):
        margin = 1.96 * np.std(_resampled(figure, owners, rounds=500))
        assert found[name].value == pytest.approx(figure(np.arange(len(lists))))
        assert found[name].high - found[name].value == pytest.approx(margin, rel=0.2)
        assert found[name].value - found[name].low == pytest.approx(margin, rel=0.2)


def test_the_intervals_of_labels_are_those_of_resampled_users(targets_of_users):
    ranks, owners = targets_of_users
    rng = np.random.default_rng(3)
    scores = rng.normal(size=len(ranks))
    labels = (scores + rng.normal(size=len(ranks)) > 1.5 * rng.normal(size=60)[owners]).astype(int)
    found = label_metrics(labels, scores, owners, are_users=True, are_logits=True, rng=rng)
    auc = _resampled(lambda rows: metrics.auc(labels[rows], scores[rows]), owners, rounds=500)
    loss = np.logaddexp(0, np.where(labels == 1, -scores, scores))
    for name, slow in (("auc", auc), ("logloss", _resampled(lambda rows: loss[rows].mean(), owners))):
        low, high = np.percentile(slow, [2.5, 97.5])
        assert found[name].high - found[name].low == pytest.approx(high - low, rel=0.2)


@pytest.fixture(scope="module")
def permuted(write_dataset, tmp_path_factory):
    """200 items, of which each user has 60 in an order of their own."""
    items = [f"{item:03d}" for item in range(200)]
    rng = np.random.default_rng(0)
    sequences = {str(user): rng.permutation(items)[:60].tolist() for user in range(20)}
    return DatasetFolder(write_dataset(tmp_path_factory.mktemp("permuted") / "dataset", sequences))


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_constant_or_nan_model_ranks_last_by_every_protocol(permuted, value):
    model = SASRec.from_dataset(permuted, dim=4)
    for weight in model.weights:
        if "seed" not in weight.path:
            weight.assign(np.full(weight.shape, value))
    hit_rates = {
        protocol: evaluate(model, permuted, protocol=protocol).metrics["hr@20"].value
        for protocol in ("full", "uniform-100", "popular-100")
    }
    assert hit_rates == {"full": 0.0, "uniform-100": 0.0, "popular-100": 0.0}


def test_sampled_items_were_never_touched_and_are_distinct(folder):
    from seqrec_tf.evaluation.negatives import NegativeSampler

    touched = np.array([1, 2, 2, 5, 0])
    for protocol in ("uniform-100", "popular-100"):
        drawn = NegativeSampler(folder, protocol)(touched, np.random.default_rng(0))
        drawn = drawn[drawn > 0]
        assert sorted(drawn) == [3, 4, *range(6, 21)]  # all that is left of 20


@pytest.mark.parametrize("protocol", ["uniform-100", "popular-100"])
def test_items_are_drawn_as_often_as_their_protocol_says(protocol):
    """As by drawing without replacement, with all items alike or by their counts."""
    from seqrec_tf.evaluation.negatives import NegativeSampler

    counts, touched = np.arange(300, 0, -1), np.array([2, 7, 0])
    weights = np.where(np.isin(np.arange(1, 301), touched), 0.0, counts if protocol == "popular-100" else 1.0)
    sampler, rng = NegativeSampler(SimpleNamespace(item_counts=counts), protocol), np.random.default_rng(0)
    rounds, drawn, expected = 2000, np.zeros(300), np.zeros(300)
    for _ in range(rounds):
        drawn[sampler(touched, rng) - 1] += 1
        expected[rng.choice(300, 100, replace=False, p=weights / weights.sum())] += 1
    np.testing.assert_allclose(drawn / rounds, expected / rounds, atol=0.08)  # five standard deviations
    assert drawn.sum() == 100 * rounds


def test_rare_items_are_drawn_where_few_have_nearly_all_events():
    """As many trials as a rare item would take are not made."""
    from seqrec_tf.evaluation.negatives import NegativeSampler

    sampler = NegativeSampler(SimpleNamespace(item_counts=[10**12] * 50 + [2] * 60 + [0] * 9), "popular-100")
    drawn = sampler(np.array([1, 51]), np.random.default_rng(0))
    assert set(range(2, 51)) < set(drawn)
    assert len(set(drawn)) == 100
    assert set(drawn) <= set(range(2, 111)) - {51}


@pytest.fixture(scope="module")
def skewed(write_dataset, tmp_path_factory):
    """400 items, few of which most users choose."""
    rng = np.random.default_rng(0)
    items = np.array([f"{item:03d}" for item in range(400)])
    weights = 1 / np.arange(1, 401)
    sequences = {
        f"{user:03d}": rng.choice(items, 8 + user % 7, replace=False, p=weights / weights.sum()).tolist()
        for user in range(150)
    }
    return DatasetFolder(write_dataset(tmp_path_factory.mktemp("skewed") / "dataset", sequences))


@pytest.mark.parametrize("protocol", ["uniform-100", "popular-100"])
def test_a_seed_draws_the_same_items_for_every_model(skewed, monkeypatch, protocol):
    """Whatever its history's length or the size of a batch; so that two models differ by themselves alone."""
    from seqrec_tf.evaluation.negatives import NegativeSampler

    draw, drawn = NegativeSampler.__call__, []

    def noted(self, touched, rng):
        drawn.append((tuple(touched[touched > 0]), tuple(draw(self, touched, rng))))
        return np.array(drawn[-1][1])

    monkeypatch.setattr(NegativeSampler, "__call__", noted)

    def all_drawn(max_len=50, **options):
        drawn.clear()
        evaluate(PopRec.from_dataset(skewed, max_len=max_len), skewed, protocol=protocol, **options)
        return sorted(drawn)

    first = all_drawn(seed=3)
    assert len(first) == 150
    assert first == all_drawn(seed=3)
    assert first == all_drawn(seed=3, max_len=3, batch_size=7)
    assert first != all_drawn(seed=4)


def test_items_drawn_by_popularity_are_harder_to_beat(skewed):
    """For popularity itself, as for a slow loop with other draws."""
    counts, rng = np.array([0, *skewed.item_counts]), np.random.default_rng(1)
    model, found = PopRec.from_dataset(skewed), {}
    for protocol, weights in (("uniform-100", np.sign(counts + 1.0)), ("popular-100", counts.astype(float))):
        hits = []
        for _, labels in data.evaluation_batches(skewed, "test", model, batch_size=1, exclude_history=True):
            left = weights.copy()
            left[0] = left[labels["touched"].numpy()[0]] = 0
            negatives = rng.choice(len(left), 100, replace=False, p=left / left.sum())
            hits.append(np.sum(counts[negatives] >= counts[labels["target"].numpy()[0]]) < 10)
        found[protocol] = evaluate(model, skewed, protocol=protocol).metrics["hr@10"].value
        assert found[protocol] == pytest.approx(np.mean(hits), abs=0.05)
    assert found["uniform-100"] > found["popular-100"] + 0.1


def test_the_table_shows_popularity_beside_the_model(run_path, capsys):
    assert cli.main(["evaluate", "--run", str(run_path), "--protocol", "full", "uniform-100"]) == 0
    table = capsys.readouterr().out
    assert "sasrec" in table
    assert "poprec" in table
    assert "test, uniform-100, 200 events to predict" in table
    assert table.count("200 targets are ranked against fewer than 100 items") == 1
    assert "repeat an item of their history" in table


def test_json_on_stdout_is_all_there_is(run_path, capsys):
    assert cli.main(["evaluate", "--run", str(run_path), "--json", "-", "--split", "valid"]) == 0
    figures = json.loads(capsys.readouterr().out)
    sasrec, poprec = (figures["protocols"]["full"][name]["metrics"]["ndcg@10"] for name in ("sasrec", "poprec"))
    assert sasrec["low"] <= sasrec["value"] <= sasrec["high"]
    assert sasrec["low"] > poprec["high"]


def test_a_file_that_cannot_be_written_is_refused_before_the_work(run_path, tmp_path, capsys):
    assert cli.main(["evaluate", "--run", str(run_path), "--json", str(tmp_path / "nowhere" / "f.json")]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert "there is no folder" in answer.err


def test_keeping_the_history_makes_repeats_possible(folder, run_path):
    from seqrec_tf.run_folder import RunFolder

    model = RunFolder(run_path).load_model()
    kept = evaluate(model, folder, exclude_history=False)
    assert kept.num_impossible == 0
    assert evaluate(model, folder).num_impossible > 0


def test_a_run_that_does_not_exist_is_an_input_error(tmp_path, capsys):
    assert cli.main(["evaluate", "--run", str(tmp_path / "nowhere")]) == 2
    assert "is not a run folder" in capsys.readouterr().err


def test_label_metrics_equal_slow_loops():
    labels = np.array([1, 0, 1, 0, 1, 1, 0])
    scores = np.array([2.0, 1.0, -1.0, 0.5, 0.3, -0.2, 0.0])
    users = np.array([b"a", b"a", b"b", b"b", b"c", b"c", b"a"])  # c has one kind of label
    found = label_metrics(labels, scores, users, are_users=True, are_logits=True, rng=np.random.default_rng(0))
    probability = 1 / (1 + np.exp(-scores))
    given = np.where(labels == 1, probability, 1 - probability)
    assert found["auc"].value == pytest.approx(metrics.auc(labels, scores))
    assert found["gauc"].value == pytest.approx((3 * 1.0 + 2 * 0.0) / 5)
    assert found["logloss"].value == pytest.approx(-np.log(given).mean())
    assert found["calibration"].value == pytest.approx(probability.mean() / labels.mean())
    assert all(figure.low <= figure.value <= figure.high for figure in found.values())


def test_labels_without_users_have_no_gauc_but_an_interval():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    sessions = np.arange(200) // 2
    scores = labels + rng.normal(size=200)
    found = label_metrics(labels, scores, sessions, are_users=False, are_logits=False, rng=rng)
    assert set(found) == {"auc"}
    assert found["auc"].low < found["auc"].value - 0.02 < found["auc"].value + 0.02 < found["auc"].high


def test_a_score_that_is_no_number_makes_no_auc():
    """Not one without the users for whom the model failed."""
    labels, scores, users = np.array([1, 0, 1, 0]), np.array([2.0, 1.0, np.nan, 0.0]), np.array([0, 0, 1, 1])
    rng = np.random.default_rng(0)
    found = label_metrics(labels, scores, users, are_users=True, are_logits=False, rng=rng)
    assert np.isnan(found["auc"].value)
    assert np.isnan(found["gauc"].value)
    figures = Result(4, 0, found).to_dict()
    assert figures["metrics"]["gauc"] == {"value": None, "low": None, "high": None}
    json.dumps(figures, allow_nan=False)


def test_scores_that_are_no_logits_have_no_log_loss():
    labels, users = np.array([1, 0]), np.array([b"a", b"a"])
    rng = np.random.default_rng(0)
    found = label_metrics(labels, np.array([2.0, 1.0]), users, are_users=True, are_logits=False, rng=rng)
    assert set(found) == {"auc", "gauc"}


def test_what_cannot_be_evaluated_fails_before_the_first_protocol(run_path, capsys):
    assert cli.main(["evaluate", "--run", str(run_path), "--protocol", "full", "labels"]) == 2
    assert capsys.readouterr().out == ""
    assert cli.main(["evaluate", "--run", str(run_path), "--batch-size", "0"]) == 2
    assert "--batch-size must be at least 1, got 0" in capsys.readouterr().err


def test_what_was_not_liked_is_no_target(write_dataset, tmp_path):
    sequences = {"ann": "aabax", "bob": "aabab", "eve": "aabbx"}
    folder = DatasetFolder(write_dataset(tmp_path / "shop", sequences, label_of=lambda item: int(item != "x")))
    disliked = DatasetFolder(write_dataset(tmp_path / "other", sequences, label_of=lambda item: 0))
    model = PopRec.from_dataset(folder)
    for protocol, is_first in (("full", False), ("uniform-100", True)):  # b, behind a but before x
        found = evaluate(model, folder, protocol=protocol, exclude_history=False)
        assert found.num_targets == 1
        assert found.metrics["hr@1"].value == is_first
        with pytest.raises(ValueError, match=r"No event of the split test of .* has the label 1"):
            evaluate(model, disliked, protocol=protocol)
    model.compile()
    logs = model.evaluate(data.load(folder, model, "test", exclude_history=False), verbose=0, return_dict=True)
    assert logs["ndcg@10"] == pytest.approx(1 / np.log2(3))


def test_models_that_score_one_by_one_are_not_ranked_among_all_items_unasked(write_dataset, tmp_path):
    folder = DatasetFolder(write_dataset(tmp_path / "shop", {"ann": "abab", "bob": "babc"}, label_of=lambda item: 1))
    assert default_protocol(PopRec.from_dataset(folder)) == "full"
    assert default_protocol(DIN.from_dataset(folder)) == "labels"
    assert default_protocol(DIN.from_dataset(folder, num_negatives=2)) == "uniform-100"


def test_labels_are_needed_for_their_protocol(folder):
    with pytest.raises(ValueError, match=r"--protocol labels needs labels, and .* has none"):
        evaluate(PopRec.from_dataset(folder), folder, protocol="labels")

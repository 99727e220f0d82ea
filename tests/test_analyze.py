import collections
import json
import random

import numpy as np
import pytest

from seqrec_tf import analyze, cli, models
from seqrec_tf.records import DatasetFolder


def slow_frequent(sequences, length, min_support):
    count = collections.Counter()
    for items in sequences:
        count.update({tuple(items[place : place + length]) for place in range(len(items) - length + 1)})
    return {run for run, number in count.items() if number >= min_support}


def flat(sequences):
    rows = [row for row, items in enumerate(sequences) for _ in items]
    return np.array(rows), np.array([item for items in sequences for item in items])


@pytest.mark.parametrize("num_items", [6, 3_000_000])
def test_frequent_neighbours_are_those_of_a_slow_count(num_items):
    """Each sequence counts once; with many items codes of triples would not fit, without those that are rare."""
    rng = random.Random(0)
    names = rng.sample(range(1, num_items + 1), 6)
    sequences = [[rng.choice(names) for _ in range(rng.randrange(0, 9))] for _ in range(60)]
    sequences += [[names[0], names[1], names[2]] * 3] * 5
    figures = analyze.neighbours(*flat(sequences), shuffles=2, min_support=5, seed=0)
    for name, length in (("pairs", 2), ("triples", 3)):
        assert figures[name]["frequent"] == len(slow_frequent(sequences, length, 5)) > 0


def test_order_that_is_none_survives_shuffling_and_a_circle_does_not():
    rng = random.Random(0)
    circle = [[(start + place) % 50 + 1 for place in range(10)] for start in range(50) for _ in range(4)]
    shuffled = [rng.sample(range(1, 5), 4) for _ in range(400)]
    of_circle, of_shuffled = (
        analyze.neighbours(*flat(sequences), shuffles=3, min_support=5, seed=0)["pairs"]
        for sequences in (circle, shuffled)
    )
    assert (of_circle["frequent"], of_shuffled["frequent"]) == (50, 12)
    assert of_circle["surviving"] < 0.5
    assert of_shuffled["surviving"] == 1.0
    assert of_shuffled["frequent_shuffled"] == 12.0


def test_a_dataset_without_frequent_pairs_has_no_share_of_survivors():
    figures = analyze.neighbours(*flat([[1, 2], [2, 3]]), shuffles=1, min_support=5, seed=0)
    assert figures["pairs"] == {"frequent": 0, "frequent_shuffled": 0.0, "surviving": None}


def test_sizes_and_popularity_are_those_of_the_training_events(write_dataset, tmp_path):
    folder = DatasetFolder(write_dataset(tmp_path / "shop", {"u": "aabxy", "v": "aacyx"}, cold_items=["z"]))
    figures = analyze.describe(folder, *folder.training_events())
    assert figures["sizes"] == {"sequences": 2, "items": 6, "events": 6, "density": 4 / 12}  # a twice is one pair
    counts = [4, 1, 1, 0, 0, 0]
    differences = sum(abs(one - other) for one in counts for other in counts)
    assert figures["popularity"]["gini"] == pytest.approx(differences / (2 * 6 * sum(counts)))
    assert figures["popularity"]["share_of_top_10%"] == pytest.approx(4 / 6)
    assert figures["audits"]["items_without_training_events"] == 3
    assert figures["audits"]["targets_before_training_ends"] is None


@pytest.fixture
def run(finished):
    run, _ = finished
    return run


def test_a_sequential_model_loses_on_shuffled_histories_and_popularity_does_not(run, chain_dataset):
    folder = DatasetFolder(chain_dataset)
    options = {"split": "test", "exclude_history": False, "shuffles": 3, "seed": 0}
    sequential = analyze.shuffled_histories(run.load_model(), folder, **options)
    popular = analyze.shuffled_histories(models.PopRec.from_dataset(folder, max_len=12), folder, **options)
    assert sequential["targets"] == 200
    assert sequential["ndcg@10"]["relative_change"] < -0.1
    assert sequential["jaccard@10"] < 0.9
    assert popular["ndcg@10"]["relative_change"] == pytest.approx(0.0, abs=1e-6)
    assert popular["jaccard@10"] == 1.0


def test_liked_events_are_shuffled_among_themselves(tmp_path):
    """To a model that only counts what was liked, order is nothing."""
    rng = random.Random(0)
    lines = [f"u{user},i{rng.randrange(9)},{time},{rng.randrange(2)}" for user in range(40) for time in range(9)]
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp,label\n" + "".join(f"{line}\n" for line in lines))
    dataset = str(tmp_path / "dataset")
    arguments = ["--label-column", "label", "--duplicates", "keep", "--output", dataset]
    assert cli.main(["prepare", "--input", str(tmp_path / "events.csv"), *arguments]) == 0
    model = models.DIN.from_dataset(dataset, dim=4, max_len=9, hidden_dims=[4])
    for weight in model.trainable_variables:
        weight.assign(np.random.default_rng(1).normal(size=weight.shape))
    figures = analyze.shuffled_histories(
        model, DatasetFolder(dataset), split="test", exclude_history=False, shuffles=2, seed=0
    )
    assert figures["ndcg@10"]["relative_change"] == pytest.approx(0.0, abs=1e-6)
    assert figures["jaccard@10"] == 1.0
    assert figures["targets"] == sum(line.endswith(",8,1") for line in lines)  # what was not liked is no target


def test_an_empty_split_and_a_missing_folder_are_told_before_the_work(run, chain_dataset, tmp_path, capsys):
    assert cli.main(["analyze", "--dataset", chain_dataset, "--json", str(tmp_path / "nowhere" / "a.json")]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert "there is no folder" in answer.err
    assert cli.main(["analyze", "--dataset", chain_dataset, "--json", str(tmp_path)]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    assert "this is a folder; name a file" in answer.err


def test_the_command_shows_its_figures_and_writes_them(run, chain_dataset, tmp_path, capsys):
    file = tmp_path / "analysis.json"
    arguments = ["--dataset", chain_dataset, "--run", str(run.path), "--shuffles", "1", "--json", str(file)]
    assert cli.main(["analyze", *arguments]) == 0
    out = capsys.readouterr().out
    figures = json.loads(file.read_text())
    assert f"{figures['order']['pairs']['frequent']:,} frequent pairs" in out
    assert f"{figures['order']['model']['ndcg@10']['shuffled']:.4f} with shuffled histories" in out
    assert cli.main(["analyze", "--dataset", chain_dataset, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["sizes"] == figures["sizes"]


def test_the_share_of_targets_that_training_could_not_know(tmp_path):
    """One user's test event lies before the training events of another, as in every leave-one-out split."""
    events = tmp_path / "events.csv"
    lines = ["u,a,1", "u,b,2", "u,c,3", "u,a,4", "v,a,5", "v,b,6", "v,c,7", "v,b,8"]
    events.write_text("user_id,item_id,timestamp\n" + "".join(f"{line}\n" for line in lines))
    dataset = str(tmp_path / "dataset")
    assert cli.main(["prepare", "--input", str(events), "--time-format", "s", "--output", dataset]) == 0
    folder = DatasetFolder(dataset)
    audits = analyze.describe(folder, *folder.training_events())["audits"]
    assert audits["targets_before_training_ends"] == {"valid": 0.5, "test": 0.5}

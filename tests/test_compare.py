"""Two runs on the same events, and the runs of a folder."""

import json

import numpy as np
import pytest
from small_runs import trained

from seqrec_tf import cli, compare, runs
from seqrec_tf.evaluate import evaluate
from seqrec_tf.evaluation.paired import paired_differences
from seqrec_tf.evaluation.targets import Targets, _by_length, _by_pause, _by_popularity, histories, segments
from seqrec_tf.models import PopRec
from seqrec_tf.records import DatasetFolder
from seqrec_tf.run_folder import RunFolder


@pytest.fixture(scope="module")
def two_runs(finished, chain_dataset, tmp_path_factory):
    """A SASRec of six epochs, and popularity, on the same dataset."""
    popularity = trained(DatasetFolder(chain_dataset), tmp_path_factory.mktemp("popularity"), "poprec")
    return finished[0], popularity


def test_paired_differences_equal_a_slow_bootstrap():
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(40), rng.integers(1, 6, 40))
    differences = rng.normal(0.1, 1.0, (len(owner), 2)) + rng.normal(0, 1, 40)[owner][:, None]
    group = rng.random(len(owner)) < 0.5
    found = paired_differences(differences, owner, [np.ones(len(owner), bool), group], rng=np.random.default_rng(1))
    for has, intervals in zip([np.ones(len(owner), bool), group], found, strict=True):
        rows = [np.flatnonzero((owner == number) & has) for number in range(40)]
        means = [
            differences[np.concatenate([rows[number] for number in rng.integers(0, 40, 40)])].mean(axis=0)
            for _ in range(2000)
        ]
        low, high = np.percentile(means, [2.5, 97.5], axis=0)
        for figure, interval in enumerate(intervals):
            assert interval.value == pytest.approx(differences[has, figure].mean())
            assert interval.low == pytest.approx(low[figure], abs=0.06)
            assert interval.high == pytest.approx(high[figure], abs=0.06)


def test_a_model_does_not_differ_from_itself(finished, chain_dataset):
    run, _ = finished
    comparison = compare.compare(run, RunFolder(run.path), DatasetFolder(chain_dataset))
    assert comparison.common == 1.0
    assert comparison.cases == []
    assert comparison.options == {}
    assert all(part.difference.value == 0 and not part.is_clear for part in comparison.overall.values())


def test_a_comparison_holds_the_figures_of_evaluate(two_runs, chain_dataset):
    first, second = two_runs
    folder = DatasetFolder(chain_dataset)
    comparison = compare.compare(first, second, folder)
    model = first.load_model()
    model.freeze_item_table()
    alone = evaluate(model, folder).metrics
    popular = evaluate(PopRec.from_dataset(folder), folder).metrics
    for name, part in comparison.overall.items():
        assert part.first == pytest.approx(alone[name].value)
        assert part.second == pytest.approx(popular[name].value)
        assert part.difference.value == pytest.approx(part.second - part.first)
    assert comparison.overall["ndcg@10"].is_clear
    for parts in comparison.segments.values():
        assert sum(part.targets for part in parts.values()) == 200
    best_of_first = [case for case in comparison.cases if case["first"] < case["second"]]
    assert best_of_first[-1]["first"] == 1


def test_compare_shows_both_runs_and_where_they_differ(two_runs, capsys, tmp_path):
    first, second = two_runs
    file = tmp_path / "figures.json"
    assert cli.main(["compare", str(first.path), str(second.path), "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "ndcg@10 by events before" in shown
    assert "ranks that differ most" in shown
    assert json.loads(file.read_text())["overall"]["hr@10"]["targets"] == 200


def test_runs_on_other_data_are_refused(finished, tiny_dataset, tmp_path, capsys):
    other = trained(DatasetFolder(tiny_dataset), tmp_path, "poprec")
    assert cli.main(["compare", str(finished[0].path), str(other.path)]) == 2
    assert "were trained on different data" in capsys.readouterr().err


def test_segments_by_length_pause_and_popularity():
    groups = _by_length(np.array([0, 1, 4, 5, 199, 200, 1000]))
    assert {name: list(np.flatnonzero(has)) for name, has in groups.items() if has.any()} == {
        "0": [0],
        "1 to 4": [1, 2],
        "5 to 9": [3],
        "100 to 199": [4],
        "200 or more": [5, 6],
    }
    pauses = _by_pause(np.array([0.0, 59, 60, 86_400, 40 * 86_400]))
    assert {name: list(np.flatnonzero(has)) for name, has in pauses.items() if has.any()} == {
        "less than a minute": [0, 1],
        "less than an hour": [2],
        "less than a week": [3],
        "30 days or more": [4],
    }
    counts = np.array([0, 30, 20, 20, 10, 10, 0])  # 90 events: the first item makes a third of them
    found = _by_popularity(np.array([1, 2, 3, 4, 5, 6]), counts)
    assert [next(name for name, has in found.items() if has[row]) for row in range(6)] == [
        "head",
        "middle",
        "middle",
        "tail",
        "tail",
        "not in training",
    ]


def test_users_without_training_events_are_new(tmp_path, capsys):
    """Of four users, each with two events a day, the last begins after training has ended."""
    days = {"ann": 1, "bob": 1, "eve": 1, "zoe": 3}
    rows = [
        f"{user},{item},{86_400 * (day + more) + 60}" for user, day in days.items() for more in (0, 2) for item in "ab"
    ]
    events = tmp_path / "events.csv"
    events.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
    output = tmp_path / "dataset"
    options = ["--split", "time", "--test-from", str(3 * 86_400)]
    assert cli.main(["prepare", "--input", str(events), "--output", str(output), *options]) == 0, capsys.readouterr()
    folder = DatasetFolder(output)
    result = evaluate(PopRec.from_dataset(folder), folder, exclude_history=False)
    found = {(segment.by, segment.name): int(segment.has.sum()) for segment in segments(folder, "test", result.targets)}
    new = [row for row, place in enumerate(result.targets.place) if not histories(folder, "test", place[None])[0].size]
    assert found["user", "new"] == len(result.targets) - found["user", "in training"] >= len(new)


def test_targets_lie_in_the_order_of_the_split():
    place = np.array([[1, 4], [0, 2], [1, 3]])
    rows = np.arange(3)
    targets = Targets(place=place, owner=rows, item=rows, rank=rows + 1, lists=rows[:, None])
    assert targets.place.tolist() == [[0, 2], [1, 3], [1, 4]]
    assert targets.rank.tolist() == [2, 3, 1]


def test_runs_lists_the_best_first_with_the_options_that_differ(tmp_path, capsys):
    for name, dim, figure in (("narrow", 8, 0.1), ("wide", 64, 0.3), ("stopped", 8, 0.2)):
        path = tmp_path / "runs" / name
        path.mkdir(parents=True)
        (path / "config.toml").write_text(f'model_name = "sasrec"\n[model]\ndim = {dim}\n[train]\nseed = 1\n')
        (path / "dataset.json").write_text(json.dumps({"path": "data/shop", "fingerprint": "f"}))
        (path / "log.csv").write_text(f"epoch,loss,val_ndcg@10,seconds\n1,0.5,{figure},30\n2,0.4,0.05,30\n")
        if name != "stopped":
            best = {"epoch": 1, "loss": 0.5, "val_ndcg@10": figure}
            metrics = {"best": best, "epochs": 2, "parameters": 1000, "seconds": 60.0, "training_seconds": 50.0}
            (path / "metrics.json").write_text(json.dumps(metrics))
            (path / "COMPLETED").touch()
    assert cli.main(["runs", str(tmp_path / "runs")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["run", "ndcg@10", "epoch", "min", "parameters", "dim"]
    assert lines[1].split() == ["wide", "0.3000", "1/2", "1.0", "1,000", "64"]
    assert lines[2].split() == ["stopped", "(unfinished)", "0.2000", "1/2", "1.0", "-", "8"]
    assert lines[3].split()[0] == "narrow"
    assert cli.main(["runs", str(tmp_path / "runs"), "--sort", "hr@99"]) == 2
    assert "--sort must be one of loss, ndcg@10" in capsys.readouterr().err
    assert cli.main(["runs", str(tmp_path / "runs" / "wide"), "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["options"]["model.dim"] == 64


def test_options_that_one_model_alone_has_are_no_difference():
    assert runs.differing_options([{"model": "a", "dim": 8}, {"model": "b", "dim": 8, "units": 4}]) == ["model"]


def test_a_folder_without_runs_is_said(tmp_path, capsys):
    assert cli.main(["runs", str(tmp_path)]) == 2
    assert "holds no runs" in capsys.readouterr().err

"""The search for a configuration: what a space means, and that the best trial is the one that is kept."""

import hashlib
import json

import pytest

from seqrec_tf import cli
from seqrec_tf.tune import Range, Search, read_space

optuna = pytest.importorskip("optuna", reason="pip install 'seqrec_tf[tune]' for the tests of the search")

DIMS, RATES = (8, 16, 32), (0.001, 0.01)


def figure_of(options):
    """The validation figure of made-up trials: the width matters, the rate a little."""
    return options["model.dim"] / 100 + options["train.learning_rate"]


def write_trial(search, options):
    """The run folder that the training of these options would leave."""
    name = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:12]
    run = search / "trials" / name
    run.mkdir(parents=True)
    (run / "config.toml").write_text(f'model_name = "sasrec"\n[model]\ndim = {options["model.dim"]}\n')
    (run / "metrics.json").write_text("{}")
    (run / "log.csv").write_text(f"epoch,loss,val_hr@10,val_ndcg@10\n1,0.5,0.9,0.0\n2,0.4,0.9,{figure_of(options)}\n")


@pytest.fixture
def searched(tmp_path):
    """A search of twelve trials whose trainings are there already."""
    for dim in DIMS:
        for rate in RATES:
            write_trial(tmp_path / "search", {"model.dim": dim, "train.learning_rate": rate})
    space = {"model.dim": Range(choices=DIMS), "train.learning_rate": Range(choices=RATES)}
    search = Search(tmp_path / "search", space, ["--dataset", "shop", "--model", "sasrec"], [])
    search.run(12)
    return search


def test_the_best_configuration_is_that_of_the_best_trial(searched):
    best = searched.finish()
    tried = searched.trials()
    assert best == tried[0]
    assert best.figure == max(figure_of(trial.options) for trial in tried)
    assert f"dim = {best.options['model.dim']}" in (searched.path / "best.toml").read_text()
    assert next(iter(searched.importances())) == "model.dim"
    assert '"kind":"search"' in (searched.path / "report.html").read_text()


def test_a_search_goes_on_where_it_was_stopped(searched):
    again = Search(searched.path, searched._space, searched._words, [])
    said = []
    again.run(12, log=said.append)
    assert said == []
    again.run(13, log=said.append)
    assert said[0] == "Going on after 12 of 13 trials."
    assert len(said) == 2


def test_a_trial_of_a_killed_search_is_done_again(searched):
    trial = searched._study.ask()
    killed = {name: found.draw(trial, name) for name, found in searched._space.items()}
    again = Search(searched.path, searched._space, searched._words, [])
    again.run(13)
    newest = again._study.get_trials()[-1]
    assert newest.state == optuna.trial.TrialState.COMPLETE
    assert {name: json.loads(value) for name, value in newest.params.items()} == killed


def test_another_search_in_the_same_folder_is_refused(searched):
    with pytest.raises(ValueError, match="is of a search that differs in space"):
        Search(searched.path, {"model.dim": Range(low=1, high=2)}, searched._words, [])


def test_a_space_of_each_kind(tmp_path):
    file = tmp_path / "space.toml"
    file.write_text(
        '"model.dim" = [32, 64]\n"model.dropout_rate" = {low = 0.0, high = 0.5}\n'
        "[train]\nlearning_rate = {low = 1e-4, high = 1e-2, log = true}\n"
    )
    assert read_space(str(file)) == {
        "model.dim": Range(choices=(32, 64)),
        "model.dropout_rate": Range(low=0.0, high=0.5),
        "train.learning_rate": Range(low=1e-4, high=1e-2, log=True),
    }
    trial = optuna.create_study().ask()
    assert isinstance(Range(low=1, high=3).draw(trial, "integer"), int)
    assert 1e-4 <= Range(low=1e-4, high=1e-2, log=True).draw(trial, "number") <= 1e-2
    assert Range(choices=(["price"], [])).draw(trial, "lists") in (["price"], [])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('"model.dim" = 3\n', "model.dim must be a list of choices"),
        ('"model.dim" = {low = 3, high = 1}\n', "model.dim must have low <= high"),
        ('"model.dim" = {low = 0, high = 1, log = true}\n', "low > 0 where log is true"),
        ("", "names no option"),
        ("model.dim = \n", "is not valid TOML"),
    ],
)
def test_a_wrong_space_is_said(tmp_path, capsys, text, sentence):
    (tmp_path / "space.toml").write_text(text)
    words = ["--dataset", "shop", "--model", "sasrec", "--space", str(tmp_path / "space.toml")]
    assert cli.main(["tune", *words, "--output", str(tmp_path / "search")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "search").exists()


@pytest.mark.slow
def test_a_search_trains_and_its_best_configuration_trains_again(chain_dataset, tmp_path, capsys):
    (tmp_path / "space.toml").write_text('"model.dim" = [8, 16]\n"train.learning_rate" = {low = 1e-3, high = 1e-2}\n')
    words = ["--dataset", chain_dataset, "--model", "sasrec", "--space", tmp_path / "space.toml", "--trials", 3]
    words += ["--output", tmp_path / "search", "--jobs", 2, "--set", "train.epochs=2", "model.max_len=12"]
    assert cli.main(["tune", *map(str, words)]) == 0
    assert "next: seqrec train" in capsys.readouterr().out
    best = str(tmp_path / "search" / "best.toml")
    words = ["--dataset", chain_dataset, "--model", "sasrec", "--config", best, "--output", str(tmp_path / "run")]
    assert cli.main(["train", *words]) == 0

"""`seqrec recommend` against a real server."""

import json

import pytest
import tensorflow as tf
from small_folders import seal

from seqrec_tf import cli, records
from seqrec_tf import schema as schema_lib
from seqrec_tf.schema import Feature, Schema


def run(*arguments):
    return cli.main(["recommend", *arguments])


def test_the_command_prints_a_table_and_what_was_unknown(url, capsys):
    assert run("--url", url, "--model", "shop", "--history", "apple, caviar", "--item", "salt, sea", "--k", "2") == 0
    output = capsys.readouterr()
    assert output.out.splitlines() == [
        "rank  item     score",
        "   1  bread   0.5000",
        "   2  cheese  0.3333",
        f"next: seqrec recommend --url {url} --model shop --history 'apple, caviar' --item 'salt, sea' "
        "--dataset DATASET",
    ]
    assert output.err == "2 of 3 history items are unknown to the model and were ignored\n"


def test_one_unknown_item_is_reported_in_the_singular(url, capsys):
    assert run("--url", url, "--model", "shop", "--history", "apple,bread,caviar") == 0
    assert capsys.readouterr().err == "1 of 3 history items is unknown to the model and was ignored\n"


def test_the_command_prints_json_on_request(url, capsys):
    assert run("--url", url, "--model", "shop", "--item", "apple", "--k", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"items": ["bread"], "scores": [0.5], "num_unknown": 0}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--model", "shop"], 2, "There is no history"),
        (["--model", "shop", "--history", "apple", "--k", "9"], 2, "export the model with a larger k"),
        (["--model", "shop", "--history", "apple", "--candidates", "bread", "--k", "0"], 2, "--k must be at least 1"),
        (["--model", "none", "--history", "apple"], 1, "Servable not found"),
        (["--model", "shop", "--user", "ann"], 2, "Model `shop` does not take `user_id`: leave out"),
        (["--model", "shop", "--history", "apple", "--timeout", "-1"], 2, "--timeout must be more than 0 seconds"),
        (["--model", "shop", "--history", "apple", "--json", "--dataset", "d"], 2, "leave one out"),
        (["--model", "shop", "--history", "apple", "--dataset", "no/folder"], 2, "is not a dataset folder"),
    ],
)
def test_a_failing_command_says_why_in_one_line(url, capsys, arguments, status, message):
    assert run("--url", url, *arguments) == status
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.fixture
def dataset(tmp_path):
    """A dataset folder with the names of two items."""
    features = (
        Feature("item_id", "string", ()),
        Feature("title", "string", ()),
        Feature("tags", "string", (None,)),
        Feature("price", "float32", ()),
    )
    (tmp_path / schema_lib.SCHEMA_FILE).write_text(Schema(num_items=2, item_features=features).to_json())
    (tmp_path / schema_lib.ITEMS_FOLDER).mkdir()
    path = tmp_path / schema_lib.ITEMS_FOLDER / records.shard_name(0, 1)
    with tf.io.TFRecordWriter(str(path), records.COMPRESSION) as writer:
        for item, title in (("bread", "Brown bread"), ("dates", "Dried dates")):
            values = {"item_id": item, "title": title, "tags": ["food", "new"], "price": 1.0}
            writer.write(records.encode_example(values, features))
    seal(tmp_path)
    return str(tmp_path)


def test_names_come_from_the_dataset(url, dataset, capsys):
    assert run("--url", url, "--model", "shop", "--history", "apple", "--dataset", dataset) == 0
    assert capsys.readouterr().out.splitlines() == [
        "rank  item     score  name",
        "   1  bread   0.5000  Brown bread",
        "   2  cheese  0.3333",
        "   3  dates   0.2500  Dried dates",
        f"next: seqrec recommend --url {url} --model shop --history apple --json",
    ]


def test_a_dataset_without_items_gives_the_answer_without_names(url, tiny_dataset, capsys):
    assert run("--url", url, "--model", "shop", "--history", "apple", "--dataset", tiny_dataset) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["1", "bread", "0.5000"]


@pytest.mark.parametrize("feature", ["nome", "price", "tags"])
def test_a_name_feature_that_is_not_one_string_is_refused(url, dataset, capsys, feature):
    arguments = ["--model", "shop", "--history", "apple", "--dataset", dataset, "--name-feature", feature]
    assert run("--url", url, *arguments) == 2
    assert "there are: item_id, title" in capsys.readouterr().err

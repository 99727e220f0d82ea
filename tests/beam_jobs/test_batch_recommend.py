import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from seqrec_tf import cli, records
from serving.client import Client


@pytest.fixture(scope="module")
def models(finished, tmp_path_factory):
    """The run of the chain, exported."""
    folder = tmp_path_factory.mktemp("batch") / "models"
    run, _ = finished
    assert cli.main(["export", "--run", str(run.path), "--output", str(folder / "shop"), "--k", "5"]) == 0
    return folder


def batch_recommend(models, dataset, output, *more):
    words = ["--model", str(models / "shop"), "--dataset", dataset, "--output", str(output), *more]
    return cli.main(["batch-recommend", *words])


def test_everyone_gets_what_rest_answers_after_all_events(models, chain_dataset, tmp_path):
    from serving.model_store import ModelStore
    from serving.server import running

    assert batch_recommend(models, chain_dataset, tmp_path / "lists.jsonl") == 0
    rows = [json.loads(line) for line in (tmp_path / "lists.jsonl").read_text().splitlines()]
    folder = records.DatasetFolder(chain_dataset)
    histories = {
        user.decode(): [folder.item_ids[item - 1] for item in items]
        for batch in records.read_split(folder, "test")
        for user, items in zip(batch["user_id"].numpy(), batch["item_ids"].to_list(), strict=True)
    }
    assert [row["user_id"] for row in rows] == sorted(histories)

    store = ModelStore(models, report=lambda line: None)
    store.poll()
    with running(store) as server:
        asked = Client(f"http://127.0.0.1:{server.port}").recommend(
            "shop", [histories[user] for user in sorted(histories)]
        )
    for row, answer in zip(rows, asked, strict=True):
        assert row["items"] == answer.items
        np.testing.assert_allclose(row["scores"], answer.scores, rtol=1e-5, atol=1e-6)
        assert row["num_unknown"] == 0


def test_every_kind_of_file_holds_the_same_rows(models, chain_dataset, tmp_path):
    from beam_jobs.recommend_users import OUTPUT, encoded

    rows = [
        {"user_id": "ann", "items": ["a", "b"], "scores": [0.5, 0.25], "num_unknown": 1},
        {"user_id": "bob", "items": [], "scores": [], "num_unknown": 0},
    ]
    for suffix in (".parquet", ".jsonl", ".tfrecord.gz"):
        (tmp_path / f"rows{suffix}").write_bytes(b"".join(encoded(rows, suffix)))
    assert pq.read_table(tmp_path / "rows.parquet").to_pylist() == rows
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows
    (batch,) = records.read_files([str(tmp_path / "rows.tfrecord.gz")], OUTPUT, len(rows))
    assert batch["user_id"].numpy().tolist() == [b"ann", b"bob"]
    assert batch["items"].to_list() == [[b"a", b"b"], []]
    assert batch["scores"].to_list() == [[0.5, 0.25], []]
    assert tf.reduce_all(batch["num_unknown"] == [1, 0])


def test_what_is_wrong_with_the_arguments_is_one_sentence(models, chain_dataset, tmp_path, capsys):
    (tmp_path / "there.jsonl").touch()
    for output, sentence in (
        ("lists.csv", "--output must end in one of .parquet, .jsonl, .tfrecord.gz"),
        ("there.jsonl", "exists: replace it with --overwrite"),
    ):
        assert batch_recommend(models, chain_dataset, tmp_path / output) == 2
        assert sentence in capsys.readouterr().err

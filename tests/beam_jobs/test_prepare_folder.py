"""The dataset folder: what `seqrec prepare` writes, when the folder gets its name and what it may replace."""

import filecmp
import os
import random
from typing import ClassVar

import pytest
from apache_beam.io.filesystem import FileMetadata, MatchResult
from apache_beam.io.localfilesystem import LocalFileSystem
from small_logs import THREE_USERS, log

from beam_jobs import prepare_sequences
from seqrec_tf import records
from seqrec_tf.records import DatasetFolder
from seqrec_tf.writing import LOCK_FILE, only_writer


def test_a_small_log_becomes_the_dataset_that_the_schema_describes(prepare):
    outcome = prepare(THREE_USERS)
    assert outcome.status == 0
    folder = outcome.folder
    # a occurs 3 times in training (u, v, w), b once (u), c never.
    assert folder.item_ids == ["a", "b", "c"]
    assert folder.item_counts == [3, 1, 0]
    # v and w have one training event each, which has nothing to predict it from.
    assert outcome.histories("train") == {"u": (["a"], ["b"])}
    assert outcome.stats["training_sequences_of_one_event"] == 2
    assert outcome.histories("valid") == {"u": (["a", "b"], ["c"]), "v": (["a"], ["c"])}
    assert outcome.histories("test") == {"u": (["a", "b", "c"], ["a"]), "v": (["a", "c"], ["b"])}
    assert [row["timestamps"] for row in outcome.records("test")] == [[1, 2, 3, 4], [1, 2, 3]]
    assert folder.schema.time_unit == "order"
    assert folder.schema.max_len == 4
    assert folder.schema.num_users == 1  # only u has a training record
    assert [feature.name for feature in folder.schema.features] == ["item_ids", "target_start", "timestamps", "user_id"]
    stats = outcome.stats
    assert stats["steps"] == [{"step": "parsed", "users": 3, "items": 3, "events": 8}]
    assert stats["repeats"] == {
        "repeated_events": 1,
        "consecutive_repeats": 0,
        "targets_repeating_history": {"valid": 0, "test": 1},
    }
    assert stats["splits"]["train"] | {"length": None} == {
        "sequences": 1,
        "events": 2,
        "targets": 1,
        "dropped_sequences": 0,
        "dropped_targets": 0,
        "length": None,
    }
    assert stats["items"]["without_training_events"] == 1
    assert "Inferred time format order (as in '1')" in outcome.err
    assert f"seqrec train --dataset {outcome.output}" in outcome.out


def test_the_same_input_gives_the_same_bytes(prepare):
    generator = random.Random(0)
    text = log(
        *(f"u{generator.randrange(40)} i{generator.randrange(30)} {generator.randrange(50)}" for _ in range(600))
    )
    first = prepare(text, "--num-shards", "3", output="first")
    second = prepare(text, "--num-shards", "3", output="second")
    names = sorted(str(path.relative_to(first.output)) for path in first.output.rglob("*") if path.is_file())
    assert f"train/{records.shard_name(2, 3)}" in names
    assert filecmp.cmpfiles(first.output, second.output, names, shallow=False) == (names, [], [])
    assert first.folder.fingerprint == second.folder.fingerprint


def test_an_existing_folder_is_replaced_only_when_asked_and_only_by_a_whole_one(prepare):
    first = prepare(THREE_USERS)
    fingerprint = first.folder.fingerprint
    refused = prepare(THREE_USERS)
    assert refused.status == 2
    assert "--overwrite" in refused.err
    assert prepare(log("u a 1", "u a soon"), "--time-format", "s", "--overwrite").status == 1
    assert first.folder.fingerprint == fingerprint
    assert prepare(log("u a 1", "u b 2", "u b 3", "u b 4"), "--overwrite").status == 0
    assert first.folder.item_ids == ["a", "b"]
    assert not [path.name for path in first.output.parent.iterdir() if "dataset." in path.name]  # no dataset.rejected


def test_nothing_but_a_dataset_folder_is_replaced(prepare, tmp_path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "photo.jpg").write_bytes(b"dear")
    outcome = prepare(THREE_USERS, "--overwrite")
    assert outcome.status == 2
    assert "holds photo.jpg, which is not of a dataset folder" in outcome.err
    assert (tmp_path / "dataset" / "photo.jpg").read_bytes() == b"dear"
    assert prepare(THREE_USERS, output="old").status == 0
    (tmp_path / "old" / "train" / "mended.csv").write_text(THREE_USERS)
    outcome = prepare([], f"--input {tmp_path}/old/train/mended.csv --overwrite", output="old")
    assert outcome.status == 2
    assert "mended.csv is input, and in the --output that would be replaced" in outcome.err


@pytest.mark.parametrize("options", ["", "--overwrite"])
def test_what_has_come_meanwhile_is_not_replaced(prepare, tmp_path, monkeypatch, options):
    run_pipeline = prepare_sequences.run_pipeline

    def run_beside_another(*args):
        run_pipeline(*args)
        (tmp_path / "dataset").mkdir()
        (tmp_path / "dataset" / "photo.jpg").write_bytes(b"dear")

    monkeypatch.setattr(prepare_sequences, "run_pipeline", run_beside_another)
    outcome = prepare(THREE_USERS, options)
    assert outcome.status == 2
    assert (tmp_path / "dataset" / "photo.jpg").read_bytes() == b"dear"
    (beside,) = tmp_path.glob("dataset-*")
    assert f"The new dataset is {beside}." in outcome.err
    assert DatasetFolder(beside).item_ids == ["a", "b", "c"]


def test_two_jobs_do_not_write_one_folder(prepare, tmp_path):
    with only_writer(tmp_path / f".dataset{LOCK_FILE}", "it"):
        outcome = prepare(THREE_USERS)
        assert outcome.status == 2
        assert f"{tmp_path}/dataset is being written by another process (process {os.getpid()} of" in outcome.err
    assert not list(tmp_path.glob("*dataset*"))


def test_what_killed_jobs_have_left_is_removed_and_what_they_were_replacing_comes_back(prepare, tmp_path):
    before = prepare(THREE_USERS).output.rename(tmp_path / "dataset.replaced-1234")  # killed between two renames
    (tmp_path / "dataset.partial-5678" / "train").mkdir(parents=True)
    (tmp_path / f".dataset{LOCK_FILE}").touch()
    outcome = prepare(THREE_USERS)
    assert outcome.status == 2
    assert f"{tmp_path}/dataset is there again" in outcome.err
    assert outcome.folder.item_ids == ["a", "b", "c"]
    assert not before.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "events-0.csv"]


class BucketFileSystem(LocalFileSystem):
    """Local files under another scheme: what the job does with them it does through Beam's file systems."""

    named: ClassVar[list[str]] = []

    @classmethod
    def scheme(cls):
        return "bucket"

    def match(self, patterns, limits=None):
        results = super().match([pattern.removeprefix("bucket://") for pattern in patterns], limits)
        return [
            MatchResult(
                f"bucket://{result.pattern}",
                [
                    FileMetadata(f"bucket://{file.path}", file.size_in_bytes)
                    for file in result.metadata_list
                    if os.path.isfile(file.path)
                ],
            )
            for result in results
        ]

    def create(self, path, *args, **kwargs):
        return super().create(path.removeprefix("bucket://"), *args, **kwargs)

    def open(self, path, *args, **kwargs):
        return super().open(path.removeprefix("bucket://"), *args, **kwargs)

    def rename(self, sources, destinations):
        self.named.extend(destinations)
        super().rename(*([path.removeprefix("bucket://") for path in paths] for paths in (sources, destinations)))

    def delete(self, paths):
        for path in paths:
            os.remove(path.removeprefix("bucket://"))


def test_a_remote_folder_is_complete_when_its_last_file_says_so(prepare, tmp_path):
    (tmp_path / "some.csv").write_text(THREE_USERS)
    (tmp_path / "more.csv").write_text(log("z a 1"))
    options = [f"--input bucket://{tmp_path}/*.csv --output bucket://{tmp_path}/remote"]
    outcome = prepare([], *options)
    assert outcome.status == 0, outcome.err
    assert BucketFileSystem.named[-1].endswith("/remote/COMPLETED")
    assert DatasetFolder(tmp_path / "remote").stats["steps"] == [
        {"step": "parsed", "users": 4, "items": 3, "events": 9}
    ]
    assert prepare([], *options).status == 2
    (tmp_path / "remote" / "train" / "stale").touch()
    assert prepare([], *options, "--overwrite").status == 0
    assert not (tmp_path / "remote" / "train" / "stale").exists()

"""Runs of the job on files that a test writes, and what came of them."""

import dataclasses
import gzip
import json
import os
import pathlib
import shlex

import pytest

from seqrec_tf import cli
from seqrec_tf.records import DatasetFolder, parsing_spec

pytest.register_assert_rewrite("both_ways")


@dataclasses.dataclass
class Outcome:
    """One run of `seqrec prepare`."""

    status: int
    output: pathlib.Path
    out: str
    err: str

    @property
    def folder(self) -> DatasetFolder:
        return DatasetFolder(self.output)

    @property
    def stats(self) -> dict:
        return self.folder.stats

    def records(self, split: str) -> list[dict]:
        """The records of a split by user (and session), item ids as the strings that came in."""
        import tensorflow as tf

        folder = self.folder
        rows = []
        for file in folder.split_files(split):
            for example in tf.data.TFRecordDataset(file, compression_type="GZIP"):
                row = {}
                for name, value in tf.io.parse_single_example(
                    example, parsing_spec(folder.schema.record_features)
                ).items():
                    value = value.numpy()
                    row[name] = value.decode() if isinstance(value, bytes) else value.tolist()
                row["items"] = [folder.item_ids[number - 1] for number in row.pop("item_ids")]
                rows.append(row)
        return sorted(rows, key=lambda row: (row.get("user_id", ""), row.get("session_id", ""), row["items"]))

    def item_rows(self) -> list[tuple]:
        """The records of the items in the order of their ids, each as the values of its features."""
        import tensorflow as tf

        features = self.folder.schema.item_features
        rows = []
        for file in self.folder.item_files():
            for example in tf.data.TFRecordDataset(file, compression_type="GZIP"):
                parsed = tf.io.parse_single_example(example, parsing_spec(features))
                values = (parsed[feature.name].numpy() for feature in features)
                rows.append(tuple(value.decode() if isinstance(value, bytes) else value.tolist() for value in values))
        return rows

    def histories(self, split: str) -> dict[str, tuple[list[str], list[str]]]:
        """User to (items before the first target, targets)."""
        return {
            row["user_id"]: (row["items"][: row["target_start"]], row["items"][row["target_start"] :])
            for row in self.records(split)
        }

    def rejected(self, folder: pathlib.Path | None = None) -> list[dict]:
        """All rejected lines by file and line."""
        rows = [
            json.loads(line)
            for path in (folder or self.output / "rejected").glob("part-*.jsonl")
            for line in path.read_text().splitlines()
        ]
        return sorted(rows, key=lambda row: (row["file"], row["line"] or 0))

    def steps(self) -> list[tuple[str, int, int, int]]:
        return [tuple(step.values()) for step in self.stats["steps"]]


@pytest.fixture
def prepare(tmp_path, capfd):
    """`prepare("a,b\\n...", "--option value", ...)`: write the text (or each of several) to a file and prepare it."""

    def run(texts, *options: str, suffix: str = ".csv", output: str = "dataset") -> Outcome:
        paths = []
        for number, text in enumerate([texts] if isinstance(texts, (str, bytes)) else texts):
            path = tmp_path / f"events-{number}{suffix}"
            data = text.encode() if isinstance(text, str) else text
            path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
            paths.append(str(path))
        given = ["--input", *paths] if paths else []
        capfd.readouterr()
        status = cli.main(["prepare", *given, "--output", str(tmp_path / output), *shlex.split(" ".join(options))])
        captured = capfd.readouterr()
        return Outcome(status, tmp_path / output, captured.out, captured.err)

    return run


@pytest.fixture
def data_dir() -> pathlib.Path:
    """The folder of the public data sets."""
    default = pathlib.Path(__file__).parents[2] / ".." / "shared" / "data"
    folder = pathlib.Path(os.environ.get("SEQREC_DATA_DIR", default))
    if not folder.is_dir():
        pytest.skip(f"the public data sets are not in {folder}; set SEQREC_DATA_DIR")
    return folder


@pytest.fixture
def models_dir(data_dir) -> pathlib.Path:
    """The folder of pretrained encoders, beside that of the data sets."""
    pytest.importorskip("tensorflow_text")
    folder = data_dir.parent / "models"
    if not folder.is_dir():
        pytest.skip(f"there are no pretrained encoders in {folder}")
    return folder

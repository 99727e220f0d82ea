import shlex

import pytest

from seqrec_tf import messages
from seqrec_tf.records import DatasetFolder
from seqrec_tf.run_folder import RunFolder


def touch(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def test_folders_are_told_by_their_files(tmp_path):
    models = tmp_path / "models"
    touch(tmp_path / "shop" / "schema.json", tmp_path / "run" / "config.toml", models / "shop" / "3" / "saved_model.pb")
    (tmp_path / "empty").mkdir()
    expected = {
        "shop": messages.DATASET,
        "run": messages.RUN,
        "models": messages.MODELS,
        "models/shop": messages.MODEL,
        "models/shop/3": messages.VERSION,
        "run/config.toml": "a file",
        "empty": "a folder",
        "none": "",
    }
    assert {name: messages.kind_of(tmp_path / name) for name in expected} == expected


@pytest.mark.parametrize(
    ("name", "found"),
    [("run", "it is a run folder"), ("none", "there is no such folder"), ("empty", "it has no COMPLETED file")],
)
def test_what_is_no_dataset_is_said_to_be_what_it_is(tmp_path, name, found):
    touch(tmp_path / "run" / "config.toml", tmp_path / "run" / "COMPLETED")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=f"{name} is not a dataset folder: {found}. Make it with"):
        DatasetFolder(tmp_path / name)


def test_a_dataset_where_a_run_is_expected_is_said_to_be_one(tiny_dataset):
    with pytest.raises(FileNotFoundError, match=r"is not a run folder: it is a dataset folder\. Make it with"):
        RunFolder(tiny_dataset)


def test_the_next_command_is_quoted_for_the_shell():
    line = messages.next_command("evaluate", "--run", "my runs/it's")
    assert shlex.split(line) == ["next:", "seqrec", "evaluate", "--run", "my runs/it's"]


def test_broken_json_names_the_file_and_the_line():
    with pytest.raises(ValueError, match=r"stats\.json, line 2, column 1: not valid JSON"):
        messages.parse_json('{"a":\n', "stats.json")

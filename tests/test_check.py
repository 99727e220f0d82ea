"""`seqrec check`: 0 where a folder is whole, 3 where it is not, 2 where it is no folder of ours."""

import re
import shutil

import pytest
from test_manifest import SHARD, cut, flip

from seqrec_tf import cli, export


@pytest.fixture(scope="module")
def models(finished, tmp_path_factory):
    """A model of two versions."""
    path = tmp_path_factory.mktemp("models") / "shop"
    for _ in range(2):
        export.export(finished[0], path, k=3)
    return path


def test_whole_folders_are_whole(chain_dataset, finished, models, capsys):
    for path, words in (
        (chain_dataset, r"dataset, \d files, 0\.\d MB, 600 records: whole"),
        (finished[0].path, r"run, 5 files, 0\.\d MB: whole"),
        (models / "2", r"model, \d+ files, \d\.\d MB: whole"),
    ):
        assert cli.main(["check", str(path)]) == 0
        assert re.fullmatch(rf"{re.escape(str(path))}: {words}\n", capsys.readouterr().out)


def test_a_model_is_checked_in_all_its_versions(models, tmp_path, capsys):
    copy = shutil.copytree(models, tmp_path / "shop")
    flip(copy / "2" / "saved_model.pb")
    assert cli.main(["check", str(copy)]) == 3
    first, second, file = capsys.readouterr().out.splitlines()
    assert first.endswith(": whole")
    assert second.endswith(": 1 damaged")
    assert file.startswith(f"  {copy}/2/saved_model.pb is not what was written: its checksum is ")
    assert file.endswith("Copy the folder again, or make it anew with `seqrec export`.")


def test_each_damaged_file_has_a_line(chain_dataset, tmp_path, capsys):
    copy = shutil.copytree(chain_dataset, tmp_path / "copy")
    flip(copy / SHARD)
    cut(copy / "stats.json")
    (copy / "vocabularies" / "item_id.txt").unlink()
    assert cli.main(["check", str(copy)]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(": 3 damaged")
    assert [line.split()[0] for line in lines[1:]] == [
        f"{copy}/{name}" for name in ("stats.json", SHARD, "vocabularies/item_id.txt")
    ]


def test_a_damaged_manifest_is_damage(chain_dataset, tmp_path, capsys):
    copy = shutil.copytree(chain_dataset, tmp_path / "copy")
    flip(copy / "COMPLETED")
    assert cli.main(["check", str(copy)]) == 3
    assert f"{copy}/COMPLETED is not what was written" in capsys.readouterr().out


def test_what_is_no_damage_is_said(chain_dataset, finished, tmp_path, capsys):
    copy = shutil.copytree(chain_dataset, tmp_path / "copy")
    (copy / "train" / "part-00001-of-00001.tfrecord.gz").touch()
    assert cli.main(["check", str(copy)]) == 0
    assert "part-00001-of-00001.tfrecord.gz is not of this dataset, and nothing reads it." in capsys.readouterr().out


def test_what_is_no_folder_of_ours_or_not_finished_is_wrong_input(finished, tmp_path, capsys):
    run = shutil.copytree(finished[0].path, tmp_path / "run")
    (run / "COMPLETED").unlink()
    for path in (run, tmp_path, tmp_path / "nowhere"):
        assert cli.main(["check", str(path)]) == 2
        assert "it has no COMPLETED file" in capsys.readouterr().err

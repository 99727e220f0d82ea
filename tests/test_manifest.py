"""What was cut, changed, replaced or lost is noticed, and the file is named."""

import dataclasses
import pathlib
import re
import shutil

import pytest
import tensorflow as tf
from small_runs import make_config

from seqrec_tf import data, manifest, models, records
from seqrec_tf.manifest import File
from seqrec_tf.records import DatasetFolder

SHARD = f"train/{records.shard_name(0, 1)}"


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut(file):
    file.write_bytes(file.read_bytes()[:-1])


def empty(file):
    file.write_bytes(b"")


def lengthen(file):
    file.write_bytes(file.read_bytes() + b"\n")


def halve_records(file):
    kept = list(tf.data.TFRecordDataset(str(file), records.COMPRESSION).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(file), records.COMPRESSION) as writer:
        for record in kept[: len(kept) // 2]:
            writer.write(record)


@pytest.fixture
def copy(tiny_dataset, tmp_path):
    """A copy of the tiny dataset, for a test to damage."""
    return shutil.copytree(tiny_dataset, tmp_path / "copy")


@pytest.fixture
def copy_of_chain(chain_dataset, tmp_path):
    return shutil.copytree(chain_dataset, tmp_path / "chain")


def test_a_checksum_is_that_of_the_castagnoli_polynomial():
    assert manifest.of_bytes(b"123456789") == File(9, "e3069283")  # the check value of CRC-32C


def test_the_manifest_of_a_dataset_names_each_of_its_files(chain_dataset):
    path, own = pathlib.Path(chain_dataset), manifest.read(chain_dataset, "dataset")
    there = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert {*own.files, "COMPLETED"} == there
    for name, file in own.files.items():
        content = (path / name).read_bytes()
        number = sum(1 for _ in tf.data.TFRecordDataset(str(path / name), "GZIP")) if name.endswith(".gz") else None
        assert file == dataclasses.replace(manifest.of_bytes(content), records=number)


def test_sealed_text_is_what_was_sealed_or_an_error():
    values = {"kind": "dataset", "files": {"é": {"bytes": 3}}}
    content = manifest.seal(values).encode()
    unsealed = manifest.unseal(content, "shop/COMPLETED", "dataset")
    assert {key: unsealed[key] for key in values} == values
    for place in range(len(content) - len('"\n}\n')):
        changed = bytearray(content)
        changed[place] ^= 1
        for damaged in (bytes(changed), content[:place]):
            with pytest.raises(
                ValueError, match=r"shop/COMPLETED is (empty|not what was written): .* `seqrec prepare`"
            ):
                manifest.unseal(damaged, "shop/COMPLETED", "dataset")


@pytest.mark.parametrize("name", [SHARD, "schema.json", "stats.json", "vocabularies/item_id.txt"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "has [0-9,]+ bytes where [0-9,]+ were written: it was cut short or replaced."),
        (lengthen, "has [0-9,]+ bytes where [0-9,]+ were written: it was replaced."),
        (empty, "has 0 bytes where [0-9,]+ were written: it is empty."),
        (pathlib.Path.unlink, "is missing: the folder was not copied as a whole, or the file was removed."),
    ],
)
def test_a_damaged_file_is_named_when_the_folder_is_opened(copy, name, damage, words):
    damage(copy / name)
    error = FileNotFoundError if damage is pathlib.Path.unlink else ValueError
    expected = rf"^{re.escape(str(copy / name))} {words} Copy the folder again, or make it anew with `seqrec prepare`.$"
    with pytest.raises(error, match=expected):
        DatasetFolder(copy)


@pytest.mark.parametrize("name", ["stats.json", "vocabularies/item_id.txt"])
def test_a_small_file_of_another_dataset_is_refused_even_if_it_has_the_same_size(copy, name):
    flip(copy / name)
    with pytest.raises(ValueError, match=rf"{name} is not what was written: its checksum is [0-9a-f]{{8}} where"):
        DatasetFolder(copy)


def test_a_folder_that_is_missing_its_manifest_or_has_one_of_another_kind_is_refused(copy, finished):
    run, _ = finished
    with pytest.raises(FileNotFoundError, match="is not a dataset folder: it is a run folder"):
        DatasetFolder(run.path)
    empty(copy / "COMPLETED")
    with pytest.raises(ValueError, match="COMPLETED is empty"):
        DatasetFolder(copy)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_changed_bit_in_a_shard_is_named_where_reading_fails(copy_of_chain, split):
    flip(copy_of_chain / split / records.shard_name(0, 1))
    folder = DatasetFolder(copy_of_chain)  # its size is right
    with (
        pytest.raises(ValueError, match=rf"{split}/part-.* is not what was written: its checksum is .* was changed"),
        folder.manifest.explaining(),
    ):
        list(records.read_split(folder, split))


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_records_that_are_gone_since_the_folder_was_opened_are_noticed_at_the_end_of_a_pass(copy_of_chain, split):
    folder = DatasetFolder(copy_of_chain)
    model = models.find("sasrec")(make_config().model, folder.schema)
    halve_records(copy_of_chain / split / records.shard_name(0, 1))
    one_epoch = {"epochs": range(1)} if split == "train" else {}
    for make in (
        lambda: records.read_split(folder, split),
        lambda: data.load(folder, model, split, batch_size=32, **one_epoch),
    ):
        cut_short = pytest.raises(ValueError, match=rf"{split}/part-.* bytes where .*: it was cut short")
        with cut_short, folder.manifest.explaining():
            list(make())


def test_an_error_that_has_nothing_to_do_with_files_stays_as_it_is(copy):
    own = DatasetFolder(copy).manifest
    for error in (KeyError("loss"), RuntimeError("no memory")):
        with pytest.raises(type(error)) as caught, own.explaining():
            raise error
        assert caught.value is error

import itertools
import json
import re

import numpy as np
import pytest
import tensorflow as tf
from small_folders import seal

from seqrec_tf import records
from seqrec_tf import schema as schema_lib
from seqrec_tf.records import DatasetFolder, encode_example, parsing_spec
from seqrec_tf.schema import Feature, Schema

SHAPES = {"scalar": (), "vector": (3,), "events": (None,)}
FEATURES = tuple(
    Feature(f"{dtype}_{name}", dtype, shape)
    for dtype, (name, shape) in itertools.product(schema_lib.DTYPES, SHAPES.items())
)
IDS = Feature("ids", "int64", (None,))


def random_value(random, feature):
    """A value of a feature, lists of Python values; an event feature has 0 to 4 of them."""
    size = random.integers(0, 5) if feature.shape == (None,) else (feature.shape or (1,))[0]
    if feature.dtype == "int64":
        values = random.integers(-(2**63), 2**63 - 1, size=size).tolist()
    elif feature.dtype == "float32":
        values = random.normal(size=size).astype(np.float32).tolist()
    else:
        values = ["".join(chr(code) for code in random.integers(32, 0x3000, size=n)) for n in range(size)]
    return values[0] if feature.shape == () else values


def as_python(value):
    """A parsed tensor, one record, as lists of Python values."""
    return [element.decode() if isinstance(element, bytes) else element for element in np.ravel(value).tolist()]


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_parsing_undoes_encoding(feature):
    random = np.random.default_rng(1)
    values = [random_value(random, feature) for _ in range(20)]
    serialized = [encode_example({feature.name: value}, [feature]) for value in values]
    parsed = tf.io.parse_example(serialized, parsing_spec([feature]))[feature.name]
    assert parsed.dtype == tf.as_dtype(feature.dtype)
    expected = [value if isinstance(value, list) else [value] for value in values]
    assert [as_python(parsed[row]) for row in range(20)] == expected


def test_a_record_of_all_dtypes_and_shapes_is_parsed_whole():
    random = np.random.default_rng(2)
    values = {feature.name: random_value(random, feature) for feature in FEATURES}
    parsed = tf.io.parse_example([encode_example(values, FEATURES)], parsing_spec(FEATURES))
    for name, value in values.items():
        assert as_python(parsed[name][0]) == (value if isinstance(value, list) else [value])


def test_scalars_are_parsed_to_rank_1_vectors_to_rank_2_events_to_ragged():
    features = [Feature("age", "int64", ()), Feature("image", "float32", (2,)), IDS]
    rows = [{"age": 7, "image": [0.5, 1.0], "ids": [1, 2, 3]}, {"age": 8, "image": [1.5, 2.0], "ids": []}]
    parsed = tf.io.parse_example([encode_example(row, features) for row in rows], parsing_spec(features))
    assert parsed["age"].numpy().tolist() == [7, 8]
    assert parsed["image"].numpy().tolist() == [[0.5, 1.0], [1.5, 2.0]]
    assert isinstance(parsed["ids"], tf.RaggedTensor)
    assert parsed["ids"].to_list() == [[1, 2, 3], []]


def test_arrays_and_lists_give_the_same_bytes():
    values = [3, 1, 2]
    assert encode_example({"ids": np.array(values)}, [IDS]) == encode_example({"ids": values}, [IDS])


def test_bytes_and_text_give_the_same_bytes():
    feature = Feature("user", "string", ())
    assert encode_example({"user": "Zoë"}, [feature]) == encode_example({"user": "Zoë".encode()}, [feature])


def test_the_same_values_give_the_same_bytes_in_any_order():
    values = {feature.name: random_value(np.random.default_rng(3), feature) for feature in FEATURES}
    shuffled = dict(reversed(values.items()))
    assert encode_example(values, FEATURES) == encode_example(shuffled, reversed(FEATURES))


def test_a_missing_feature_is_named():
    with pytest.raises(ValueError, match="lacks feature `ids`"):
        encode_example({}, [IDS])


def test_an_undeclared_feature_is_named():
    with pytest.raises(ValueError, match=r"features \['price'\] that its schema does not declare"):
        encode_example({"ids": [1], "price": 2.0}, [IDS])


def test_a_vector_of_the_wrong_length_is_named_with_both_lengths():
    with pytest.raises(ValueError, match="Feature `image` must have 3 values, got 2"):
        encode_example({"image": [0.5, 1.0]}, [Feature("image", "float32", (3,))])


@pytest.mark.parametrize(
    ("dtype", "shape", "value"),
    [
        ("int64", (None,), ["1"]),
        ("int64", (None,), [1.5]),
        ("int64", (None,), 1),
        ("int64", (None,), None),
        ("int64", (None,), [2**63]),
        ("int64", (), [1, 2]),
        ("int64", (), None),
        ("int64", (2,), 1),
        ("float32", (), "1.5"),
        ("float32", (2,), [[1.0], [2.0]]),
        ("string", (), 1),
        ("string", (None,), [None]),
        ("string", (None,), "abc"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(dtype, shape, value):
    with pytest.raises(ValueError, match=f"Feature `wrong` must h(old {dtype}|ave {shape and shape[0]} values)"):
        encode_example({"wrong": value}, [Feature("wrong", dtype, shape)])


def test_shards_sort_by_their_number():
    names = [records.shard_name(index, 12) for index in range(12)]
    assert names[0] == "part-00000-of-00012.tfrecord.gz"
    assert names == sorted(names)


@pytest.fixture
def folder(tmp_path):
    """A finished dataset folder with two items, a training split of two shards and nothing else."""
    (tmp_path / "vocabularies").mkdir()
    (tmp_path / "train").mkdir()
    (tmp_path / schema_lib.SCHEMA_FILE).write_text(Schema(num_items=2).to_json())
    (tmp_path / schema_lib.STATS_FILE).write_text(json.dumps({"fingerprint": "abc"}))
    (tmp_path / schema_lib.ITEM_VOCABULARY_FILE).write_bytes("red shoe \nçédille\u2028\n".encode())
    (tmp_path / schema_lib.ITEM_COUNTS_FILE).write_text("3\n1\n")
    for index in (1, 0):
        with tf.io.TFRecordWriter(
            str(tmp_path / "train" / records.shard_name(index, 2)), records.COMPRESSION
        ) as writer:
            writer.write(encode_example({"item_ids": [1, 2], "target_start": 1}, Schema(num_items=2).features))
    seal(tmp_path)
    (tmp_path / "train" / "notes.txt").touch()
    return tmp_path


def test_a_folder_gives_what_it_holds(folder):
    dataset = DatasetFolder(folder)
    assert dataset.schema == Schema(num_items=2)
    assert dataset.num_items == 2
    assert dataset.fingerprint == "abc"
    assert dataset.item_ids == ["red shoe ", "çédille\u2028"]
    assert dataset.item_counts == [3, 1]


def test_a_folder_of_the_version_before_is_named_and_refused(folder):
    file = folder / schema_lib.SCHEMA_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 1}))
    seal(folder)
    with pytest.raises(ValueError, match=f"The schema {file} must have version 2, got 1. Prepare the dataset again"):
        _ = DatasetFolder(folder).schema


def test_a_folder_lists_the_shards_of_a_split_in_order(folder):
    names = [records.shard_name(index, 2) for index in range(2)]
    assert DatasetFolder(folder).split_files("train") == [f"{folder}/train/{name}" for name in names]


def test_an_empty_split_has_no_files(folder):
    assert DatasetFolder(folder).split_files("valid") == []
    assert DatasetFolder(folder).item_files() == []


def test_an_unknown_split_is_refused(folder):
    with pytest.raises(ValueError, match="must be one of train, valid, test, got 'dev'"):
        DatasetFolder(folder).split_files("dev")


def test_the_shards_hold_the_records(folder):
    dataset = DatasetFolder(folder)
    files = tf.data.TFRecordDataset(dataset.split_files("train"), compression_type=records.COMPRESSION)
    parsed = tf.io.parse_example(list(files), parsing_spec(dataset.schema.features))
    assert parsed["item_ids"].to_list() == [[1, 2], [1, 2]]
    assert parsed["target_start"].numpy().tolist() == [1, 1]


def test_a_folder_may_be_given_with_a_slash_at_its_end(folder):
    assert DatasetFolder(f"{folder}/").path == str(folder)


def test_a_folder_that_is_not_finished_is_refused_with_advice(folder):
    (folder / schema_lib.COMPLETED_FILE).unlink()
    message = f"{folder} is not finished: it has no COMPLETED file. Make it with `seqrec prepare"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        DatasetFolder(folder)


def test_a_folder_of_something_else_is_refused_with_advice(tmp_path):
    message = f"{tmp_path} is not a dataset folder: it has no COMPLETED file. Make it with `seqrec prepare"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        DatasetFolder(tmp_path)


def test_a_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a dataset folder"):
        DatasetFolder(tmp_path / "nowhere")


def test_features_of_items_come_as_arrays_by_id(write_dataset, tmp_path):
    features = {
        Feature("price", "float32", (), kind="number"): lambda item: float("nan") if item == "c" else ord(item) - 96.0,
        Feature("brand", "int64", (), kind="category", num_values=5): lambda item: {"a": 2, "b": 3}.get(item, 0),
        Feature("tags", "int64", (None,), kind="categories", num_values=5, max_length=2): lambda item: {
            "a": [2, 3, 4],
            "b": [4],
        }.get(item, []),
        Feature("title", "string", (), kind="text"): lambda item: f"the {item}",
        Feature("image", "float32", (2,), kind="vector"): lambda item: [ord(item) - 96.0, 0.5],
    }
    folder = DatasetFolder(write_dataset(tmp_path / "shop", {"u": "abcab", "v": "abab"}, features))
    assert folder.item_ids == ["a", "b", "c"]
    values = folder.item_values(["price", "brand", "tags", "image"])
    np.testing.assert_array_equal(values["price"], np.array([np.nan, 1, 2, np.nan], np.float32))
    np.testing.assert_array_equal(values["brand"], np.array([0, 2, 3, 0], np.int32))
    np.testing.assert_array_equal(values["tags"], np.array([[0, 0], [2, 3], [4, 0], [0, 0]], np.int32))
    np.testing.assert_array_equal(values["image"], np.array([[0, 0], [1, 0.5], [2, 0.5], [3, 0.5]], np.float32))
    assert {name: array.dtype.name for name, array in values.items()} == {
        "price": "float32",
        "brand": "int32",
        "tags": "int32",
        "image": "float32",
    }

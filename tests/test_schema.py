import dataclasses
import json

import pytest

from seqrec_tf import schema as schema_lib
from seqrec_tf.schema import Feature, Schema

SCHEMA = Schema(
    num_items=5,
    features=(schema_lib.USER_ID_FEATURE, schema_lib.ITEM_IDS_FEATURE, schema_lib.TARGET_START_FEATURE),
    item_features=(Feature("price", "float32", (), "euros"), Feature("image", "float32", (3,))),
    max_len=4,
    time_unit="seconds",
)


def test_json_gives_the_schema_back():
    assert Schema.from_json(SCHEMA.to_json()) == SCHEMA


def test_a_schema_of_a_number_of_items_alone_survives_json():
    schema = Schema(num_items=5)
    assert Schema.from_json(schema.to_json()) == schema


def test_the_json_is_plain_values_with_a_version():
    values = json.loads(SCHEMA.to_json())
    assert values["version"] == schema_lib.SCHEMA_VERSION
    assert values["num_items"] == 5
    assert values["item_features"][1] == {
        "name": "image",
        "dtype": "float32",
        "shape": [3],
        "doc": "",
        "kind": "",
        "num_values": 0,
        "max_length": 0,
    }


def test_another_version_says_what_to_do():
    values = {**SCHEMA.to_dict(), "version": 99}
    with pytest.raises(ValueError, match=r"must have version 1, got 99\. Prepare the dataset again"):
        Schema.from_dict(values)


def test_a_schema_without_a_version_is_refused():
    values = SCHEMA.to_dict()
    del values["version"]
    with pytest.raises(ValueError, match="got None"):
        Schema.from_dict(values)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match="Feature `price` must have a dtype of int64, float32, string, got 'float64'"):
        Feature("price", "float64", ())


def test_a_schema_knows_which_features_it_holds():
    assert schema_lib.ITEM_IDS in SCHEMA
    assert schema_lib.LABELS not in SCHEMA


def test_a_schema_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SCHEMA.num_items = 6


def test_equal_schemas_do_not_differ():
    assert SCHEMA.differences(Schema.from_json(SCHEMA.to_json())) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"num_items": 6}, "num_items: 5 against 6"),
        ({"max_len": 50}, "max_len: 4 against 50"),
        ({"time_unit": "order"}, "time_unit: 'seconds' against 'order'"),
        ({"features": SCHEMA.features[1:]}, "features.user_id: string [] against absent"),
        (
            {"features": (*SCHEMA.features, schema_lib.LABELS_FEATURE)},
            "features.labels: absent against int64 [None]",
        ),
        (
            {"item_features": (Feature("price", "int64", ()), Feature("image", "float32", (3,)))},
            "item_features.price: float32 [] against int64 []",
        ),
        (
            {"item_features": (Feature("price", "float32", ()), Feature("image", "float32", (4,)))},
            "item_features.image: float32 [3] against float32 [4]",
        ),
    ],
)
def test_each_difference_is_one_line(change, line):
    assert SCHEMA.differences(dataclasses.replace(SCHEMA, **change)) == [line]


def test_all_differences_are_told():
    other = dataclasses.replace(SCHEMA, num_items=6, features=())
    assert SCHEMA.differences(other) == [
        "num_items: 5 against 6",
        "features.item_ids: int64 [None] against absent",
        "features.target_start: int64 [] against absent",
        "features.user_id: string [] against absent",
    ]


def test_the_words_and_the_order_of_features_are_no_difference():
    features = tuple(dataclasses.replace(feature, doc="other words") for feature in reversed(SCHEMA.features))
    assert SCHEMA.differences(dataclasses.replace(SCHEMA, features=features)) == []

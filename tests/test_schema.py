import dataclasses
import json
import math

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
    with pytest.raises(ValueError, match=r"must have version 2, got 99\. Prepare the dataset again"):
        Schema.from_dict(values)


def test_a_schema_without_a_version_is_refused():
    values = SCHEMA.to_dict()
    del values["version"]
    with pytest.raises(ValueError, match="got None"):
        Schema.from_dict(values)


def test_what_the_version_before_wrote_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match=r"got 1\. Prepare the dataset again .*, and train on it again"):
        Schema.from_dict({**SCHEMA.to_dict(), "version": 1})


@pytest.mark.parametrize(
    "name", ["repeats", "record_order", "items_are_quoted", "time_unit", "user_features", "id_form", "numeric_ids"]
)
def test_what_later_steps_depend_on_is_never_guessed(name):
    values = SCHEMA.to_dict()
    del values[name]
    with pytest.raises(ValueError, match=f"lacks {name}. Prepare the dataset again"):
        Schema.from_dict(values)


@pytest.mark.parametrize(
    ("name", "value"), [("repeats", "dropped"), ("record_order", ""), ("time_unit", "days"), ("id_form", "x")]
)
def test_a_value_that_no_later_step_knows_is_refused(name, value):
    with pytest.raises(ValueError, match=f"`{name}` of a schema must be one of .*, got '{value}'"):
        dataclasses.replace(SCHEMA, **{name: value})


@pytest.mark.parametrize(
    ("feature", "shape", "dtype", "missing", "in_requests"),
    [
        (Feature("price", "float32", (), kind="number"), (), "float32", math.nan, ("float32", ())),
        (Feature("brand", "int64", (), kind="category", num_values=4), (), "int32", 0, ("string", ())),
        (Feature("tags", "int64", (None,), kind="categories", max_length=3), (3,), "int32", 0, ("string", (None,))),
        (Feature("photo", "float32", (5,), kind="vector"), (5,), "float32", 0, None),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_a_feature_knows_how_models_and_requests_hold_it(feature, shape, dtype, missing, in_requests):
    assert (feature.dense_shape, feature.dense_dtype) == (shape, dtype)
    assert feature.missing == pytest.approx(missing, nan_ok=True)
    if in_requests:
        assert (feature.in_requests.dtype, feature.in_requests.shape) == in_requests


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
        ({"repeats": "all"}, "repeats: 'keep' against 'all'"),
        ({"record_order": "time"}, "record_order: 'random' against 'time'"),
        ({"items_are_quoted": False}, "items_are_quoted: True against False"),
        ({"id_form": "raw"}, "id_form: 'normal' against 'raw'"),
        ({"numeric_ids": ("item",)}, "numeric_ids: () against ('item',)"),
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

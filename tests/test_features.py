import math
import random

import pytest

from seqrec_tf import features


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("number", " 1.5 ", 1.5),
        ("number", "-2e3", -2000.0),
        ("number", " ", None),
        ("category", " red ", "red"),
        ("category", "", None),
        ("categories", "a|b, c ;;d", ["a", "b", "c", "d"]),
        ("categories", '["a, b", 3, 4.0, true, null, ""]', ["a, b", "3", "4", "true"]),
        ("categories", "", []),
        ("text", "", None),
    ],
)
def test_fields_become_values(kind, text, value):
    assert features.parse(kind, text) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (25.0, "25"),
        (25, "25"),
        (0.5, "0.5"),
        (math.nan, ""),
        (None, ""),
        (True, "true"),
        ("25.0", "25.0"),
        ([1], "[1]"),
    ],
)
def test_a_value_has_one_text_whatever_the_format_of_its_file(value, text):
    assert features.text_of(value) == text


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("number", "-inf", "float32 can hold, got '-inf'"),
        ("number", "x", "'x'"),
        ("number", "10_12", "expected a finite number that float32 can hold, got '10_12'"),
        ("categories", r'["a", "\ud83d"]', "surrogates not allowed"),
        ("number", "1e200", "expected a finite number that float32 can hold"),
        ("categories", "[" * 100_000, "nested too deeply"),
        ("categories", "[1", "delimiter"),
    ],
)
def test_a_field_that_is_not_of_its_kind_is_refused(kind, text, message):
    with pytest.raises(ValueError, match=message):
        features.parse(kind, text)


@pytest.mark.parametrize(
    ("kind", "column"),
    [
        ("number", ["1", "", "2.5", "0"]),
        ("category", ["red", "blue", "red", ""]),
        ("category", ["10_12", "8_10", "10_12"]),
        ("categories", ["a|b", "a", ""]),
        ("categories", ['["a"]', "[]"]),
        ("image-path", ["x/1.jpg", "2.PNG"]),
        ("text", [f"a title, number {number}" for number in range(50)]),
        ("text", ["", ""]),
        ("text", []),
    ],
)
def test_the_kind_of_a_column_is_inferred(kind, column):
    assert features.infer(column) == kind


@pytest.mark.parametrize(("center", "spread"), [(1000.0, 3.0), (0.0, 50.0), (0.0, 1e-9)])
def test_parts_learn_the_same_as_the_whole_in_any_order(center, spread):
    rng = random.Random(0)
    values = [rng.gauss(center, spread) for _ in range(100)]
    values = [str(value) for value in (*values, *(2 * center - value for value in values))]  # mean: the center
    whole = features.Learner("number")
    parts = [features.Learner("number") for _ in range(7)]
    for place, value in enumerate(values):
        whole.add(value)
        parts[place % 7].add(value)
    merged = features.Learner("number")
    for part in reversed(parts):
        merged.merge(part)
    numbers = [float(value) for value in values]
    mean = sum(numbers) / 200
    assert merged.result() == whole.result()
    assert merged.result()["mean"] == pytest.approx(mean, abs=1e-8 * spread)
    assert merged.result()["deviation"] == pytest.approx(math.sqrt(sum((x - mean) ** 2 for x in numbers) / 200))


def test_a_constant_number_or_none_at_all_is_scaled_by_1():
    constant = features.Learner("number")
    constant.add("5")
    assert constant.result() == {"mean": 5.0, "deviation": 1.0}
    assert features.Learner("number").result() == {"mean": 0.0, "deviation": 1.0}


def test_values_are_encoded_by_what_was_learned():
    declared = [features.feature_of(name, kind) for name, kind in (("p", "number"), ("c", "category"), ("t", "text"))]
    encode = features.Encoder(declared, {"p": {"mean": 1.0, "deviation": 2.0}, "c": {"values": ["x", "y"]}, "t": {}})
    assert encode(["5", "y", "Hello"]) == {"p": 2.0, "c": 3, "t": "Hello"}
    assert encode(["1", "z", ""]) == {"p": 0.0, "c": features.UNKNOWN, "t": ""}
    missing = encode(["", "", ""])
    assert math.isnan(missing["p"])
    assert missing["c"] == features.MISSING


@pytest.mark.parametrize(
    ("kind", "value", "field"),
    [("number", 2.0, 5.0), ("category", 3, "y"), ("categories", [2, 0], ["x", ""]), ("category", 0, "")],
)
def test_a_request_has_what_the_value_was_made_of(kind, value, field):
    feature = features.feature_of("f", kind)
    learned = {"mean": 1.0, "deviation": 2.0} if kind == "number" else {"values": ["x", "y"], "most": 2}
    assert features.Encoder([feature], {"f": learned}).request(feature, value) == field


def test_a_category_that_training_has_not_seen_is_one_that_it_has_not_seen():
    feature = features.feature_of("f", "category")
    encoder = features.Encoder([feature], {"f": {"values": ["x", "y"]}})
    assert encoder.value(feature, encoder.request(feature, features.UNKNOWN)) == features.UNKNOWN

"""The normal form of ids: what becomes one, and what stays two."""

import decimal
import json

import numpy as np
import pytest

from seqrec_tf import ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", "7"),
        ("7.0", "7"),
        ("-12.000", "-12"),
        ("0.0", "0"),
        (" 7.0\t", "7"),
        ("\u00a07\u3000", "7"),
        ("007", "007"),
        ("007.0", "007.0"),
        ("7.5", "7.5"),
        ("7.", "7."),
        ("1.2345678E7", "12345678"),
        ("1.5E0", "1.5E0"),
        ("9.007199254740993E15", "9.007199254740993E15"),
        ("8.80012E+14", "8.80012E+14"),
        ("12e4", "12e4"),
        ("v7.0", "v7.0"),
    ],
)
def test_whole_numbers_of_a_numeric_column_lose_their_fraction_and_nothing_else(text, expected):
    assert ids.normal(text, is_numeric=True) == expected
    assert ids.normal(expected, is_numeric=True) == expected


def test_text_stays_text_but_for_blanks_and_accents():
    assert ids.normal(" 7.0 ", is_numeric=False) == "7.0"
    assert ids.normal("Cafe\u0301", is_numeric=False) == "Caf\u00e9"
    assert ids.decomposed("Caf\u00e9") == "Cafe\u0301"


@pytest.mark.parametrize("text", ["7", "-7", "0", "7.50", "1e16", "1.2E7", "nan", "NULL", ""])
def test_numbers_and_words_for_none_leave_a_column_numeric(text):
    assert ids.is_number(text)


@pytest.mark.parametrize("text", ["007", "7a", "u7", "1,5", "7.", ".5", "+7", "0x1F"])
def test_anything_else_makes_a_column_text(text):
    assert not ids.is_number(text)


@pytest.mark.parametrize("value", [7, 7.0, np.float32(7), np.float64(7), np.float16(7), decimal.Decimal("7.00")])
def test_a_number_of_any_type_is_one_id(value):
    assert ids.of_value(value) == "7"


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (2.0**53, OverflowError),
        (-(2.0**60), OverflowError),
        (1e16, OverflowError),
        (np.float32(2**24), OverflowError),
        (np.float16(2**11), OverflowError),
        (7.5, TypeError),
        (True, TypeError),
        (decimal.Decimal("7.5"), TypeError),
        (decimal.Decimal("Infinity"), TypeError),
        ([7], TypeError),
    ],
)
def test_a_number_that_may_be_several_ids_or_none_is_refused(value, error):
    with pytest.raises(error):
        ids.of_value(value)


def test_the_largest_exact_floats_are_ids():
    assert ids.of_value(2.0**53 - 1) == str(2**53 - 1)
    assert ids.of_value(np.float32(2**24 - 1)) == str(2**24 - 1)


def test_json_holds_the_digits_that_a_float_does_not():
    values = json.loads("[9007199254740992.0, 9007199254740993.0, 7.0, 1e16]", parse_float=ids.FloatAsWritten.of)
    assert [ids.of_value(value) for value in values[:3]] == ["9007199254740992", "9007199254740993", "7"]
    with pytest.raises(OverflowError):
        ids.of_value(values[3])


def test_tensorflow_takes_the_same_blanks_and_fractions_away():
    tf = pytest.importorskip("tensorflow")
    blanks = [chr(code) for code in range(0x3100) if chr(code).isspace() or code % 37 == 0]
    texts = [f"{blank}a {blank}{blank}" for blank in blanks] + ["", " ", "7.0", "007.0", "-3.00", "v7.0", "7.05"]
    trimmed = tf.strings.regex_replace(texts, ids.BLANKS_AROUND, "")
    assert [text.decode() for text in trimmed.numpy()] == [text.strip() for text in texts]
    whole = tf.strings.regex_replace(trimmed, ids.FRACTION, ids.WITHOUT_FRACTION)
    assert [text.decode() for text in whole.numpy()] == [ids.without_fraction(text.strip()) for text in texts]

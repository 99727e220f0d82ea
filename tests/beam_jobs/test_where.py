"""What `--where` says, of values of every type; what it wants of files is in test_read_events."""

import operator
import pickle

import pyarrow as pa
import pytest

from beam_jobs.where import Condition

ROWS = {
    "n": ["6", "-1", "", " 7 ", "x", "1e3", "0.5", "nan", "True"],
    "t": ["536365", "C536366", " ", "it's", "100%", "a_b", "NULL", "C", "c1"],
    "two words": ["6", "7", "8", "7.0", "x", "1", "", "0", "1"],
}


def wanted(text, **columns):
    columns = columns or ROWS
    condition = pickle.loads(pickle.dumps(Condition.of(text)))
    return condition([pa.array(columns[name]) for name in condition.names]).to_pylist()


def numbers(values):
    return [{"6": 6, "-1": -1, " 7 ": 7, "1e3": 1000, "0.5": 0.5, "True": 1}.get(value) for value in values]


@pytest.mark.parametrize(
    ("sign", "function"),
    [
        *(("=", operator.eq), ("==", operator.eq), ("!=", operator.ne), ("<>", operator.ne)),
        *(("<", operator.lt), ("<=", operator.le), (">", operator.gt), (">=", operator.ge)),
    ],
)
@pytest.mark.parametrize("limit", ["7", "-1", "5e-1", "+.5", "1000.", "true", "false"])
def test_a_number_is_compared_with_numbers(sign, function, limit):
    number = {"true": 1, "false": 0}.get(limit) if limit in ("true", "false") else float(limit)
    expected = [None if value is None else function(value, number) for value in numbers(ROWS["n"])]
    assert wanted(f"n {sign} {limit}") == expected
    assert wanted(f"n{sign}{limit}") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("t = 'C'", [False, False, None, False, False, False, False, True, False]),
        ("t != 'NULL'", [True, True, None, True, True, True, False, True, True]),
        ("t = 'it''s'", [False, False, None, True, False, False, False, False, False]),
        ("t < 'C'", [True, False, None, False, True, False, False, False, False]),
        ("t like 'C%'", [False, True, None, False, False, False, False, True, False]),
        ("t not like 'C%'", [True, False, None, True, True, True, True, False, True]),
        ("t LIKE 'C_'", [False] * 2 + [None] + [False] * 6),
        ("t in ('C', 'NULL', 536365)", [True, False, None, False, False, False, True, True, False]),
        ("not t in ('C', 'NULL')", [True, True, None, True, True, True, False, False, True]),
        ("t is null", [False, False, True] + [False] * 6),
        ("t IS NOT NULL", [True, True, False] + [True] * 6),
        ('"two words" = n', [True, False, None, False, True, False, None, False, False]),
        ('"two words" >= n', [True, True, None, True, None, False, None, None, True]),
    ],
)
def test_tests_of_texts_and_columns(text, expected):
    # A number among values that are no numbers is as `or` with null has it: true where another is equal, else null.
    got = wanted(text)
    if "536365" in text:
        got = [bool(value) if given.strip() else None for value, given in zip(got, ROWS["t"], strict=True)]
    assert got == expected


def test_and_binds_before_or_and_not_before_both():
    truth = {"yes": True, "no": False, "": None}
    rows = [(a, b, c) for a in truth for b in truth for c in truth]
    columns = dict(zip("abc", zip(*rows, strict=True), strict=True))

    def either(a, b):
        return True if a or b else None if a is None or b is None else False

    def not_(a):
        return None if a is None else not a

    def both(a, b):
        return not_(either(not_(a), not_(b)))

    for text, expected in (
        ("a = 'yes' or b = 'yes' and not c = 'yes'", lambda a, b, c: either(a, both(b, not_(c)))),
        ("(a = 'yes' or b = 'yes') and not (c = 'yes')", lambda a, b, c: both(either(a, b), not_(c))),
        ("not a = 'yes' and b = 'yes' or c = 'yes'", lambda a, b, c: either(both(not_(a), b), c)),
    ):
        assert wanted(text, **columns) == [expected(*(truth[value] for value in row)) for row in rows]


@pytest.mark.parametrize(
    "array",
    [
        pa.array([7, 1, None, 0]),
        pa.array([7.0, 1.0, None, 0.0], pa.float32()),
        pa.array(["7", "1", None, "0"], pa.large_string()),
        pa.array(["7", "true", "", "false"]).dictionary_encode(),
        pa.array([7, 1, None, 0], pa.decimal128(5, 0)),
    ],
)
def test_types_do_not_matter(array):
    condition = Condition.of("a >= 1")
    assert condition([array]).to_pylist() == [True, True, None, False]
    assert Condition.of("a = '7'")([array]).to_pylist() == [True, False, None, False]
    assert condition.of_rows([(value,) for value in (7, 7.0, "7", True, None, [1], 10**400)]).to_pylist() == [
        *(True, True, True, True, None, None, None)
    ]
    assert Condition.of("a = true")([pa.array([True, None, False])]).to_pylist() == [True, None, False]
    assert Condition.of("a = 'true'").of_rows([(True,), (False,)]).to_pylist() == [True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "ends too early, at its beginning: expected a column"),
        ("Quantity >> 0", "from character 11 on, after `Quantity >`: expected a number, .*got `> 0`"),
        ("a = 'x", "from character 5 on, after `a =`.* got `'x`"),
        ("a in (1", "ends too early, after `a in \\(1`: expected `,` or `\\)`"),
        ("(a = 1", "ends too early, after .* or `\\)`"),
        ("a = 1 b = 2", "from character 7 on, after `a = 1`: expected `and`, `or` or the end, got `b = 2`"),
        ("a not 3", "expected `in` or `like`"),
        ("a", "expected a sign such as = or >"),
        ("5 < a", "expected a column .*got `5 < a`"),
        ("a like 5", "expected a 'pattern'"),
        ("a = 12345678901234567", "up to 15 digits"),
        ("__import__('os')", "expected a sign"),
        ("a; b", "expected a sign .* got `; b`"),
    ],
)
def test_what_is_no_condition_is_refused_with_its_place(text, said):
    with pytest.raises(ValueError, match=said):
        Condition.of(text)

"""The small language of `--where`: which events of a file are wanted.

Example: `Quantity > 0 and CustomerID is not null and InvoiceNo not like 'C%'`.

    condition:  test, `not` condition, condition `and` condition, condition `or` condition, `(` condition `)`
    test:       column sign value, where the sign is one of = == != <> < <= > >=
                column [not] in (value, ...)
                column [not] like 'pattern', where % stands for any characters and _ for one
                column is [not] null
    column:     a word; anything else, a number of a column from 0 among it, in double quotes
    value:      a number, a 'text', true, false; after a sign also a column

The value decides what is compared: a number compares numbers, a 'text' compares texts. Two columns are compared as
texts by = and !=, as numbers by the others. A field that is empty, or no number where one is needed, is null, and as in
SQL what is compared with null is neither true nor false but null.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from beam_jobs import parsing

_KEYWORDS = ("and", "or", "not", "in", "is", "null", "like", "true", "false")
_SIGNS: dict[str, Callable[[Any, Any], pa.BooleanArray]] = {
    "=": pc.equal,
    "==": pc.equal,
    "!=": pc.not_equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_TOKEN = re.compile(
    r"""(?P<number>[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?(?![\w.]))
      | (?P<text>'([^']|'')*')
      | (?P<column>"([^"]|"")+")
      | (?P<word>[^\W\d]\w*)
      | (?P<sign><=|>=|<>|!=|==|[=<>(),])""",
    re.VERBOSE,
)
# Beyond, floats are not exact.
_EXACT = 1 << 53
_A_COLUMN = 'a column (a word, or anything in "double quotes")'
_A_VALUE = "a number, a 'text', true or false"


class Values:
    """The columns of some rows, as text and as numbers.

    Args:
        arrays: By name of a column, of any type of Arrow.
    """

    def __init__(self, arrays: dict[str, pa.Array]):
        self._arrays = arrays
        self.text = functools.cache(self._text)
        self.numbers = functools.cache(self._numbers)

    def _text(self, name: str) -> pa.StringArray:
        """Without blanks around it; null where nothing is left."""
        text = pc.utf8_trim_whitespace(_as_text(self._arrays[name]))
        return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)

    def _numbers(self, name: str) -> pa.DoubleArray:
        """Null where there is no finite number; 1 where true, 0 where false."""
        array = self._arrays[name]
        if pa.types.is_boolean(array.type):
            array = array.cast(pa.int8())
        if pa.types.is_integer(array.type) or pa.types.is_floating(array.type):
            numbers = array.cast(pa.float64(), safe=False)
        else:
            text = self.text(name)
            try:
                numbers = text.cast(pa.float64())
            except pa.ArrowInvalid:  # some are none
                coded = text.dictionary_encode()
                values = [_number_of(value) for value in coded.dictionary.to_pylist()]
                numbers = pa.array(values, pa.float64()).take(coded.indices)
        return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64()))


Test = Callable[[Values], pa.BooleanArray]


@dataclasses.dataclass(frozen=True)
class Condition:
    """What `--where` says.

    Attributes:
        names: The columns that it reads, as it names them.
        test: From the columns of rows to whether each is wanted; null where a null decides.
    """

    names: tuple[str, ...]
    test: Test

    @classmethod
    def of(cls, text: str) -> Condition:
        """The condition that a text says; ValueError where it says none."""
        parser = _Parser(text)
        test = parser.condition()
        if parser.token.kind != "end":
            parser.fail("`and`, `or` or the end")
        return cls(tuple(dict.fromkeys(parser.names)), test)

    def __call__(self, arrays: Sequence[pa.Array]) -> pa.BooleanArray:
        """Whether each row is wanted, of the columns `names` of rows."""
        return self.test(Values(dict(zip(self.names, arrays, strict=True))))

    def of_rows(self, rows: Sequence[Sequence[Any]]) -> pa.BooleanArray:
        """The same, of rows of Python values."""
        columns = zip(*rows, strict=True) if rows else [()] * len(self.names)
        return self([pa.array(map(_text_of, column), pa.string()) for column in columns])


@dataclasses.dataclass(frozen=True)
class Where:
    """A condition on the events of files.

    Attributes:
        columns: Names or numbers of the columns that the condition reads, as the files have them.
        condition: What it says.
    """

    columns: tuple[str | int, ...]
    condition: Condition


class _Token(NamedTuple):
    kind: str  # number, text, column, word, keyword, sign, end
    value: str
    start: int


def quoted(name: str) -> str:
    """The name of a column as a condition has it."""
    is_word = re.fullmatch(r"[^\W\d]\w*", name) and name.lower() not in _KEYWORDS
    return name if is_word else '"' + name.replace('"', '""') + '"'


class _Parser:
    """By recursive descent: a method for each rule of the grammar."""

    def __init__(self, text: str):
        self._text = text
        self._tokens = _tokens(text)
        self.token = next(self._tokens)
        self.names: list[str] = []

    def condition(self) -> Test:
        return self._joined("or", pc.or_kleene, lambda: self._joined("and", pc.and_kleene, self._negated))

    def _joined(self, word: str, function: Callable, part: Callable[[], Test]) -> Test:
        left = part()
        while self._takes(word):
            left = functools.partial(_both, function=function, left=left, right=part())
        return left

    def _negated(self) -> Test:
        if self._takes("not"):
            return functools.partial(_not, test=self._negated())
        if self._takes("("):
            test = self.condition()
            self._expect(")", "`and`, `or` or `)`")
            return test
        return self._test()

    def _test(self) -> Test:
        if self.token.kind not in ("word", "column"):
            self.fail(_A_COLUMN)
        column = self._column()
        if self._takes("is"):
            is_not = self._takes("not")
            self._expect("null")
            return _unless(is_not, functools.partial(_is_null, column=column))
        if self.token.kind == "sign" and (function := _SIGNS.get(self.token.value)):
            self._advance()
            if self.token.kind in ("word", "column"):
                return functools.partial(_compare_columns, column=column, function=function, other=self._column())
            return functools.partial(_compare, column=column, function=function, value=self._value(" or a column"))
        is_not = self._takes("not")
        if self._takes("in"):
            self._expect("(")
            values = [self._value()]
            while self._takes(","):
                values.append(self._value())
            self._expect(")", "`,` or `)`")
            return _unless(is_not, functools.partial(_is_in, column=column, values=values))
        if self._takes("like"):
            if self.token.kind != "text":
                self.fail("a 'pattern', in which % stands for any characters and _ for one")
            return _unless(is_not, functools.partial(_is_like, column=column, pattern=str(self._value())))
        self.fail("`in` or `like`" if is_not else "a sign such as = or >, `in`, `like` or `is`")

    def _column(self) -> str:
        kind, text = self.token.kind, self._advance()
        name = text[1:-1].replace('""', '"') if kind == "column" else text
        self.names.append(name)
        return name

    def _value(self, more: str = "") -> float | str:
        kind, text, _ = self.token
        if kind == "text":
            self._advance()
            return text[1:-1].replace("''", "'")
        if kind == "keyword" and text in ("true", "false"):
            self._advance()
            return float(text == "true")
        if kind != "number":
            self.fail(_A_VALUE + more)
        number = float(text)
        if not abs(number) < _EXACT:
            self.fail("a number of up to 15 digits (as a 'text' it may have more)")
        self._advance()
        return number

    def _takes(self, word: str) -> bool:
        """Whether the next token is this keyword or sign, which is then passed."""
        if self.token.kind in ("keyword", "sign") and self.token.value == word:
            self._advance()
            return True
        return False

    def _expect(self, word: str, expected: str = "") -> None:
        if not self._takes(word):
            self.fail(expected or f"`{word}`")

    def _advance(self) -> str:
        """Go to the next token; gives the text of the one before."""
        before, self.token = self.token, next(self._tokens)
        return before.value

    def fail(self, expected: str) -> NoReturn:
        """Raise a ValueError that says where the text stops being a condition."""
        start = self.token.start
        before = self._text[:start].rstrip()
        place = f"after `{before}`" if before else "at its beginning"
        if self.token.kind == "end":
            raise ValueError(f"--where ends too early, {place}: expected {expected}.")
        raise ValueError(
            f"--where cannot be read from character {start + 1} on, {place}: expected {expected}, got "
            f"`{self._text[start:]}`."
        )


def _tokens(text: str) -> Iterator[_Token]:
    """The tokens of a text; what is none is one of kind "?", and after the last come any number of kind "end"."""
    place = 0
    while (start := len(text) - len(text[place:].lstrip())) < len(text):
        found = _TOKEN.match(text, start)
        kind, value = ("?", text[start]) if found is None else (str(found.lastgroup), found[0])
        if kind == "word" and value.lower() in _KEYWORDS:
            kind, value = "keyword", value.lower()
        yield _Token(kind, value, start)
        place = start + len(value)
    yield from itertools.repeat(_Token("end", "", len(text)))


def _both(of: Values, *, function: Callable, left: Test, right: Test) -> pa.BooleanArray:
    return function(left(of), right(of))


def _not(of: Values, *, test: Test) -> pa.BooleanArray:
    return pc.invert(test(of))


def _unless(is_not: bool, test: Test) -> Test:
    return functools.partial(_not, test=test) if is_not else test


def _compare(of: Values, *, column: str, function: Callable, value: float | str) -> pa.BooleanArray:
    return function(of.text(column) if isinstance(value, str) else of.numbers(column), value)


def _compare_columns(of: Values, *, column: str, function: Callable, other: str) -> pa.BooleanArray:
    as_what = of.text if function in (pc.equal, pc.not_equal) else of.numbers
    return function(as_what(column), as_what(other))


def _is_in(of: Values, *, column: str, values: Sequence[float | str]) -> pa.BooleanArray:
    tests = [_compare(of, column=column, function=pc.equal, value=value) for value in values]
    return functools.reduce(pc.or_kleene, tests)


def _is_like(of: Values, *, column: str, pattern: str) -> pa.BooleanArray:
    return pc.match_like(of.text(column), pattern)


def _is_null(of: Values, *, column: str) -> pa.BooleanArray:
    return of.text(column).is_null()


def _as_text(array: pa.Array) -> pa.StringArray:
    """Values as text, each as `_text_of` has it."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_floating(array.type) or pa.types.is_nested(array.type):
        return pa.array(map(_text_of, array.to_pylist()), pa.string())
    return array.cast(pa.string())


def _text_of(value: Any) -> str | None:
    """A value as CSV has it: 7 of 7.0, true of True."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        return str(int(value)) if value.is_integer() else repr(value)
    return json.dumps(value, default=str)


def _number_of(text: str) -> float | None:
    if text.lower() in ("true", "false"):
        return float(text.lower() == "true")
    try:
        return float(parsing.parse_number(text))
    except (ValueError, OverflowError):
        return None

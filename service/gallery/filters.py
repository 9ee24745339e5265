"""The JSON filter language: parsed into a small tree, and checked in Python; each engine compiles it to its own.

A filter is an object of conditions that must all hold:

    {"camera": "north"}                        one of the field's values equals "north"
    {"camera": {"any": ["north", "east"]}}     ... equals one of these
    {"camera": {"ne": "north"}}                none of the field's values equals it; a missing field passes
    {"shot.iso": {"gte": 100, "lt": 800}}      the field has exactly one value, a number, within the bounds
    {"day": {"gte": "2024-01-01"}}             ... a text, compared by code point

A dotted path walks into objects, and through lists into their elements, so a field may have several values. Values are
text, number, true/false or null, and only values of one kind are comparable: 1 is neither true nor "1". Numbers are
compared as float64, as other JSON readers do, so 1 equals 1.0.

Any payload field can be filtered on without being declared, and an engine must give exactly the answer of `passes`, or
a search could drop matches. Engines' own JSON functions coerce between kinds, so each payload is flattened (`Fields`):
`tokens` holds "value:path" of every value for equality, and the pairs `number_paths`/`numbers` and `text_paths`/`texts`
hold the fields of one value for ranges. Everything then is a prefilter in the engine: nothing is left to check on lists
of candidates, so no list can come back short.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, assert_never, cast

from service.gallery.base import Filter, FilterError, Payload

Scalar = str | float | bool | None
Operator = Literal["gt", "gte", "lt", "lte"]

MAX_CONDITIONS = 64
MAX_VALUES = 1000
MAX_DEPTH = 32

SYMBOLS: Mapping[Operator, str] = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_OPERATORS = ("any", "ne", "gt", "gte", "lt", "lte")


@dataclass(frozen=True)
class OneOf:
    """One of the path's values equals one of these."""

    path: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True)
class NotEqual:
    """None of the path's values equals this one."""

    path: str
    value: Scalar


@dataclass(frozen=True)
class Compare:
    """The path has exactly one value, of the bound's kind, on this side of the bound."""

    path: str
    operator: Operator
    bound: str | float


Condition = OneOf | NotEqual | Compare


@dataclass(frozen=True)
class Where:
    """Conditions that must all hold; none means everything passes."""

    conditions: tuple[Condition, ...] = ()


@dataclass(frozen=True)
class Fields:
    """A payload flattened for an engine: see the module's docstring."""

    tokens: tuple[str, ...]
    number_paths: tuple[str, ...]
    numbers: tuple[float, ...]
    text_paths: tuple[str, ...]
    texts: tuple[str, ...]


def parse_filter(where: Filter | None) -> Where:
    """Read a filter.

    Raises:
        FilterError: naming the part that is not in the language.
    """
    if where is None:
        return Where()
    if not isinstance(where, Mapping):
        raise FilterError(f"a filter is an object of fields, not {_describe(where)}")
    conditions = tuple(condition for path, test in where.items() for condition in _parse_field(path, test))
    if len(conditions) > MAX_CONDITIONS:
        raise FilterError(f"a filter has at most {MAX_CONDITIONS} conditions, this one has {len(conditions)}")
    return Where(conditions)


def _parse_field(path: object, test: object) -> Iterator[Condition]:
    name = _parse_text(path, "a field name")
    if not name:
        raise FilterError("a field name is empty")
    if not isinstance(test, Mapping):
        yield OneOf(name, (_parse_scalar(test, name),))
        return
    if not test:
        raise FilterError(f"{name}: an empty object is no condition; use one of {', '.join(_OPERATORS)}")
    for operator, operand in test.items():
        yield _parse_condition(name, operator, operand)


def _parse_condition(path: str, operator: object, operand: object) -> Condition:
    part = f"{path}.{operator}"
    match operator:
        case "any":
            if not isinstance(operand, list | tuple) or not 1 <= len(operand) <= MAX_VALUES:
                raise FilterError(f"{part}: expected a list of 1 to {MAX_VALUES} values, not {_describe(operand)}")
            return OneOf(path, tuple(_parse_scalar(value, part) for value in operand))
        case "ne":
            return NotEqual(path, _parse_scalar(operand, part))
        case "gt" | "gte" | "lt" | "lte":
            bound = _parse_scalar(operand, part)
            if bound is None or isinstance(bound, bool):
                raise FilterError(f"{part}: only numbers and texts have an order, not {_describe(operand)}")
            return Compare(path, operator, bound)
        case _:
            raise FilterError(f"{path}: unknown operator {operator!r}; use one of {', '.join(_OPERATORS)}")


def _parse_scalar(value: object, part: str) -> Scalar:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _parse_text(value, part)
    if isinstance(value, int | float):
        try:
            return _number(value)
        except ValueError as error:
            raise FilterError(f"{part}: {error}") from error
    raise FilterError(f"{part}: expected a text, a number, true, false or null, not {_describe(value)}")


def _parse_text(value: object, part: str) -> str:
    if not isinstance(value, str):
        raise FilterError(f"{part}: expected a text, not {_describe(value)}")
    if "\0" in value or not _is_unicode(value):
        raise FilterError(f"{part}: {value!r} holds a character that no filter can hold (NUL or a lone surrogate)")
    return value


def _number(value: float) -> float:
    """Float64 of a number, -0.0 made 0.0.

    Raises:
        ValueError: unless it is finite as float64.
    """
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("a number must be finite as a 64-bit float")
    return number + 0.0


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _describe(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def payload_values(payload: Payload) -> dict[str, list[Scalar]]:
    """Every value of a payload by dotted path.

    Raises:
        ValueError: naming the path that JSON or UTF-8 cannot hold.
    """
    values: dict[str, list[Scalar]] = {}
    for path, value in _walk(payload, "", 0):
        values.setdefault(path, []).append(value)
    return values


def _walk(value: Any, path: str, depth: int) -> Iterator[tuple[str, Scalar]]:
    if depth > MAX_DEPTH:
        raise ValueError(f"payload is nested deeper than {MAX_DEPTH} at {path[:80]!r}")
    if isinstance(value, Mapping):
        for key, child in value.items():
            if not isinstance(key, str) or not _is_unicode(key):
                raise ValueError(f"payload key {key!r} is not a text of valid Unicode")
            yield from _walk(child, f"{path}.{key}" if depth else key, depth + 1)
    elif isinstance(value, list | tuple):
        for child in value:
            yield from _walk(child, path, depth + 1)
    elif value is None or isinstance(value, bool):
        yield path, value
    elif isinstance(value, int | float):
        yield path, _payload_number(value, path)
    elif isinstance(value, str) and _is_unicode(value):
        yield path, value
    else:
        raise ValueError(f"payload field {path!r} holds {_describe(value)}, which is not JSON of valid Unicode")


def _payload_number(value: float, path: str) -> float:
    try:
        return _number(value)
    except ValueError as error:
        raise ValueError(f"payload field {path!r}: {error}") from error


def flatten(payload: Payload) -> Fields:
    """A payload's fields as an engine keeps them.

    Raises:
        ValueError: as `payload_values`.
    """
    values = payload_values(payload)
    single = [(path, found[0]) for path, found in values.items() if len(found) == 1]
    numbers = [(path, value) for path, value in single if isinstance(value, float)]
    texts = [(path, value) for path, value in single if isinstance(value, str)]
    return Fields(
        tokens=tuple(dict.fromkeys(token(path, value) for path, found in values.items() for value in found)),
        number_paths=tuple(path for path, _ in numbers),
        numbers=tuple(number for _, number in numbers),
        text_paths=tuple(path for path, _ in texts),
        texts=tuple(text for _, text in texts),
    )


def token(path: str, value: Scalar) -> str:
    """`value:path`; a JSON value ends by itself, so no two pairs share a token."""
    return f"{json.dumps(value, ensure_ascii=False)}:{path}"


def passes(where: Where, payload: Payload) -> bool:
    """Whether a payload meets every condition: what every engine must agree with."""
    if not where.conditions:
        return True
    values = payload_values(payload)
    return all(_holds(condition, values.get(condition.path, [])) for condition in where.conditions)


def _holds(condition: Condition, values: list[Scalar]) -> bool:
    match condition:
        case OneOf():
            return any(_equal(value, wanted) for value in values for wanted in condition.values)
        case NotEqual():
            return not any(_equal(value, condition.value) for value in values)
        case Compare():
            return len(values) == 1 and _in_order(values[0], condition.operator, condition.bound)
        case _:
            assert_never(condition)


def _equal(left: Scalar, right: Scalar) -> bool:
    return type(left) is type(right) and left == right


def _in_order(value: Scalar, operator: Operator, bound: str | float) -> bool:
    if type(value) is not type(bound):
        return False
    left, right = cast(float, value), cast(float, bound)
    return {"gt": left > right, "gte": left >= right, "lt": left < right, "lte": left <= right}[operator]

"""Filters as SQL of LanceDB, over the list columns of `filters.Fields`."""

from typing import assert_never

from service.gallery.filters import SYMBOLS, Compare, Condition, NotEqual, OneOf, Where, token


def to_sql(where: Where) -> str | None:
    """The predicate over the columns of `Fields` that holds exactly where `passes` does, or None for everything."""
    return " AND ".join(_condition_sql(condition) for condition in where.conditions) or None


def _condition_sql(condition: Condition) -> str:
    match condition:
        case OneOf():
            wanted = ", ".join(quote(token(condition.path, value)) for value in condition.values)
            return f"array_has_any(tokens, [{wanted}])"
        case NotEqual():
            return f"NOT array_has(tokens, {quote(token(condition.path, condition.value))})"
        case Compare():
            kind = "text" if isinstance(condition.bound, str) else "number"
            place = f"CAST(array_position({kind}_paths, {quote(condition.path)}) AS BIGINT)"
            bound = literal(condition.bound)
            return f"array_element({kind}s, {place}) {SYMBOLS[condition.operator]} {bound}"
        case _:
            assert_never(condition)


def literal(value: str | float) -> str:
    """A text or finite number as SQL."""
    return quote(value) if isinstance(value, str) else f"CAST({quote(repr(float(value)))} AS DOUBLE)"


def quote(text: str) -> str:
    """A text as SQL.

    Raises:
        ValueError: for NUL, which SQL cannot hold.
    """
    if "\0" in text:
        raise ValueError(f"{text!r} holds a NUL character")
    return "'" + text.replace("'", "''") + "'"

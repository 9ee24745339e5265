"""Filters as SQL of PostgreSQL, over the array columns of the table; values go beside the SQL, never into it.

PostgreSQL's text cannot hold NUL, which payloads may hold and filters may not. So texts for ranges are kept as bytes of
UTF-8, whose order is that of code points, and what has NUL in its path is left out: no filter can name it.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, assert_never

from service.gallery.filters import SYMBOLS, Compare, Condition, NotEqual, OneOf, Where, token

LONGEST_TOKEN: Final = 512  # bytes; an entry of the index is 2,712 at most


@dataclass(frozen=True)
class Sql:
    """A condition, and the values of its parameters in order."""

    text: str
    values: tuple[Any, ...]


def to_sql(where: Where, *, first: int = 1) -> Sql:
    """The condition that holds exactly where `passes` does; its first parameter has this number."""
    parts: list[str] = []
    values: list[Any] = []
    for condition in where.conditions:
        part = _condition_sql(condition, first + len(values))
        parts.append(part.text)
        values += part.values
    return Sql(" AND ".join(parts) or "true", tuple(values))


def _condition_sql(condition: Condition, first: int) -> Sql:
    match condition:
        case OneOf():
            wanted = [stored_token(token(condition.path, value)) for value in condition.values]
            return Sql(f"tokens && ${first}::text[]", (wanted,))
        case NotEqual():
            return Sql(f"NOT tokens @> ${first}::text[]", ([stored_token(token(condition.path, condition.value))],))
        case Compare(path, operator, bound):
            kind, sql_type = ("text", "bytea") if isinstance(bound, str) else ("number", "float8")
            element = f"{kind}s[array_position({kind}_paths, ${first}::text)]"
            value = bound.encode() if isinstance(bound, str) else bound
            return Sql(f"{element} {SYMBOLS[operator]} ${first + 1}::{sql_type}", (path, value))
        case _:
            assert_never(condition)


def stored_token(one: str) -> str:
    """A token as the table holds it: a long one as its hash, which no token can equal, as none begins with `#`."""
    encoded = one.encode()
    return one if len(encoded) <= LONGEST_TOKEN else f"#{hashlib.sha256(encoded).hexdigest()}"


def without_nul(paths: Sequence[str], values: Sequence[Any]) -> tuple[list[str], list[Any]]:
    """Paths that PostgreSQL can hold, with their values."""
    kept = [(path, value) for path, value in zip(paths, values, strict=True) if "\0" not in path]
    return [path for path, _ in kept], [value for _, value in kept]


def quote(identifier: str) -> str:
    """A name as SQL."""
    return '"' + identifier.replace('"', '""') + '"'

"""Expressions: numbers as texts of the same order, and texts that stand for paths and tokens."""

import math
import string

from hypothesis import example, given
from hypothesis import strategies as st

from service.gallery.filters import parse_filter
from service.gallery.milvus.expressions import both, digest, sortable, to_expression

NUMBERS = st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0)
SAFE = set(string.ascii_letters + string.digits + "-_")


@given(NUMBERS, NUMBERS)
@example(5e-324, 0.0)
@example(-5e-324, 0.0)
@example(-1.7976931348623157e308, 1.7976931348623157e308)
@example(-1.0, -2.0)
def test_texts_of_numbers_come_in_the_order_of_the_numbers(left: float, right: float) -> None:
    assert (sortable(left) < sortable(right)) == (left < right)
    assert (sortable(left) == sortable(right)) == (left == right)
    assert len(sortable(left)) == 16


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_a_digest_is_short_and_safe(text: str) -> None:
    assert len(digest(text)) == 22
    assert set(digest(text)) <= SAFE


def test_no_condition_is_no_expression() -> None:
    assert to_expression(parse_filter({})) == ""
    assert both("", 'id > "a"', "") == '(id > "a")'


def test_every_condition_and_the_bound_must_hold() -> None:
    expression = to_expression(parse_filter({"a": 1, "b": {"ne": "x", "gte": "w"}}), 0.25)
    assert expression.count(" and ") == 3
    assert expression.endswith("(uncertainty <= 0.25)")
    assert to_expression(parse_filter({}), math.inf) == ""

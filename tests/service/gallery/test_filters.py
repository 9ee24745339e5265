"""Filters: what the language takes, what it means, and that every engine means the same."""

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.gallery.base import FilterError, Item
from service.gallery.checked import CheckedGallery
from service.gallery.filters import parse_filter, passes, payload_values
from tests.service.gallery.oracle import vector_of
from tests.service.gallery.places import Place

PAYLOAD: dict[str, Any] = {
    "name": "it's",
    "count": 3,
    "ratio": 0.1,
    "on": True,
    "nothing": None,
    "tags": ["red", "blue", 7],
    "one": ["red"],
    "day": "2024-05-06",
    "shot": {"iso": 200, "lens": {"mm": 35}},
    "boxes": [{"label": "cat"}, {"label": "dog"}],
    "empty": [],
    "big": 2**60,
    "zero": -0.0,
}


PASSING: list[dict[str, Any]] = [
    {},
    {"name": "it's"},
    {"count": 3},
    {"count": 3.0},
    {"on": True},
    {"nothing": None},
    {"tags": "blue"},
    {"tags": 7},
    {"tags": {"any": ["green", "red"]}},
    {"shot.iso": 200},
    {"shot.lens.mm": {"gt": 34, "lte": 35}},
    {"boxes.label": "dog"},
    {"one": {"gte": "red"}},
    {"day": {"gte": "2024-05-06", "lt": "2024-06"}},
    {"name": {"ne": "its"}},
    {"missing": {"ne": 1}},
    {"count": {"ne": "3"}},
    {"big": 2**60},
    {"ratio": 0.1, "count": {"gte": 3}},
    {"zero": 0},
    {"zero": {"gte": 0}},
]
FAILING: list[dict[str, Any]] = [
    {"name": "its"},
    {"count": "3"},
    {"count": True},
    {"on": 1},
    {"on": "true"},
    {"nothing": False},
    {"missing": None},
    {"missing": {"lt": 1}},
    {"tags": {"gte": 0}},
    {"tags": {"ne": "red"}},
    {"empty": {"any": ["red", None]}},
    {"day": {"gt": 0}},
    {"count": {"gt": "0"}},
    {"on": {"gte": 0}},
    {"count": {"gt": 3}},
    {"shot": 200},
    {"ratio": 0.1, "count": {"gt": 3}},
    {"zero": {"lt": 0}},
]


@pytest.mark.parametrize("where", PASSING, ids=str)
def test_a_payload_passes(where: dict[str, Any]) -> None:
    assert passes(parse_filter(where), PAYLOAD)


@pytest.mark.parametrize("where", FAILING, ids=str)
def test_a_payload_does_not_pass(where: dict[str, Any]) -> None:
    assert not passes(parse_filter(where), PAYLOAD)


@pytest.mark.parametrize(
    ("where", "part"),
    [
        (["name"], "object of fields"),
        ({"": 1}, "field name is empty"),
        ({3: 1}, "a field name"),
        ({"a": [1]}, "a: expected a text"),
        ({"a": {}}, "a: an empty object"),
        ({"a": {"near": 1}}, "a: unknown operator 'near'"),
        ({"a": {"b": {"gte": 1}}}, "a: unknown operator 'b'"),
        ({"a": {"any": []}}, "a.any"),
        ({"a": {"any": "red"}}, "a.any"),
        ({"a": {"any": [["red"]]}}, "a.any"),
        ({"a": {"any": list(range(1001))}}, "a.any"),
        ({"a": {"ne": {"x": 1}}}, "a.ne"),
        ({"a": {"gte": True}}, "a.gte"),
        ({"a": {"lt": None}}, "a.lt"),
        ({"a": {"lt": math.nan}}, "a.lt: a number must be finite"),
        ({"a": math.inf}, "a: a number must be finite"),
        ({"a": 10**400}, "a: a number must be finite"),
        ({"a": "x\0"}, "NUL"),
        ({"a\0": 1}, "NUL"),
        ({"a": "\ud800"}, "surrogate"),
        ({f"f{n}": n for n in range(65)}, "at most 64 conditions"),
    ],
)
def test_what_is_outside_the_language_is_named(where: Any, part: str) -> None:
    with pytest.raises(FilterError, match=part):
        parse_filter(where)


KEYS = st.sampled_from(["a", "b", "a.b", "it's", 'q"', "ü:", "x = 1 OR true --", "\\"])
TEXTS = st.sampled_from(
    ["", "a", "b", "ab", "1.0", "true", "it's", "') OR true --", '"1.0:a', "\\'", "ü", "𝄞", "\n", "%"]
)
NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 0.5, -0.0, 1e22, 5e-324, 1.7976931348623157e308, 2**53 + 1, -(2**63)]),
    st.floats(allow_nan=False, allow_infinity=False),
)
SCALARS = st.one_of(st.none(), st.booleans(), TEXTS, NUMBERS)
PAYLOADS = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=2)),
        max_leaves=4,
    ),
    max_size=3,
)
PATHS = st.one_of(KEYS, st.tuples(KEYS, KEYS).map(".".join))
FIELDS = st.tuples(PATHS, SCALARS)
SLOTS = 8


@st.composite
def conditions_on(draw: st.DrawFn, fields: st.SearchStrategy[tuple[str, Any]]) -> tuple[str, Any]:
    """A condition on one field, near one of the given (path, value) pairs so that both outcomes are common."""
    path, value = draw(fields)
    ordered = [value] if isinstance(value, str | float | int) and not isinstance(value, bool) else [0, "a"]
    bounds = st.dictionaries(
        st.sampled_from(["gt", "gte", "lt", "lte"]), st.one_of(st.sampled_from(ordered), TEXTS, NUMBERS), min_size=1
    )
    others = draw(st.lists(SCALARS, max_size=3))
    test = draw(st.one_of(st.just(value), st.just({"any": [*others, value]}), st.just({"ne": value}), bounds))
    return path, test


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Payloads, and filters on the fields they have or might have."""
    payloads = draw(st.lists(PAYLOADS, min_size=SLOTS, max_size=SLOTS))
    known = [(path, value) for one in payloads for path, values in payload_values(one).items() for value in values]
    usable = [(path, value) for path, value in known if path]
    fields = st.one_of(st.sampled_from(usable), FIELDS) if usable else FIELDS
    wheres = st.lists(conditions_on(fields), min_size=1, max_size=2).map(dict)
    return payloads, draw(st.lists(wheres, min_size=6, max_size=6))


@pytest.fixture(scope="module")
def table(place: Place) -> Iterator[tuple[asyncio.Runner, CheckedGallery]]:
    """One gallery for every example, and the loop it lives on."""
    with asyncio.Runner() as runner:
        gallery = runner.run(place.open(place.fresh()))
        yield runner, gallery
        runner.run(gallery.close())


def test_the_table_agrees_with_python_on_the_examples(table: tuple[asyncio.Runner, CheckedGallery]) -> None:
    runner, gallery = table
    payloads = [PAYLOAD, {}, {"tags": [1, 2], "count": [3, 3], "zero": [0, "a"]}]

    async def check() -> None:
        await gallery.upsert([Item(f"e{n}", vector_of("e"), n, payload) for n, payload in enumerate(payloads)])
        for where in (*PASSING, *FAILING):
            expected = [f"e{n}" for n, payload in enumerate(payloads) if passes(parse_filter(where), payload)]
            assert [one.id for one in await gallery.page(9, where=where)] == expected
        await gallery.delete([f"e{n}" for n in range(len(payloads))])

    runner.run(check())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(case=cases())
def test_the_table_agrees_with_python_on_any_payload_and_filter(
    table: tuple[asyncio.Runner, CheckedGallery], case: tuple[list[dict[str, Any]], list[dict[str, Any]]]
) -> None:
    (runner, gallery), (payloads, wheres) = table, case

    async def check() -> None:
        await gallery.upsert([Item(str(n), vector_of(str(n)), n, payload) for n, payload in enumerate(payloads)])
        for where in wheres:
            expected = [str(n) for n, payload in enumerate(payloads) if passes(parse_filter(where), payload)]
            assert [one.id for one in await gallery.page(SLOTS, where=where)] == expected

    runner.run(check())


@settings(max_examples=100, deadline=None)
@given(field=FIELDS, payload=PAYLOADS)
def test_not_equal_is_the_opposite_of_equal(field: tuple[str, Any], payload: dict[str, Any]) -> None:
    path, value = field
    for wanted in (value, *payload_values(payload).get(path, [])):
        equal = passes(parse_filter({path: wanted}), payload)
        assert passes(parse_filter({path: {"ne": wanted}}), payload) is not equal

"""Payloads that PostgreSQL's own types cannot hold or index: still kept, and filtered on as any other."""

from typing import Any

import pytest

from service.gallery.base import Item
from service.gallery.checked import CheckedGallery
from service.gallery.filters import parse_filter, passes
from tests.service.gallery.oracle import same_item, vector_of

LONG = "long " * 5000
PAYLOADS: list[dict[str, Any]] = [
    {"a": "\0"},
    {"a": "b\0"},
    {"a": "b\0c"},
    {"a": "b"},
    {"a": "b\x01"},
    {"a": "bc"},
    {"a": "\\u0000"},
    {"a\0": "b", "a": 1},
    {"a\0": 5, "\0": None, "c": ["\0", "x"]},
    {"a": LONG},
    {"a": LONG + "er"},
    {"a": "#" + "0" * 64},
    {LONG: "b"},
    {"a": {LONG: 5}},
    {"a": 5e-324},
    {"a": 1e308},
    {"a": -1e308},
    {"a": 2**53 + 1},
    {"a": 10**300},
    {"a": [LONG, "b", "b"]},
    {"deep": [[[{"er": "b"}]]]},
    {},
]
BOUNDS: list[Any] = ["", "b", "b\x01", "bc", "\x01", LONG, "\\u0000", 0, 5e-324, 1e308, 2**53, 2**53 + 1]
WHERES: list[dict[str, Any]] = [
    *({"a": value} for value in BOUNDS),
    *({"a": {"ne": value}} for value in BOUNDS),
    *({"a": {operator: value}} for value in BOUNDS for operator in ("gt", "gte", "lt", "lte")),
    *({path: {"ne": "b"}} for path in ("a\\u0000", LONG, f"a.{LONG}", "c", "deep.er")),
    *({path: {"any": ["b", 5, "x", None]}} for path in ("a", LONG, f"a.{LONG}", "c", "deep.er")),
]


@pytest.fixture
async def filled(gallery: CheckedGallery) -> CheckedGallery:
    items = [Item(f"{n:02}", vector_of("same"), float(n), payload) for n, payload in enumerate(PAYLOADS)]
    await gallery.upsert(items)
    return gallery


async def test_every_payload_comes_back_as_it_is(filled: CheckedGallery) -> None:
    for n, payload in enumerate(PAYLOADS):
        assert same_item(await filled.get(f"{n:02}"), Item(f"{n:02}", vector_of("same"), float(n), payload))


async def test_every_filter_gives_what_python_gives(filled: CheckedGallery) -> None:
    for where in WHERES:
        condition = parse_filter(where)
        expected = [f"{n:02}" for n, payload in enumerate(PAYLOADS) if passes(condition, payload)]
        assert [one.id for one in await filled.page(100, where=where)] == expected, where
        assert await filled.count(where) == len(expected)


async def test_a_thousand_values_and_64_conditions_are_a_filter(filled: CheckedGallery) -> None:
    assert await filled.count({"a": {"any": ["b", *map(str, range(999))]}}) == 2
    assert await filled.count({f"f{n}": {"ne": n} for n in range(64)}) == len(PAYLOADS)

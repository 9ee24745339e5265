"""Search beside numpy: exact without an index, nearly so with one, and never fewer matches than exist."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from service.gallery.base import Found, Item, Match
from service.gallery.checked import CheckedGallery
from tests.service.gallery.oracle import (
    expected_scores,
    item,
    items_in_clusters,
    scores,
    unit,
    vector_of,
)
from tests.service.gallery.places import Place

pytestmark = pytest.mark.asyncio(loop_scope="module")

CONDITIONS: list[dict[str, Any]] = [
    {},
    {"where": {"rank": {"lt": 1000}}},
    {"where": {"rank": {"lt": 200}}},
    {"where": {"rank": {"lt": 20}}},
    {"where": {"rank": {"lt": 2}}},
    {"where": {"rank": {"lt": 0}}},
    {"where": {"group": "g3"}},
    {"max_uncertainty": 0.5},
    {"max_uncertainty": 0.001},
    {"max_uncertainty": -1.0},
    {"min_score": 0.8},
    {"min_score": 0.999},
    {"where": {"group": {"any": ["g1", "g2"]}}, "max_uncertainty": 0.3, "min_score": 0.5},
]


def found_scores(found: Found) -> list[float]:
    return [match.score for match in found.matches]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def exact(place: Place) -> AsyncIterator[CheckedGallery]:
    """2000 items in clusters, no vector index: for reading only."""
    async with _filled(place) as opened:
        yield opened


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def indexed(place: Place) -> AsyncIterator[CheckedGallery]:
    """The same with a vector index; a test leaves it as it found it."""
    async with _filled(place) as opened:
        await opened.maintain()
        yield opened


@asynccontextmanager
async def _filled(place: Place) -> AsyncIterator[CheckedGallery]:
    opened = await place.open(place.fresh())
    await opened.upsert(items_in_clusters(2000))
    yield opened
    await opened.close()


@pytest.mark.parametrize("conditions", CONDITIONS, ids=str)
@pytest.mark.parametrize("limit", [10, 3000])
async def test_small_gallery_answers_exactly(exact: CheckedGallery, limit: int, conditions: dict[str, Any]) -> None:
    items = items_in_clusters(2000)
    for n in range(2):
        query = vector_of(f"query {n}")
        found = await exact.search(query, limit, **conditions)
        np.testing.assert_allclose(found_scores(found), expected_scores(items, query, limit, **conditions), atol=2e-6)
        by_id = scores(items, query)
        np.testing.assert_allclose(found_scores(found), [by_id[match.id] for match in found.matches], atol=2e-6)
        assert len({match.id for match in found.matches}) == len(found.matches)


@pytest.mark.parametrize("conditions", CONDITIONS, ids=str)
@pytest.mark.parametrize("limit", [10, 100])
async def test_indexed_gallery_finds_nearly_all_and_never_too_few(
    indexed: CheckedGallery, limit: int, conditions: dict[str, Any]
) -> None:
    assert indexed._engine.approximate
    items = items_in_clusters(2000)
    found: list[bool] = []
    for n in range(4):
        query = unit(items[37 * n].embedding + 0.2 * vector_of(f"query {n}"))
        expected = expected_scores(items, query, limit, **conditions)
        got = found_scores(await indexed.search(query, limit, **conditions))
        assert len(got) == len(expected)
        found += [score >= expected[-1] - 2e-6 for score in got]
    assert np.mean(found or [True]) >= 0.95


async def test_rows_newer_than_the_index_are_found(indexed: CheckedGallery) -> None:
    await indexed.upsert([item("newcomer")])
    found = await indexed.search(vector_of("newcomer"), 1)
    assert found.matches[0].id == "newcomer"
    assert found.matches[0].score == pytest.approx(1.0, abs=1e-6)
    await indexed.delete(["newcomer"])
    assert (await indexed.search(vector_of("newcomer"), 1)).matches[0].id != "newcomer"


async def test_a_replaced_item_is_found_only_where_it_is_now(indexed: CheckedGallery) -> None:
    before, after = vector_of("before"), vector_of("after")
    for vector in (before, after):
        await indexed.upsert([Item("moving", vector, 0.5, {})])
    assert (await indexed.search(after, 1)).matches[0].id == "moving"
    assert "moving" not in {match.id for match in (await indexed.search(before, 50, min_score=0.99)).matches}
    await indexed.delete(["moving"])


async def test_a_search_through_the_index_that_comes_back_short_is_done_again_exactly(
    indexed: CheckedGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is made to forget every second match."""
    nearest = indexed._engine.nearest

    async def forgetful(*args: Any, exact: bool) -> list[Match]:
        return (await nearest(*args, exact=exact))[:: 1 if exact else 2]

    monkeypatch.setattr(indexed._engine, "nearest", forgetful)
    items, query = items_in_clusters(2000), vector_of("query")
    for conditions in CONDITIONS:
        found = await indexed.search(query, 10, **conditions)
        np.testing.assert_allclose(found_scores(found), expected_scores(items, query, 10, **conditions), atol=2e-6)

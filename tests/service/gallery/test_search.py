"""Search: order, ranges, boundaries, what is counted as removed, and what is refused; and pages."""

from typing import Any

import numpy as np
import pytest

from service.gallery.base import FilterError, Found, Item, Removed
from service.gallery.checked import CheckedGallery
from tests.service.gallery.oracle import (
    DIMENSION,
    item,
    unit,
    vector_of,
)


async def test_an_empty_gallery_finds_nothing(gallery: CheckedGallery) -> None:
    assert await gallery.search(vector_of("any"), 10, where={"a": 1}, min_score=0.5) == Found([], Removed())


async def test_equal_vectors_come_in_order_of_id(gallery: CheckedGallery) -> None:
    ids = [f"copy-{n:02d}" for n in range(20)]
    await gallery.upsert([Item(one, vector_of("original"), 0.5, {}) for one in reversed(ids)])
    await gallery.upsert([item("other")])
    found = await gallery.search(vector_of("original"), 21)
    assert [match.id for match in found.matches] == [*ids, "other"]
    assert len((await gallery.search(vector_of("original"), 5)).matches) == 5


async def test_scores_stay_within_their_range(gallery: CheckedGallery) -> None:
    vectors = [vector_of(f"v{n}") for n in range(200)]
    await gallery.upsert([Item(f"v{n}", vector, 0.5, {}) for n, vector in enumerate(vectors)])
    for vector in vectors[:20]:
        found = await gallery.search(vector, 200)
        assert found.matches[0].score <= 1.0
        assert (await gallery.search(-vector, 200)).matches[-1].score >= -1.0


async def test_uncertainty_is_compared_exactly_at_the_boundary(gallery: CheckedGallery) -> None:
    await gallery.upsert([item("at", uncertainty=0.02), item("beyond", uncertainty=1e300)])
    for bound, count in ((0.02, 1), (float(np.nextafter(0.02, 0)), 0), (np.inf, 1), (-np.inf, 0)):
        found = await gallery.search(vector_of("at"), 2, max_uncertainty=bound)
        assert len([match for match in found.matches if match.id == "at"]) == count


async def test_removed_counts_each_item_under_the_first_condition_it_fails(gallery: CheckedGallery) -> None:
    query = vector_of("query")
    away = unit(vector_of("away") - (vector_of("away") @ query) * query)

    def at(item_id: str, score: float, uncertainty: float, colour: str) -> Item:
        vector = unit(score * query.astype(np.float64) + np.sqrt(1 - score**2) * away)
        return Item(item_id, vector, uncertainty, {"colour": colour})

    await gallery.upsert(
        [
            at("fine", 0.95, 0.1, "red"),
            at("blue", 0.94, 0.1, "blue"),
            at("blue, unsure and far", 0.5, 0.9, "blue"),
            at("unsure", 0.93, 0.9, "red"),
            at("unsure and far", 0.49, 0.9, "red"),
            at("far", 0.48, 0.1, "red"),
            at("beyond the limit", 0.1, 0.9, "blue"),
            at("beyond the limit, but fine", 0.05, 0.1, "red"),
        ]
    )
    conditions: dict[str, Any] = {"where": {"colour": "red"}, "max_uncertainty": 0.5, "min_score": 0.6}
    found = await gallery.search(query, 6, **conditions)
    assert [match.id for match in found.matches] == ["fine"]
    assert found.removed == Removed(by_filter=2, by_uncertainty=2, by_score=1)
    del conditions["min_score"]
    found = await gallery.search(query, 6, **conditions)
    assert [match.id for match in found.matches] == ["fine", "far", "beyond the limit, but fine"]
    assert found.removed == Removed(by_filter=2, by_uncertainty=2, by_score=0)
    assert (await gallery.search(query, 6)).removed == Removed()


@pytest.mark.parametrize(
    "vector",
    [np.zeros(DIMENSION), np.full(DIMENSION, np.nan), np.full(DIMENSION, np.inf), np.ones(DIMENSION + 1), np.ones(())],
    ids=["zeros", "nan", "infinite", "too long", "scalar"],
)
async def test_vectors_without_a_direction_are_refused(gallery: CheckedGallery, vector: Any) -> None:
    with pytest.raises(ValueError, match=r"vector"):
        await gallery.search(vector, 1)
    with pytest.raises(ValueError, match=r"vector"):
        await gallery.upsert([Item("a", vector, 0.5, {})])
    assert await gallery.count() == 0


async def test_senseless_requests_are_refused(gallery: CheckedGallery) -> None:
    query = vector_of("query")
    with pytest.raises(ValueError, match="limit"):
        await gallery.search(query, 0)
    with pytest.raises(ValueError, match="min_score"):
        await gallery.search(query, 1, min_score=float("nan"))
    with pytest.raises(ValueError, match="max_uncertainty"):
        await gallery.search(query, 1, max_uncertainty=float("nan"))
    with pytest.raises(FilterError, match="unknown operator"):
        await gallery.search(query, 1, where={"a": {"like": "b"}})


async def test_pages_run_from_the_least_to_the_most_uncertain(gallery: CheckedGallery) -> None:
    items = [item(f"i{n}", uncertainty=n % 4, colour="red" if n % 3 else "blue") for n in range(40)]
    await gallery.upsert(items)
    ordered = [one.id for one in sorted(items, key=lambda one: (one.uncertainty, one.id))]
    pages = [await gallery.page(7, offset) for offset in range(0, 49, 7)]
    assert [one.id for page in pages for one in page] == ordered
    blue = [one.id for one in await gallery.page(100, where={"colour": "blue"})]
    assert blue == [one for one in ordered if int(one[1:]) % 3 == 0]
    assert await gallery.count({"colour": "blue"}) == len(blue)
    assert await gallery.page(0) == []
    with pytest.raises(ValueError, match="negative"):
        await gallery.page(1, -1)

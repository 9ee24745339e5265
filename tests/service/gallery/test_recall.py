"""A gallery with an index: nearly all of the nearest are found at every selectivity, and each item is listed once."""

import dataclasses
from typing import Any

import numpy as np

from service.gallery.base import Item
from tests.service.gallery.oracle import items_in_clusters, scores, unit, vector_of
from tests.service.gallery.places import Place

QUERIES = 50
WIDE = 64  # D of the recall test

CONDITIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "50 %": {"where": {"half": 0}},
    "10 %": {"where": {"tenth": 3}},
    "1 %": {"where": {"hundredth": 37}},
    "10 % by range": {"where": {"rank": {"lt": 400}}},
    "1 % by range": {"where": {"rank": {"gte": 3960}}},
    "uncertainty": {"max_uncertainty": 0.5},
}


def holds(one: Item, where: dict[str, Any] | None = None, max_uncertainty: float = np.inf) -> bool:
    """Whether an item meets one of `CONDITIONS`."""
    field, test = next(iter((where or {"rank": {"gte": 0}}).items()))
    value = one.payload[field]
    passes = test.get("gte", -np.inf) <= value < test.get("lt", np.inf) if isinstance(test, dict) else value == test
    return passes and one.uncertainty <= max_uncertainty


async def test_a_search_through_the_index_finds_nearly_all(place: Place, location: str) -> None:
    gallery = await place.open(location, dimension=WIDE)
    items = [
        dataclasses.replace(one, payload={**one.payload, "half": n % 2, "tenth": n % 10, "hundredth": n % 100})
        for n, one in enumerate(items_in_clusters(4000, dimension=WIDE))
    ]
    for start in range(0, len(items), 1000):
        await gallery.upsert(items[start : start + 1000])
    await gallery.maintain()
    assert gallery._engine.approximate
    queries = [unit(items[61 * n].embedding + 0.1 * vector_of(f"query {n}", WIDE)) for n in range(QUERIES)]
    for name, conditions in CONDITIONS.items():
        passing, shares = [one for one in items if holds(one, **conditions)], list[float]()
        for query in queries:
            by_id = scores(passing, query)
            nearest = sorted(by_id, key=lambda one: -by_id[one])[:10]
            found = {match.id for match in (await gallery.search(query, 10, **conditions)).matches}
            shares.append(len(found.intersection(nearest)) / len(nearest))
        assert np.mean(shares) >= 0.97, name
    await gallery.close()


async def test_pages_and_walks_and_scans_hold_every_item_once(place: Place, location: str) -> None:
    gallery, items = await place.open(location), items_in_clusters(3000)
    for start in range(0, len(items), 1000):
        await gallery.upsert(items[start : start + 1000])
    paged = [one.id for offset in range(0, 3500, 500) for one in await gallery.page(500, offset)]
    assert paged == [one.id for one in sorted(items, key=lambda one: (one.uncertainty, one.id))]
    walked: list[str] = []
    while part := await gallery.walk(walked[-1] if walked else None, 700):
        walked += [one.id for one in part]
    assert walked == sorted(one.id for one in items)
    scanned = [one async for part in gallery.scan() for one in part]
    assert sorted(scanned) == sorted((one.id, one.uncertainty) for one in items)
    await gallery.close()

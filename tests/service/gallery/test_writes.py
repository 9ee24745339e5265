"""Writes: what is stored comes back whole, concurrent writes share commits, and failures stay with their callers."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from service.gallery.base import FilterError, GalleryError, Item
from service.gallery.checked import CheckedGallery
from service.gallery.filters import parse_filter
from service.gallery.rows import Row, to_row
from service.gallery.writer import Delete, DeleteWhere, GroupWriter, Upsert, Write, merge
from tests.service.gallery.oracle import DIMENSION, item, same_item, unit, vector_of
from tests.service.gallery.places import Place

ODD_IDS = ["it's", '"', "\\", "a\nb", "%", "ü", "𝄞", " ", "' OR '1'='1", "a;b--", "x" * 512, "\u202e", "0"]


async def test_an_item_comes_back_to_the_last_bit(gallery: CheckedGallery) -> None:
    payload = {"text": "it's ü 𝄞", "deep": {"a": [1, 2.5, None, True]}}
    stored = Item("one", vector_of("one"), 0.1 + 0.2, payload)
    await gallery.upsert([stored])
    assert same_item(await gallery.get("one"), stored)
    assert same_item((await gallery.page(1))[0], stored)
    assert (await gallery.search(vector_of("one"), 1)).matches[0].payload == payload


async def test_vectors_are_stored_with_unit_norm(gallery: CheckedGallery) -> None:
    for scale in (1e-30, 1.0, 1e30):
        await gallery.upsert([Item("scaled", (scale * vector_of("v")).astype(np.float32), 0.5, {})])
        found = await gallery.get("scaled")
        assert found is not None
        np.testing.assert_allclose(found.embedding, vector_of("v"), atol=1e-6)


async def test_any_text_is_an_id(gallery: CheckedGallery) -> None:
    await gallery.upsert([item(one) for one in ODD_IDS])
    assert await gallery.count() == len(ODD_IDS)
    for one in ODD_IDS:
        assert same_item(await gallery.get(one), item(one))
    for n, one in enumerate(ODD_IDS, start=1):
        assert await gallery.delete([one]) == 1
        assert await gallery.get(one) is None
        assert await gallery.count() == len(ODD_IDS) - n


@pytest.mark.parametrize(
    "item_id", ["", "x" * 513, "a\0b", "\ud800", 7], ids=["empty", "long", "nul", "half", "number"]
)
async def test_what_is_no_id_is_refused(gallery: CheckedGallery, item_id: Any) -> None:
    for call in (
        gallery.get(item_id),
        gallery.delete([item_id]),
        gallery.upsert([Item(item_id, vector_of("a"), 0, {})]),
    ):
        with pytest.raises(ValueError, match="id"):
            await call


@pytest.mark.parametrize(
    "payload",
    [
        {"a": float("nan")},
        {"a": 10**400},
        {"a": "\ud800"},
        {"\ud800": 1},
        {"a": b"bytes"},
        {1: "a"},
        ["a"],
        {"a": [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]},
    ],
    ids=["nan", "huge", "half text", "half key", "bytes", "number as key", "list", "deep"],
)
async def test_what_is_no_payload_is_refused_with_the_whole_call(gallery: CheckedGallery, payload: Any) -> None:
    with pytest.raises(ValueError, match="payload"):
        await gallery.upsert([item("good"), Item("bad", vector_of("bad"), 0.5, payload)])
    assert await gallery.count() == 0


async def test_uncertainty_must_be_finite(gallery: CheckedGallery) -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="uncertainty"):
            await gallery.upsert([item("a", uncertainty=value)])


async def test_the_last_of_equal_ids_wins(gallery: CheckedGallery) -> None:
    await gallery.upsert([item("a", uncertainty=1), item("b"), item("a", uncertainty=2)])
    assert await gallery.count() == 2
    await gallery.upsert([Item("a", vector_of("new"), 3.0, {"n": 3})])
    assert same_item(await gallery.get("a"), Item("a", vector_of("new"), 3.0, {"n": 3}))


async def test_delete_counts_what_was_there(gallery: CheckedGallery) -> None:
    await gallery.upsert([item(f"i{n}") for n in range(1200)])
    assert await gallery.delete(["i1", "i1", "missing"]) == 1
    assert await gallery.delete([f"i{n}" for n in range(1200)]) == 1199
    assert await gallery.count() == 0


async def test_delete_where_deletes_what_passes(gallery: CheckedGallery) -> None:
    await gallery.upsert([item(f"i{n}", n=n) for n in range(20)])
    assert await gallery.delete_where({"n": {"gte": 5, "lt": 8}}) == 3
    assert await gallery.delete_where({"n": {"gte": 5, "lt": 8}}) == 0
    assert await gallery.count() == 17
    with pytest.raises(FilterError, match="every item"):
        await gallery.delete_where({})


async def test_concurrent_upserts_are_all_stored(gallery: CheckedGallery) -> None:
    await asyncio.gather(*(gallery.upsert([item(f"i{n}")]) for n in range(200)))
    assert await gallery.count() == 200
    for n in (0, 99, 199):
        assert same_item(await gallery.get(f"i{n}"), item(f"i{n}"))


async def test_nothing_to_do_is_done(gallery: CheckedGallery) -> None:
    await gallery.upsert([])
    assert await gallery.delete([]) == 0
    assert await gallery.delete(["missing"]) == 0


async def test_concurrent_writes_of_one_id_happen_in_order(gallery: CheckedGallery) -> None:
    kept, gone, counts = item("kept"), item("gone"), []
    results = await asyncio.gather(
        gallery.upsert([gone]),
        gallery.delete(["kept", "gone"]),
        gallery.upsert([item("kept", uncertainty=9)]),
        gallery.delete(["kept"]),
        gallery.upsert([kept]),
        gallery.delete(["gone"]),
        gallery.upsert([item("other", colour="red")]),
        gallery.delete_where({"colour": "red"}),
        gallery.upsert([item("late", colour="red")]),
    )
    counts = [one for one in results if one is not None]
    assert counts == [1, 1, 0, 1]
    assert {one.id for one in await gallery.page(10)} == {"kept", "late"}
    assert same_item(await gallery.get("kept"), kept)


async def test_every_write_is_seen_by_the_next_read(gallery: CheckedGallery, place: Place, location: str) -> None:
    other = await place.open(location)
    for n in range(5):
        await gallery.upsert([item(f"i{n}")])
        for reader in (gallery, other):
            assert await reader.count() == n + 1
            assert (await reader.search(vector_of(f"i{n}"), 1)).matches[0].id == f"i{n}"
    await other.delete(["i0"])
    assert await gallery.get("i0") is None
    await other.close()


async def test_several_writers_of_one_gallery_lose_and_double_nothing(
    gallery: CheckedGallery, place: Place, location: str
) -> None:
    others = [await place.open(location) for _ in range(2)]
    for round_ in range(4):
        if round_ == 2:
            await gallery.maintain()
        await asyncio.gather(
            *(
                writer.upsert([item(f"{round_}-{n}", writer=w)])
                for w, writer in enumerate([gallery, *others])
                for n in range(4)
            ),
            *(writer.upsert([item(f"{round_}-{w}-own")]) for w, writer in enumerate([gallery, *others])),
        )
    ids = [one.id for one in await gallery.page(1000)]
    assert len(ids) == len(set(ids)) == 4 * (4 + 3)
    for other in others:
        await other.close()


async def test_a_closed_gallery_finishes_what_it_accepted_and_takes_no_more(place: Place, location: str) -> None:
    gallery = await place.open(location)
    pending = [asyncio.create_task(gallery.upsert([item(f"i{n}")])) for n in range(20)]
    await asyncio.sleep(0)
    await gallery.close()
    await gallery.close()
    await asyncio.gather(*pending)
    for call in (gallery.upsert([item("late")]), gallery.get("i0"), gallery.count()):
        with pytest.raises(GalleryError, match="closed"):
            await call
    again = await place.open(location)
    assert await again.count() == 20
    await again.close()


def row(item_id: str, uncertainty: float = 0.5) -> Row:
    return to_row(item(item_id, uncertainty=uncertainty), DIMENSION)


def test_a_group_leaves_one_state_per_id() -> None:
    first, second = row("a", 1), row("a", 2)
    group: list[Write] = [Upsert((first, row("b"))), Delete(("a", "c", "c", "d")), Upsert((second,)), Delete(("b",))]
    merged = merge(group, existing={"c"})
    assert [one.uncertainty for one in merged.rows] == [2]
    assert merged.deleted == ("c",)
    assert merged.counts == (0, 2, 0, 1)


class Commits:
    """Commits that wait to be let through, and fail when they hold the id "poison"."""

    def __init__(self) -> None:
        self.groups: list[list[Write]] = []
        self.gate = asyncio.Event()

    async def __call__(self, group: Sequence[Write]) -> list[int]:
        self.groups.append(list(group))
        await self.gate.wait()
        if Delete(("poison",)) in group:
            raise OSError("disk full")
        return [len(self.groups)] * len(group)


async def submit_all(writer: GroupWriter, *writes: Write) -> list["asyncio.Task[int]"]:
    tasks = [asyncio.create_task(writer.submit(write)) for write in writes]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_writes_that_wait_go_into_the_next_group() -> None:
    commits = Commits()
    writer = GroupWriter(commits)
    a, b, c, where, d = (
        Delete(("a",)),
        Delete(("b",)),
        Delete(("c",)),
        DeleteWhere(parse_filter({"a": 1})),
        Delete(("d",)),
    )
    first = await submit_all(writer, a)
    rest = await submit_all(writer, b, c, where, d)
    commits.gate.set()
    assert await asyncio.gather(*first, *rest) == [1, 2, 2, 3, 4]
    assert commits.groups == [[a], [b, c], [where], [d]]


async def test_a_group_does_not_grow_without_bound() -> None:
    commits = Commits()
    writer = GroupWriter(commits)
    first = await submit_all(writer, Delete(("a",)))
    big = Delete(tuple(str(n) for n in range(600)))
    rest = await submit_all(writer, big, big, big)
    commits.gate.set()
    await asyncio.gather(*first, *rest)
    assert [len(group) for group in commits.groups] == [1, 1, 1, 1]


async def test_a_failing_group_fails_only_its_own_callers() -> None:
    commits = Commits()
    writer = GroupWriter(commits)
    before = await submit_all(writer, Delete(("a",)))
    failing = await submit_all(writer, Delete(("b",)), Delete(("poison",)))
    commits.gate.set()
    results = await asyncio.gather(*before, *failing, return_exceptions=True)
    assert results[0] == 1
    assert all(isinstance(one, GalleryError) and "disk full" in str(one) for one in results[1:])
    assert results[1] is not results[2]
    assert await writer.submit(Delete(("c",))) == 3


async def test_a_cancelled_caller_takes_back_what_has_not_begun() -> None:
    commits = Commits()
    writer = GroupWriter(commits)
    (begun,) = await submit_all(writer, Delete(("a",)))
    waiting, other = await submit_all(writer, Delete(("b",)), Delete(("c",)))
    begun.cancel()
    waiting.cancel()
    await asyncio.sleep(0)
    commits.gate.set()
    await writer.close()
    assert begun.cancelled()
    assert waiting.cancelled()
    assert await other == 2
    assert commits.groups == [[Delete(("a",))], [Delete(("c",))]]


async def test_a_cancelled_upsert_leaves_its_neighbours_alone(gallery: CheckedGallery) -> None:
    tasks = [asyncio.create_task(gallery.upsert([item(f"i{n}")])) for n in range(30)]
    await asyncio.sleep(0.002)
    for task in tasks[::3]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    stored = {one.id for one in await gallery.page(100)}
    assert stored >= {f"i{n}" for n in range(30) if n % 3}


def test_unit_vectors_are_not_touched() -> None:
    vector = unit(np.arange(1.0, DIMENSION + 1))
    assert np.array_equal(to_row(Item("a", vector, 0.5, {}), DIMENSION).embedding, vector)


async def test_many_are_read_by_id_each_once(gallery: CheckedGallery) -> None:
    await gallery.upsert([item(f"i{n}") for n in range(1200)])
    ids = [f"i{n}" for n in range(1, 1200)]
    found = {one.id: one for one in await gallery.get_many([*ids, "i1", "missing"])}
    assert len(await gallery.get_many([*ids, "i1", "missing"])) == len(found) == 1199
    assert all(same_item(found[one], item(one)) for one in ids)
    assert await gallery.get_many([]) == []

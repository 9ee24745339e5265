"""Stand-ins for the session and the gallery, for what a real one cannot be made to do on demand."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.gallery.base import Filter, Found, Item, Match, NoRoom, Removed
from service.gallery.filters import parse_filter, passes
from service.lanes import Outputs
from service.session import Session
from service.settings import Device
from service.tuning import Tuning


class FakeGallery:
    """Items in a dict, searched by brute force."""

    engine = "fake"

    def __init__(self) -> None:
        self.items: dict[str, Item] = {}
        self.closed = False
        self.room = 10_000
        self.before_write: Callable[[], None] = lambda: None
        self.may_write = asyncio.Event()
        self.may_write.set()

    def check(self, item: Item) -> None:
        if len(str(item.payload)) > self.room:
            raise NoRoom(f"payload of {item.id!r} is too long")

    async def upsert(self, items: Sequence[Item]) -> None:
        self.before_write()
        await self.may_write.wait()
        self.items |= {item.id: item for item in items}

    async def get(self, item_id: str) -> Item | None:
        return self.items.get(item_id)

    async def get_many(self, item_ids: Sequence[str]) -> list[Item]:
        return [self.items[item_id] for item_id in set(item_ids) if item_id in self.items]

    async def delete(self, item_ids: Sequence[str]) -> int:
        return sum(self.items.pop(item_id, None) is not None for item_id in item_ids)

    async def delete_where(self, where: Filter) -> int:
        return await self.delete([item.id for item in await self._all(where)])

    async def search(
        self,
        vector: NDArray[np.float32],
        limit: int,
        *,
        where: Filter | None = None,
        max_uncertainty: float | None = None,
        min_score: float | None = None,
    ) -> Found:
        condition = parse_filter(where)
        removed = {"by_filter": 0, "by_uncertainty": 0, "by_score": 0}
        matches: list[Match] = []
        nearest = sorted(self.items.values(), key=lambda item: (-float(item.embedding @ vector), item.id))
        for rank, item in enumerate(nearest):
            score = float(item.embedding @ vector)
            if not passes(condition, item.payload):
                reason = "by_filter"
            elif max_uncertainty is not None and item.uncertainty > max_uncertainty:
                reason = "by_uncertainty"
            elif min_score is not None and score < min_score:
                reason = "by_score"
            else:
                matches.append(Match(item.id, score, item.uncertainty, item.payload))
                continue
            removed[reason] += rank < limit
        return Found(matches[:limit], Removed(**removed))

    async def page(self, limit: int, offset: int = 0, where: Filter | None = None) -> list[Item]:
        return (await self._all(where))[offset : offset + limit]

    async def count(self, where: Filter | None = None) -> int:
        return len(await self._all(where))

    async def walk(self, after: str | None, limit: int) -> list[Item]:
        return [self.items[one] for one in sorted(self.items) if after is None or one > after][:limit]

    async def maintain(self) -> None:
        pass

    async def scan(self) -> AsyncIterator[list[tuple[str, float]]]:
        for item in self.items.values():
            yield [(item.id, item.uncertainty)]

    async def close(self) -> None:
        self.closed = True

    async def _all(self, where: Filter | None) -> list[Item]:
        condition = parse_filter(where)
        passing = [item for item in self.items.values() if passes(condition, item.payload)]
        return sorted(passing, key=lambda item: (item.uncertainty, item.id))


class GatedSession:
    """A real session whose runs wait until the gate is opened; `entered` counts the runs begun."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.gate = threading.Event()
        self.entered = threading.Semaphore(0)
        self.batches: list[int] = []

    @property
    def device(self) -> Device:
        return self._session.device

    @property
    def tuning(self) -> Tuning:
        return self._session.tuning

    def run(self, images: Sequence[NDArray[np.uint8]]) -> Outputs:
        self.batches.append(len(images))
        self.entered.release()
        assert self.gate.wait(30)
        return self._session.run(images)


class PoisonedSession:
    """A real session that fails on any batch with an all-black image in it, by `poison`."""

    def __init__(self, session: Session, poison: Callable[[], Outputs]) -> None:
        self._session = session
        self._poison = poison

    @property
    def device(self) -> Device:
        return self._session.device

    @property
    def tuning(self) -> Tuning:
        return self._session.tuning

    def run(self, images: Sequence[NDArray[np.uint8]]) -> Outputs:
        if any(not image.any() for image in images):
            return self._poison()
        return self._session.run(images)

"""What a gallery asks of the engine that keeps its items."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from service.gallery.base import Item, Match
from service.gallery.filters import Where
from service.gallery.rows import Row


class Engine(Protocol):
    """Keeps the items of one bundle: rows already checked go in, and come out to the last bit.

    What a write returns from is on disk, and seen by every read that begins later, in any process that has the same
    items open. One write runs at a time in a process; reads run beside it and beside each other.

    Raises:
        GalleryUnavailable: by every coroutine, where the engine cannot be reached or does not answer in time; a later
            call may succeed, without anything being opened again.
        GalleryError: where it fails otherwise.
    """

    @property
    def name(self) -> str:
        """Of the engine, for people."""

    @property
    def approximate(self) -> bool:
        """Whether `nearest` that need not be exact may miss items now."""

    async def existing(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that are kept."""

    async def commit(self, rows: Sequence[Row], deleted: Sequence[str]) -> None:
        """Store rows, each in place of the one of its id, and delete ids; no id is in both, and none twice."""

    async def delete_where(self, where: Where) -> int:
        """Delete every item for which `filters.passes` holds; the number deleted."""

    async def items(self, ids: Sequence[str]) -> list[Item]:
        """The items of these ids that are kept, in any order."""

    async def count(self, where: Where) -> int:
        """Number of items for which `filters.passes` holds."""

    async def page(self, limit: int, offset: int, where: Where) -> list[str]:
        """Ids of items that pass, from the least to the most uncertain, ties by id in order of code points."""

    async def walk(self, after: str | None, limit: int) -> list[Item]:
        """The first `limit` items, by id in order of code points, of those that come after one id, or of all."""

    async def nearest(
        self, unit: NDArray[np.float32], limit: int, where: Where, max_uncertainty: float, *, exact: bool
    ) -> list[Match]:
        """The `limit` items nearest to a unit (D,) vector that pass and are no more uncertain; in any order.

        An exact search misses none, another one may. `max_uncertainty` may be infinite.
        """

    def scan(self) -> AsyncIterator[list[tuple[str, float]]]:
        """Id and uncertainty of every item, some at a time, in no order."""

    async def maintain(self) -> None:
        """Do now what makes searches fast after many writes, and is else done in the background: build indexes."""

    async def close(self) -> None:
        """Let go of files and connections; called once, when nothing runs any more."""


@runtime_checkable
class Limited(Protocol):
    """An engine that has no room for some rows."""

    def check(self, row: Row) -> None:
        """Look at a row before anything of its call is written.

        Raises:
            TooLarge: when there is no room for it.
        """

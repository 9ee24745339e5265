"""What a gallery is to the rest of the service: items in, nearest matches out, nothing acknowledged ever lost."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Payload = Mapping[str, Any]
Filter = Mapping[str, Any]


class GalleryError(Exception):
    """A gallery that must not be opened or written to; the message says why and what to do."""


class GalleryUnavailable(GalleryError):
    """The engine cannot be reached or does not answer in time; a write may or may not have happened. Try again."""


class FilterError(ValueError):
    """A filter the gallery cannot read; the message names the part at fault."""


class TooLarge(ValueError):
    """An item that the engine has no room for; the message says how large it is, and may be."""


@dataclass(frozen=True)
class Item:
    """One stored image: `embedding` is (D,) float32 of unit L2 norm, `uncertainty` its raw uncertainty."""

    id: str
    embedding: NDArray[np.float32]
    uncertainty: float
    payload: Payload


@dataclass(frozen=True)
class Match:
    """One item found: `score` is the cosine similarity to the query."""

    id: str
    score: float
    uncertainty: float
    payload: Payload


@dataclass(frozen=True)
class Removed:
    """How many of the `limit` nearest items each condition took out.

    An item counts once, under the first condition it fails, in the order of the fields.
    """

    by_filter: int = 0
    by_uncertainty: int = 0
    by_score: int = 0


@dataclass(frozen=True)
class Found:
    """Matches, best first, and what was removed on the way to them."""

    matches: list[Match]
    removed: Removed


class Gallery(Protocol):
    """Items of one bundle. Every coroutine returns only when its effect is on disk and visible to the next call."""

    @property
    def engine(self) -> str:
        """Name of the engine, for people."""

    async def upsert(self, items: Sequence[Item]) -> None:
        """Store items, replacing those of the same id; the last of equal ids in one call wins."""

    async def get(self, item_id: str) -> Item | None:
        """The item of that id, or None."""

    async def delete(self, item_ids: Sequence[str]) -> int:
        """Delete by id; the number of items that were there."""

    async def delete_where(self, where: Filter) -> int:
        """Delete every item that passes the filter; the number deleted."""

    async def search(
        self,
        vector: NDArray[np.float32],
        limit: int,
        *,
        where: Filter | None = None,
        max_uncertainty: float | None = None,
        min_score: float | None = None,
    ) -> Found:
        """The `limit` nearest items to a unit (D,) vector that meet every condition: never fewer than exist."""

    async def page(self, limit: int, offset: int = 0, where: Filter | None = None) -> list[Item]:
        """Items from the least to the most uncertain, ties by id."""

    async def count(self, where: Filter | None = None) -> int:
        """Number of items, or of those that pass the filter."""

    async def walk(self, after: str | None, limit: int) -> list[Item]:
        """The first `limit` items in order of id, of those that come after one id, or of all."""

    def scan(self) -> AsyncIterator[list[tuple[str, float]]]:
        """Id and uncertainty of every item, some at a time, in no order."""

    async def maintain(self) -> None:
        """Do now what makes searches fast after many writes, and is else done in the background."""

    async def close(self) -> None:
        """Finish what was accepted and let go of the files."""

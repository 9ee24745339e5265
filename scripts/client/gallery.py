"""The gallery of a server: items put in, looked at and taken out."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Unpack

from numpy.typing import ArrayLike

from scripts.client import calls
from scripts.client.calls import NewItem
from scripts.client.images import Image
from scripts.client.many import Pair, load_item
from scripts.client.options import StoreOptions
from scripts.client.results import GalleryInfo, Item, Stored

if TYPE_CHECKING:
    from scripts.client.asynchronous import AsyncClient
    from scripts.client.sync import Client


class Gallery:
    """The items that are searched."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def put(
        self,
        id: str,
        image: Image | None = None,
        *,
        vector: ArrayLike | None = None,
        uncertainty: float | None = None,
        payload: Mapping[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> Stored:
        """Store an item, of an image or of a vector (D,) and its uncertainty, in place of the one of that id."""
        return self._client.ask(calls.put(NewItem(id, image, vector, uncertainty, payload or {}), options))

    def add_many(
        self,
        items: Iterable[NewItem],
        *,
        batch: int = 16,
        concurrency: int = 4,
        ordered: bool = True,
        **options: Unpack[StoreOptions],
    ) -> Iterator[Pair[NewItem, Stored]]:
        """Each item and that it is stored, or the error that it alone failed with; as `Client.embed_many`."""
        make = partial(calls.put_many, options=options)
        return self._client.stream(items, load_item, make, batch, concurrency, ordered)

    def get(self, id: str) -> Item:
        """An item and its embedding; ApiError `unknown_id` where there is none."""
        return self._client.ask(calls.get(id))

    def delete(self, *ids: str) -> int:
        """Delete items; how many were there."""
        return self._client.ask(calls.delete(ids))

    def delete_where(self, filter: Mapping[str, Any]) -> int:
        """Delete the items that pass a filter; how many did."""
        return self._client.ask(calls.delete_where(filter))

    def items(self, filter: Mapping[str, Any] | None = None, *, page: int = 1000) -> Iterator[Item]:
        """The items from the least to the most uncertain, a page at a time: no snapshot where others write."""
        offset = 0
        while items := self._client.ask(calls.page(filter, offset, page)).items:
            yield from items
            offset += len(items)

    def count(self, filter: Mapping[str, Any] | None = None) -> int:
        """How many items there are, or how many pass a filter."""
        return self.describe(filter).passing

    def describe(self, filter: Mapping[str, Any] | None = None) -> GalleryInfo:
        """What the gallery is, and how many items it has."""
        return self._client.ask(calls.describe(filter))


class AsyncGallery:
    """As `Client.gallery`."""

    def __init__(self, client: "AsyncClient") -> None:
        self._client = client

    async def put(
        self,
        id: str,
        image: Image | None = None,
        *,
        vector: ArrayLike | None = None,
        uncertainty: float | None = None,
        payload: Mapping[str, Any] | None = None,
        **options: Unpack[StoreOptions],
    ) -> Stored:
        """As `Gallery.put`."""
        item = NewItem(id, image, vector, uncertainty, payload or {})
        return await self._client.ask(await asyncio.to_thread(calls.put, item, options))

    def add_many(
        self,
        items: Iterable[NewItem],
        *,
        batch: int = 16,
        concurrency: int = 4,
        ordered: bool = True,
        **options: Unpack[StoreOptions],
    ) -> AsyncIterator[Pair[NewItem, Stored]]:
        """As `Gallery.add_many`."""
        make = partial(calls.put_many, options=options)
        return self._client.stream(items, load_item, make, batch, concurrency, ordered)

    async def get(self, id: str) -> Item:
        """As `Gallery.get`."""
        return await self._client.ask(calls.get(id))

    async def delete(self, *ids: str) -> int:
        """As `Gallery.delete`."""
        return await self._client.ask(calls.delete(ids))

    async def delete_where(self, filter: Mapping[str, Any]) -> int:
        """As `Gallery.delete_where`."""
        return await self._client.ask(calls.delete_where(filter))

    async def items(self, filter: Mapping[str, Any] | None = None, *, page: int = 1000) -> AsyncIterator[Item]:
        """As `Gallery.items`."""
        offset = 0
        while items := (await self._client.ask(calls.page(filter, offset, page))).items:
            for item in items:
                yield item
            offset += len(items)

    async def count(self, filter: Mapping[str, Any] | None = None) -> int:
        """As `Gallery.count`."""
        return (await self.describe(filter)).passing

    async def describe(self, filter: Mapping[str, Any] | None = None) -> GalleryInfo:
        """As `Gallery.describe`."""
        return await self._client.ask(calls.describe(filter))

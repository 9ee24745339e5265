"""Group commit: writes that wait while a commit is in flight go into the next one together."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from service.gallery.base import GalleryError, GalleryUnavailable
from service.gallery.filters import Where
from service.gallery.rows import Row

MAX_GROUP_ROWS = 1024


@dataclass(frozen=True)
class Upsert:
    """Store these rows, in order."""

    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Delete:
    """Delete these ids."""

    ids: tuple[str, ...]


@dataclass(frozen=True)
class DeleteWhere:
    """Delete every item that passes."""

    where: Where


Write = Upsert | Delete | DeleteWhere
Commit = Callable[[Sequence[Write]], Awaitable[Sequence[int]]]


@dataclass(frozen=True)
class Merged:
    """A group in one state per id, and how many items each of its writes deletes."""

    rows: tuple[Row, ...]
    deleted: tuple[str, ...]
    counts: tuple[int, ...]


def ids_to_delete(group: Sequence[Write]) -> list[str]:
    """Every id a group deletes, once."""
    return list(dict.fromkeys(item_id for write in group if isinstance(write, Delete) for item_id in write.ids))


def merge(group: Sequence[Write], existing: set[str]) -> Merged:
    """Replay a group of `Upsert` and `Delete` in order: the last write of an id wins.

    Args:
        group: writes in the order they came.
        existing: which of `ids_to_delete(group)` the table holds.
    """
    present = set(existing)
    final: dict[str, Row | None] = {}
    counts: list[int] = []
    for write in group:
        if isinstance(write, Upsert):
            final |= {row.id: row for row in write.rows}
            present |= {row.id for row in write.rows}
            counts.append(0)
        elif isinstance(write, Delete):
            gone = present.intersection(write.ids)
            final |= dict.fromkeys(write.ids)
            present -= gone
            counts.append(len(gone))
        else:
            raise TypeError(f"{type(write).__name__} is committed alone")
    return Merged(
        rows=tuple(row for row in final.values() if row is not None),
        deleted=tuple(item_id for item_id, row in final.items() if row is None and item_id in existing),
        counts=tuple(counts),
    )


class GroupWriter:
    """One commit in flight at a time; the writes that arrive meanwhile are the next group."""

    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._waiting: deque[tuple[Write, asyncio.Future[int]]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, write: Write) -> int:
        """Commit a write with its neighbours; how many items it deleted.

        A caller cancelled before its group starts takes its write back; later, the write happens all the same.

        Raises:
            GalleryError: when the commit fails, or the writer is closed.
        """
        if self._closed:
            raise GalleryError("the gallery is closed")
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append((write, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return await done

    async def close(self) -> None:
        """Commit what was accepted; accept nothing more."""
        self._closed = True
        if self._task is not None:
            await self._task

    async def _drain(self) -> None:
        while self._waiting:
            if group := self._next_group():
                await self._commit_group(group)

    def _next_group(self) -> list[tuple[Write, asyncio.Future[int]]]:
        group: list[tuple[Write, asyncio.Future[int]]] = []
        size = 0
        while self._waiting:
            write, done = self._waiting[0]
            alone = isinstance(write, DeleteWhere)
            if not done.done() and group and (alone or size + _size(write) > MAX_GROUP_ROWS):
                break
            self._waiting.popleft()
            if done.done():
                continue
            group.append((write, done))
            size += _size(write)
            if alone:
                break
        return group

    async def _commit_group(self, group: list[tuple[Write, asyncio.Future[int]]]) -> None:
        try:
            counts = await self._commit([write for write, _ in group])
        except Exception as error:
            for _, done in group:
                if not done.done():
                    done.set_exception(_failure(error))
            return
        for (_, done), count in zip(group, counts, strict=True):
            if not done.done():
                done.set_result(count)


def _size(write: Write) -> int:
    match write:
        case Upsert(rows):
            return len(rows)
        case Delete(ids):
            return len(ids)
        case DeleteWhere():
            return 1


def _failure(error: Exception) -> GalleryError:
    kind = GalleryUnavailable if isinstance(error, GalleryUnavailable) else GalleryError
    failure = kind(f"the gallery could not store this: {error}")
    failure.__cause__ = error
    return failure

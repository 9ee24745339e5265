"""Background care of a LanceDB table: merge small files, drop old versions, build and extend the indexes."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

from lancedb.index import BTree, HnswSq
from lancedb.table import AsyncTable

logger = logging.getLogger(__name__)

ROWS_PER_PARTITION = 1_000_000
REST_PER_WORK = 9.0


@dataclass(frozen=True)
class Upkeep:
    """When to do what.

    Args:
        index_from_rows: below this, an exact scan is fast enough and no vector index is built.
        optimize_every: commits after which small files are merged.
        tick_s: how often to look without being woken.
        keep_versions_s: how long files of an old version stay for the readers that still use it.
    """

    index_from_rows: int = 20_000
    optimize_every: int = 64
    tick_s: float = 30.0
    keep_versions_s: float = 60.0


async def ensure_scalar_indexes(table: AsyncTable) -> None:
    """Index `id` and `uncertainty` where they are not indexed yet."""
    indexed = {column for index in await table.list_indices() for column in index.columns}
    for column in ("id", "uncertainty"):
        if column not in indexed:
            await table.create_index(column, config=BTree())


async def has_vector_index(table: AsyncTable) -> bool:
    """Whether a search may be approximate."""
    return any("embedding" in index.columns for index in await table.list_indices())


class Maintenance:
    """One task that cares for the table beside readers and writers, and rests nine times as long as it works."""

    def __init__(self, table: AsyncTable, upkeep: Upkeep, after: Callable[[], Awaitable[None]]) -> None:
        self._table = table
        self._upkeep = upkeep
        self._after = after
        self._wake = asyncio.Event()
        self._commits = 0
        self._task: asyncio.Task[None] | None = None
        self.indexed = False
        self.state = "idle"
        self.last_error: str | None = None

    async def start(self) -> None:
        """Learn whether there is a vector index, and begin."""
        self.indexed = await has_vector_index(self._table)
        self._wake.set()
        self._task = asyncio.create_task(self._loop())

    async def close(self) -> None:
        """Stop; what is in flight is given up, which leaves the table as it was."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def committed(self) -> None:
        """Note one commit."""
        self._commits += 1
        if self._commits >= self._upkeep.optimize_every:
            self._wake.set()

    async def run_once(self) -> None:
        """Do all that is due now."""
        await self._build_vector_index()
        await self._optimize()
        self.state = "idle"
        await self._after()

    async def _loop(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._upkeep.tick_s):
                    await self._wake.wait()
            self._wake.clear()
            started = clock()
            try:
                await self.run_once()
                self.last_error = None
            except Exception as error:  # a conflict with a writer, most often: the next round does it
                self.state, self.last_error = "idle", str(error)
                logger.warning("gallery upkeep put off: %s", error)
            await asyncio.sleep(REST_PER_WORK * (clock() - started))

    async def _build_vector_index(self) -> None:
        self.indexed = await has_vector_index(self._table)
        rows = 0 if self.indexed else await self._table.count_rows()
        if self.indexed or rows < max(self._upkeep.index_from_rows, 1):
            return
        self.state = "building the index"
        partitions = 1 + rows // ROWS_PER_PARTITION
        await self._table.create_index(
            "embedding", config=HnswSq(distance_type="cosine", num_partitions=partitions), replace=True
        )
        self.indexed = True

    async def _optimize(self) -> None:
        if not self._commits:
            return
        self._commits, self.state = 0, "merging files"
        await self._table.optimize(cleanup_older_than=timedelta(seconds=self._upkeep.keep_versions_s))

"""Background care of a LanceDB table: merge small files, drop old versions, build and extend the indexes.

Of the processes of one machine that have the table open, the one that holds its lock file does this; the others follow
what it did, and one of them takes over when it is gone.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from lancedb.index import BTree, HnswSq, IndexConfig, LabelList
from lancedb.table import AsyncTable

from service.gallery.lance.disk import FileLock

logger = logging.getLogger(__name__)

ROWS_PER_PARTITION = 1_000_000
MAX_SEGMENTS = 8


@dataclass(frozen=True)
class Upkeep:
    """When to do what.

    Args:
        index_from_rows: below this, an exact scan is fast enough and no vector index is built.
        optimize_every: commits after which small files are merged.
        optimize_after_s: how long fewer commits than that may wait for it.
        keep_versions_s: how long files of an old version stay for the readers that still use it.
        tick_s: how often to look without being woken.
        rest_per_work: how many times as long as a round took to wait before the next, `rest_s` at most.
        rest_s: the longest that writes go on without a round.
    """

    index_from_rows: int = 5_000
    optimize_every: int = 64
    optimize_after_s: float = 600.0
    keep_versions_s: float = 60.0
    tick_s: float = 30.0
    rest_per_work: float = 9.0
    rest_s: float = 60.0


async def ensure_scalar_indexes(table: AsyncTable) -> None:
    """Index what searches and filters ask for, where it is not indexed yet."""
    indexed = {column for index in await table.list_indices() for column in index.columns}
    for column, config in (("id", BTree()), ("uncertainty", BTree()), ("tokens", LabelList())):
        if column not in indexed:
            await table.create_index(column, config=config)


async def vector_index(table: AsyncTable) -> IndexConfig | None:
    """The index that makes a search approximate, if there is one."""
    return next((index for index in await table.list_indices() if "embedding" in index.columns), None)


class Maintenance:
    """One task that cares for the table beside readers and writers, and rests longer than it works.

    Attributes:
        indexed: whether a search through the index is possible.
        state: what is done right now, for people.
        last_error: why the last round failed, if it did.
    """

    def __init__(
        self,
        table: AsyncTable,
        upkeep: Upkeep,
        lock: FileLock,
        *,
        after: Callable[[], Awaitable[None]],
        writing: asyncio.Lock,
    ) -> None:
        self._table = table
        self._upkeep = upkeep
        self._lock = lock
        self._after = after
        self._writing = writing
        self._lost = False  # the last merge, to a write
        self._wake = asyncio.Event()
        self._merged = 0  # the version up to which everything is merged: each commit since left about one file
        self._own = 0  # commits of this process so far
        self._task: asyncio.Task[None] | None = None
        self._round = asyncio.Lock()  # two rounds at once would build one index twice, and conflict
        self.indexed = False
        self.state = "idle"
        self.last_error: str | None = None

    async def start(self) -> None:
        """Learn what earlier processes built and left to do, and begin."""
        self.indexed = await vector_index(self._table) is not None
        self._merged = await self._table.version() - (await self._table.stats())["fragment_stats"]["num_fragments"]
        self._task = asyncio.create_task(self._loop())

    async def close(self) -> None:
        """Stop; what is in flight is given up, which leaves the table as it was."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._lock.release()

    def committed(self) -> None:
        """Note one commit of this process's."""
        self._own += 1
        if self._own % self._upkeep.optimize_every == 0:
            self._wake.set()

    async def run_once(self) -> None:
        """Merge and index now, in this order: while an index is built, which takes minutes, files are few."""
        async with self._round:
            try:
                await self._optimize()
                await self._build_vector_index()
                await self._after()
            finally:
                self.state = "idle"

    async def _loop(self) -> None:
        clock = asyncio.get_running_loop().time
        last = clock()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._upkeep.tick_s):
                    await self._wake.wait()
            self._wake.clear()
            with self._noting_failure():
                if not self._lock.acquire():
                    self.indexed = await vector_index(self._table) is not None
                    continue
                pending = await self._table.version() - self._merged
                waited = clock() - last >= self._upkeep.optimize_after_s
                if pending < self._upkeep.optimize_every and not (pending > 0 and waited):
                    continue
                last = clock()
                await self.run_once()
            await asyncio.sleep(min(self._upkeep.rest_s, self._upkeep.rest_per_work * (clock() - last)))

    @contextlib.contextmanager
    def _noting_failure(self) -> Iterator[None]:
        """Go on after a failure, a conflict with a writer most often: the next round does it."""
        try:
            yield
            self.last_error = None
        except Exception as error:
            self.last_error = str(error)
            logger.warning("gallery upkeep put off: %s", error)

    async def _build_vector_index(self) -> None:
        """Build the first index, or one in place of too many small ones, each of which a search has to visit."""
        index, rows = await vector_index(self._table), await self._table.count_rows()
        self.indexed = index is not None
        due = rows >= self._upkeep.index_from_rows if index is None else (index.num_segments or 1) >= MAX_SEGMENTS
        if not rows or not due:
            return
        self.state = "building the index"
        partitions = 1 + rows // ROWS_PER_PARTITION
        config = HnswSq(distance_type="cosine", num_partitions=partitions)
        await self._table.create_index("embedding", config=config, replace=True)
        self.indexed = True

    async def _optimize(self) -> None:
        """Merge small files, take new rows into the indexes, and delete what no reader can need any more.

        A write that replaces rows of a file being merged makes the merge void: the next one is made while writes wait.
        """
        self.state = "merging files"
        before, own = await self._table.version(), self._own
        hold, self._lost = self._writing if self._lost else contextlib.nullcontext(), True
        async with hold:
            await self._table.optimize(cleanup_older_than=timedelta(seconds=self._upkeep.keep_versions_s))
        self._lost = False
        after = await self._table.version()
        came_meanwhile = self._own - own
        left_behind = after > before  # files of replaced versions, for a later round to delete
        self._merged = after - came_meanwhile - left_behind

"""Background care of the table: the vector index is built once there are enough rows, by one process at a time.

PostgreSQL keeps the index up to date from then on, and its autovacuum cleans up after replaced and deleted rows. An
advisory lock, which the server lets go of when a process dies, decides who builds; the others follow what it did.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import asyncpg

from service.gallery.postgresql.address import Address
from service.gallery.postgresql.connections import Connections
from service.gallery.postgresql.errors import translated
from service.gallery.postgresql.sql import quote
from service.gallery.postgresql.table import MAX_INDEXED_DIMENSION, index_name, index_statement

logger = logging.getLogger(__name__)

LOCK_SPACE: Final = 0x63616E64  # "cand": of the advisory locks, beside the table's own number
LOCK: Final = "SELECT pg_try_advisory_lock($1::bigint << 32 | to_regclass($2)::oid::bigint)"
AGAIN_S: Final = 0.5
LEAVE_S: Final = 2.0

Fetch = Callable[..., Awaitable[list[Any]]]  # of the pool, where time limits hold, or of a connection without them


@dataclass(frozen=True)
class Upkeep:
    """When to do what.

    Args:
        index_from_rows: below this, an exact scan is fast enough and no vector index is built.
        tick_s: how often to look.
    """

    index_from_rows: int = 10_000
    tick_s: float = 30.0


class Maintenance:
    """One task that looks after the index beside readers and writers.

    Attributes:
        indexed: whether a search through the index is possible.
        last_error: why the last round failed, if it did.
    """

    def __init__(self, connections: Connections, address: Address, table: str, dimension: int, upkeep: Upkeep) -> None:
        self._connections = connections
        self._address = address
        self._table = table
        self._dimension = dimension
        self._upkeep = upkeep
        self._task: asyncio.Task[None] | None = None
        self.indexed = False
        self.last_error: str | None = None

    async def start(self) -> None:
        """Learn what is there, and begin."""
        self.indexed = await index_is_valid(self._connections.fetch, self._table) is True
        self._task = asyncio.create_task(self._loop())

    async def close(self) -> None:
        """Stop; an index that is being built is given up, and built anew later."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def run_once(self) -> None:
        """Build the index if it is due, and refresh what the planner knows; wait for a process that does so already."""
        async with self._alone(wait=True) as connection:
            if connection is not None:
                await self._build_if_due(connection)
                await connection.execute(f"VACUUM (ANALYZE) {quote(self._table)}")

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(self._upkeep.tick_s)
            try:
                await self._look()
                self.last_error = None
            except Exception as error:  # tried again in the next round
                self.last_error = str(error)
                logger.warning("gallery upkeep put off: %s", error)

    async def _look(self) -> None:
        self.indexed = await index_is_valid(self._connections.fetch, self._table) is True
        if self.indexed or not await self._is_due(self._connections.fetch):
            return
        async with self._alone(wait=False) as connection:
            if connection is not None:
                await self._build_if_due(connection)

    async def _build_if_due(self, connection: Any) -> None:
        """Build the index where there is none, or one that a death left unfinished."""
        valid = await index_is_valid(connection.fetch, self._table)
        if not valid and await self._is_due(connection.fetch):
            if valid is False:
                await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {quote(index_name(self._table))}")
            await connection.execute(index_statement(self._table, self._dimension))
            await connection.execute(f"ANALYZE {quote(self._table)}")
            valid = True
        self.indexed = valid is True

    async def _is_due(self, fetch: Fetch) -> bool:
        if self._dimension > MAX_INDEXED_DIMENSION:
            return False
        enough = f"SELECT count(*) >= $1 AS due FROM (SELECT FROM {quote(self._table)} LIMIT $1) AS first"
        records = await fetch(enough, self._upkeep.index_from_rows)
        return bool(records[0]["due"])

    @contextlib.asynccontextmanager
    async def _alone(self, *, wait: bool) -> AsyncIterator[Any]:
        """A connection without time limits, for one process at a time; None where another has it."""
        connection = await self._address.connect()
        try:
            with translated(self._address.name):
                await connection.execute("SET statement_timeout = 0; SET lock_timeout = 0")
                yield connection if await self._locked(connection, wait=wait) else None
        finally:
            await leave(connection)

    async def _locked(self, connection: Any, *, wait: bool) -> bool:
        while True:
            if await connection.fetchval(LOCK, LOCK_SPACE, quote(self._table)):
                return True
            if not wait:
                return False
            await asyncio.sleep(AGAIN_S)


async def index_is_valid(fetch: Fetch, table: str) -> bool | None:
    """Whether a table's vector index is whole; None where there is none."""
    records = await fetch(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)", quote(index_name(table))
    )
    return bool(records[0]["indisvalid"]) if records else None


async def leave(connection: Any) -> None:
    """Close a connection, whatever state it or the server is in."""
    with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        await connection.close(timeout=LEAVE_S)

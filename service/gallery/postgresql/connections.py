"""The pool of connections: each call borrows one, for as long as a call may take and no longer."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar

import asyncpg

from service.gallery.postgresql.address import Address
from service.gallery.postgresql.errors import CONFLICTS, translated
from service.gallery.postgresql.table import register_vector

TRIES: Final = 8
WAIT_S: Final = 0.02
GIVE_BACK_S: Final = 1.0  # for a connection to become usable again; then it is dropped
PLAN_EACH: Final = "SET LOCAL plan_cache_mode = force_custom_plan"  # what is best depends on a filter's values
DURABLE: Final = (  # what the server says, unless it is to acknowledge what is not on disk
    "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
)

Result = TypeVar("Result")
Action = Callable[[Any], Awaitable[Result]]


class Connections:
    """A pool; after the server was away, it connects anew by itself."""

    def __init__(self, pool: Any, address: Address) -> None:
        self._pool = pool
        self._address = address

    async def fetch(self, sql: str, *values: Any) -> list[Any]:
        """The records of one statement."""
        async with self._borrowed() as connection:
            records: list[Any] = await connection.fetch(sql, *values)
        return records

    async def fetch_planned(self, sql: str, *values: Any, settings: str = PLAN_EACH) -> list[Any]:
        """The records of one statement that reads, planned for these values, under settings of its own."""
        async with self._borrowed() as connection, connection.transaction(readonly=True):
            await connection.execute(settings)
            records: list[Any] = await connection.fetch(sql, *values)
        return records

    async def write(self, action: Action[Result]) -> Result:
        """Run an action in one transaction that is on disk when this returns; again where another's got in its way."""
        async with self._borrowed() as connection:
            for attempt in range(TRIES - 1):
                try:
                    return await _transact(connection, action)
                except CONFLICTS:
                    await asyncio.sleep(WAIT_S * 2**attempt * (0.5 + random.random()))
            return await _transact(connection, action)

    async def close(self) -> None:
        """Let go of the connections."""
        try:
            async with asyncio.timeout(self._address.timeout_s):
                await self._pool.close()
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()

    @contextlib.asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[Any]:
        """A connection for one call.

        Raises:
            GalleryError, GalleryUnavailable: as `translated`.
        """
        with translated(self._address.name):
            async with asyncio.timeout(self._address.timeout_s):
                connection = await self._pool.acquire()
                try:
                    yield connection
                except asyncpg.ReadOnlySQLTransactionError:
                    await self._pool.expire_connections()  # that server became a standby: find the one that took over
                    raise
                finally:
                    await self._give_back(connection)

    async def _give_back(self, connection: Any) -> None:
        """Return a connection; one that does not become usable in time is dropped by the pool."""
        with contextlib.suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self._pool.release(connection, timeout=GIVE_BACK_S)


async def open_connections(address: Address, size: int, vector_schema: str) -> Connections:
    """A pool of at most so many connections, none of which is made before it is needed."""
    pool = asyncpg.create_pool(
        **address.arguments,
        min_size=0,
        max_size=size,
        timeout=address.timeout_s,
        command_timeout=address.timeout_s,
        init=partial(register_vector, schema=vector_schema),
    )
    return Connections(await pool, address)


async def _transact(connection: Any, action: Action[Result]) -> Result:
    async with connection.transaction():
        await connection.execute(DURABLE)
        return await action(connection)

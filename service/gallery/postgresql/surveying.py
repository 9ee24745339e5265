"""What is in a database, read in one transaction that cannot write."""

import asyncio
from typing import Any, Final

from service.gallery.base import GalleryError
from service.gallery.identity import Identity
from service.gallery.options import EngineOptions
from service.gallery.postgresql.address import address_of
from service.gallery.postgresql.errors import translated
from service.gallery.postgresql.maintenance import index_is_valid, leave
from service.gallery.postgresql.opening import PGVECTOR, require_ours, require_recent
from service.gallery.postgresql.sql import quote
from service.gallery.postgresql.table import FORMAT, check_name
from service.gallery.survey import Survey

OFFERED: Final = "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"
RIGHTS: Final = (
    "SELECT has_table_privilege($1, 'INSERT') AND has_table_privilege($1, 'UPDATE') "
    "AND has_table_privilege($1, 'DELETE')"
)
STANDBY: Final = "SELECT pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool"


async def survey(location: str, *, dimension: int, bundle_hash: str, options: EngineOptions) -> Survey:
    """As `survey_gallery`."""
    table, address = check_name(options.table), address_of(location, options)
    connection = await address.connect()
    try:
        with translated(address.name):
            async with asyncio.timeout(address.timeout_s), connection.transaction(readonly=True):
                return await _survey(connection, address.name, table, Identity(FORMAT, bundle_hash, str(dimension)))
    finally:
        await leave(connection)


async def _survey(connection: Any, name: str, table: str, ours: Identity) -> Survey:
    version = await connection.fetchval("SHOW server_version")
    engine = f"PostgreSQL {version.split()[0]} with pgvector {await _pgvector(connection, name)}"
    standby = await connection.fetchval(STANDBY)
    if await connection.fetchval("SELECT to_regclass($1)", quote(table)) is None:
        return Survey(engine, writable=not standby)
    await require_ours(connection, name, table, ours)
    items = await connection.fetchval(f"SELECT count(*) FROM {quote(table)}")
    indexed = await index_is_valid(connection.fetch, table) is True
    may_write = await connection.fetchval(RIGHTS, quote(table))
    return Survey(engine, items, 0 if indexed else items, may_write and not standby)


async def _pgvector(connection: Any, name: str) -> str:
    """The version that is there, or that would be once the extension is made."""
    found = await connection.fetchrow(PGVECTOR)
    version: str | None = found["version"] if found else await connection.fetchval(OFFERED)
    if version is None:
        raise GalleryError(f"pgvector is not installed on the server of PostgreSQL at {name}")
    require_recent(version, name)
    return version

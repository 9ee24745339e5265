"""Opening the table of a gallery: made where there is none, refused where it is not this bundle's."""

import asyncio
import json
from dataclasses import asdict
from typing import Any, Final

import asyncpg

from service.gallery.base import GalleryError
from service.gallery.identity import Identity, require_same
from service.gallery.options import EngineOptions
from service.gallery.postgresql.address import Address, address_of
from service.gallery.postgresql.connections import DURABLE, open_connections
from service.gallery.postgresql.engine import PostgresEngine
from service.gallery.postgresql.errors import translated
from service.gallery.postgresql.maintenance import Upkeep, leave
from service.gallery.postgresql.sql import quote
from service.gallery.postgresql.table import FORMAT, MAX_DIMENSION, check_name, create_statements

OLDEST_PGVECTOR: Final = (0, 8)  # whose filtered searches go on until they have found enough
OPENING_LOCK: Final = 0x63616E646F72  # "candor": one process at a time makes what is not there
PGVECTOR: Final = (
    "SELECT extversion AS version, nspname AS schema FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace "
    "WHERE extname = 'vector'"
)
COMMENT: Final = "SELECT format('COMMENT ON TABLE %s IS %L', $1::text, $2::text)"
COMMENT_KEY: Final = "candor"


async def open_postgres_engine(
    location: str, *, dimension: int, bundle_hash: str, options: EngineOptions, upkeep: Upkeep | None = None
) -> PostgresEngine:
    """Open or create the table of one bundle.

    Args:
        location: `postgresql://` URL, as asyncpg takes it.
        dimension: D of the bundle's embeddings.
        bundle_hash: the bundle's `hash`.
        options: how the server is reached.
        upkeep: when to build the index, where the default does not fit.

    Raises:
        GalleryUnavailable: where the server cannot be reached now.
        GalleryError: when the database cannot be used, or the table holds the items of another bundle.
    """
    if dimension > MAX_DIMENSION:
        raise GalleryError(f"pgvector holds at most {MAX_DIMENSION} dimensions, not {dimension}")
    table, address = check_name(options.table), address_of(location, options)
    schema = await _prepare(address, table, Identity(FORMAT, bundle_hash, str(dimension)))
    connections = await open_connections(address, options.pool, schema)
    engine = PostgresEngine(connections, address, table, dimension, upkeep or Upkeep())
    await engine.start()
    return engine


async def _prepare(address: Address, table: str, ours: Identity) -> str:
    """Make what is missing and check what is there; the schema that pgvector is in."""
    connection = await address.connect()
    try:
        with translated(address.name):
            async with asyncio.timeout(address.timeout_s), connection.transaction():
                await connection.execute(DURABLE)  # or a crash could take away a table that this process has open
                await connection.execute("SELECT pg_advisory_xact_lock($1)", OPENING_LOCK)
                schema = await _require_pgvector(connection, address.name)
                await _require_table(connection, address.name, table, ours)
    finally:
        await leave(connection)
    return schema


async def _require_pgvector(connection: Any, name: str) -> str:
    """The extension's schema; it is made where it is not there."""
    found = await connection.fetchrow(PGVECTOR)
    if found is None:
        await _create_pgvector(connection, name)
        found = await connection.fetchrow(PGVECTOR)
    require_recent(found["version"], name)
    schema: str = found["schema"]
    return schema


def require_recent(version: str, name: str) -> None:
    """Refuse a pgvector that is too old, of the server of that name."""
    if tuple(map(int, version.split(".")[:2])) < OLDEST_PGVECTOR:
        raise GalleryError(
            f"PostgreSQL at {name} has pgvector {version}, which needs to be 0.8 or newer: install it on the "
            "server, then run ALTER EXTENSION vector UPDATE"
        )


async def _create_pgvector(connection: Any, name: str) -> None:
    try:
        async with connection.transaction():
            await connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
    except asyncpg.InsufficientPrivilegeError as error:
        raise GalleryError(
            f"PostgreSQL at {name} has no extension vector in this database and this login may not create it: have a "
            "superuser run CREATE EXTENSION vector there"
        ) from error
    except (asyncpg.FeatureNotSupportedError, asyncpg.UndefinedFileError) as error:
        raise GalleryError(f"pgvector is not installed on the server of PostgreSQL at {name}: {error}") from error


async def _require_table(connection: Any, name: str, table: str, ours: Identity) -> None:
    if await connection.fetchval("SELECT to_regclass($1)", quote(table)) is None:
        for statement in create_statements(table, int(ours.dimension)):
            await connection.execute(statement)
        comment = await connection.fetchval(COMMENT, quote(table), json.dumps({COMMENT_KEY: asdict(ours)}))
        await connection.execute(comment)
        return
    await require_ours(connection, name, table, ours)


async def require_ours(connection: Any, name: str, table: str, ours: Identity) -> None:
    """Refuse a table whose comment says something else than what this server would have written.

    Raises:
        GalleryError: where it holds the items of another bundle, or is no gallery.
    """
    written = await connection.fetchval("SELECT obj_description(to_regclass($1), 'pg_class')", quote(table))
    place, elsewhere = (
        f"{name}, table {table}",
        "CANDOR_GALLERY_TABLE to another table, or CANDOR_GALLERY to another place",
    )
    require_same(_identity(written), ours, place=place, elsewhere=elsewhere)


def _identity(comment: str | None) -> Identity | None:
    """What the table's comment says, where it is one of ours."""
    try:
        return Identity(**json.loads(comment or "")[COMMENT_KEY])
    except (ValueError, TypeError, LookupError):
        return None

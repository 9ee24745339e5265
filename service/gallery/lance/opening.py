"""Opening the LanceDB table of a gallery: made where there is none, refused where it is not this bundle's."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

import lancedb
import pyarrow as pa
from lancedb.db import AsyncConnection
from lancedb.table import AsyncTable

from service.cores import usable_cores
from service.gallery.base import GalleryUnavailable
from service.gallery.identity import Identity, require_same
from service.gallery.lance.failures import RAISED, failure
from service.gallery.lance.maintenance import ensure_scalar_indexes
from service.gallery.lance.retry import retrying
from service.gallery.lance.table import BUNDLE_KEY, DIMENSION_KEY, FORMAT_KEY, TABLE

ENGINE_SETTINGS: Final = {
    "LANCE_INCLUDE_VECTOR_CENTROIDS": "false",  # or the engine warns about its own default
    "LANCE_CPU_THREADS": str(max(8, 2 * usable_cores())),  # with fewer, building an index keeps writes from running
}
IDENTITY_KEYS: Final = (FORMAT_KEY, BUNDLE_KEY, DIMENSION_KEY)


async def open_in_time(location: str, columns: pa.Schema, storage: Mapping[str, str], timeout_s: float) -> AsyncTable:
    """The table as of `open_table`, its columns indexed; a store that never answers would be asked for minutes.

    Raises:
        GalleryError: where it cannot be opened, holds the items of another bundle, or is no gallery.
        GalleryUnavailable: where an object store cannot be reached.
    """
    doing = f"cannot open the gallery at {location}"
    if not is_local(location):
        doing += " with what CANDOR_GALLERY_STORAGE says"
    try:
        async with asyncio.timeout(timeout_s):
            table = await open_table(location, columns, storage)
        await retrying(partial(ensure_scalar_indexes, table))
        return table
    except TimeoutError as error:
        raise GalleryUnavailable(f"{doing}: no answer within {timeout_s:g} s") from error
    except RAISED as error:
        raise failure(error, doing) from error


async def open_table(location: str, columns: pa.Schema, storage: Mapping[str, str]) -> AsyncTable:
    """The table at a folder or the URL of an object store, whose every read sees the newest version.

    Raises:
        GalleryError: where it holds the items of another bundle, or is no gallery.
        OSError, RuntimeError, ValueError: where the place cannot be used.
    """
    if is_local(location):
        await asyncio.to_thread(os.makedirs, location, exist_ok=True)
    table = await _open_or_create(await connect(location, storage), columns)
    require_ours(await table.schema(), columns, location)
    return table


async def connect(location: str, storage: Mapping[str, str]) -> AsyncConnection:
    """LanceDB at a folder that is there, or at the URL of an object store; every read sees the newest version."""
    for name, value in ENGINE_SETTINGS.items():
        os.environ.setdefault(name, value)
    return await lancedb.connect_async(
        location, read_consistency_interval=timedelta(0), storage_options=dict(storage) or None
    )


async def open_existing(db: AsyncConnection) -> AsyncTable | None:
    """The table, if there is one."""
    try:
        return await db.open_table(TABLE)
    except ValueError as error:
        if "not found" not in str(error):
            raise
        return None


def is_local(location: str) -> bool:
    """Whether it is a folder of this machine."""
    return "://" not in location


def lock_path(location: str) -> Path:
    """Where the processes that have this gallery open agree on who does the upkeep."""
    if is_local(location):
        return Path(location) / "upkeep.lock"
    return Path(tempfile.gettempdir()) / f"candor-upkeep-{hashlib.sha256(location.encode()).hexdigest()[:16]}.lock"


async def _open_or_create(db: AsyncConnection, columns: pa.Schema) -> AsyncTable:
    """The table, made now if it is not there; of two processes that make it at once, one makes it."""
    if (table := await open_existing(db)) is not None:
        return table
    try:
        return await db.create_table(TABLE, schema=columns)
    except ValueError as error:
        if "exists" not in str(error):
            raise
    return await db.open_table(TABLE)


def require_ours(found: pa.Schema, wanted: pa.Schema, location: str) -> None:
    """Refuse a table whose metadata says something else than what this server would have written.

    Raises:
        GalleryError: where it holds the items of another bundle, or is no gallery.
    """
    require_same(_identity(found), _identity(wanted), place=location, elsewhere="CANDOR_GALLERY to another folder")


def _identity(columns: pa.Schema) -> Identity:
    metadata = columns.metadata or {}
    return Identity(*(metadata.get(key, b"nothing").decode(errors="replace") for key in IDENTITY_KEYS))

"""What is in a folder or object store, read without making or changing anything."""

import asyncio
import fcntl
import os
from pathlib import Path
from typing import Final

import lancedb
from lancedb.table import AsyncTable

from service.gallery.base import GalleryUnavailable
from service.gallery.lance.failures import RAISED, failure
from service.gallery.lance.maintenance import vector_index
from service.gallery.lance.opening import connect, is_local, lock_path, open_existing, require_ours
from service.gallery.lance.table import schema
from service.gallery.options import EngineOptions
from service.gallery.survey import Survey, nearest_folder

ENGINE: Final = f"LanceDB {lancedb.__version__}"


async def survey(location: str, *, dimension: int, bundle_hash: str, options: EngineOptions) -> Survey:
    """As `survey_gallery`."""
    if is_local(location) and not await asyncio.to_thread(os.path.isdir, location):
        return Survey(ENGINE, writable=_writable(nearest_folder(Path(location))))
    doing = f"cannot read the gallery at {location}"
    try:
        async with asyncio.timeout(options.timeout_s):
            return await _survey(location, dimension, bundle_hash, options)
    except TimeoutError as error:
        raise GalleryUnavailable(f"{doing}: no answer within {options.timeout_s:g} s") from error
    except RAISED as error:
        raise failure(error, doing) from error


async def _survey(location: str, dimension: int, bundle_hash: str, options: EngineOptions) -> Survey:
    writable = not is_local(location) or _writable(Path(location))
    table = await open_existing(await connect(location, options.storage))
    if table is None:
        return Survey(ENGINE, writable=writable)
    require_ours(await table.schema(), schema(dimension, bundle_hash), location)
    rows = await table.count_rows()
    return Survey(ENGINE, rows, await _unindexed(table, rows), writable, _held(lock_path(location)))


async def _unindexed(table: AsyncTable, rows: int) -> int:
    index = await vector_index(table)
    return rows if index is None else int(index.num_unindexed_rows or 0)


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def _held(lock: Path) -> bool:
    """Whether a process holds the lock of the upkeep; asked for a share, which is given back at once."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False

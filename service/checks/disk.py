"""Folders that a server writes to: whether it may, and how much room there is."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from service.checks.findings import Finding, Kind
from service.checks.situation import Situation
from service.gallery import folder_of
from service.gallery.survey import nearest_folder
from service.naming import NONE, read_galleries
from service.settings import MIB
from service.tuning import cache_folder

LOW: Final = 1024 * MIB
FULL: Final = 64 * MIB


def check(situation: Situation) -> Iterator[Finding]:
    """The galleries', the policies', the cache of tunings, and the one for temporary files."""
    settings = situation.settings
    locations = [location for location in read_galleries(settings.gallery).values() if location != NONE]
    galleries = [folder for location in locations if (folder := folder_of(location))]
    policies = settings.policies.parent if settings.policies else Path()
    folders = [*galleries, policies, Path(tempfile.gettempdir()), cache_folder()]
    places = list(dict.fromkeys(nearest_folder(folder.absolute()) for folder in folders))
    free = {place: shutil.disk_usage(place).free for place in places}
    short = [finding for place in places if (finding := room(place, free[place])) is not None]
    yield from short
    yield from _temporary()
    cache = nearest_folder(cache_folder())
    if not (cache.is_dir() and os.access(cache, os.W_OK | os.X_OK)):
        yield Finding(Kind.CACHE_UNWRITABLE, f"{cache_folder()} cannot be made or written to")
    if not short:
        named = ", ".join(map(str, places))
        yield Finding(Kind.DISK_READY, f"{min(free.values()) // MIB} MiB at least are free at {named}")


def room(place: Path, free: int) -> Finding | None:
    """What is wrong with so many free bytes."""
    if free >= LOW:
        return None
    return Finding(Kind.DISK_FULL if free < FULL else Kind.DISK_LOW, f"{free // MIB} MiB are free at {place}")


def _temporary() -> Iterator[Finding]:
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"candor")
    except OSError as error:
        yield Finding(Kind.TEMPORARY_UNWRITABLE, f"{tempfile.gettempdir()}: {error.strerror or error}")

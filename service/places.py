"""Where the gallery of a bundle is, and the file of its policies: as the settings say, filled in."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from service.gallery import folder_of
from service.gallery.options import EngineOptions
from service.naming import fill, gallery_of, plain, read_galleries
from service.settings import Settings

POLICIES: Final = "policies.sqlite"


@dataclass(frozen=True)
class GalleryPlace:
    """A location as `open_gallery` takes it, how its engine is reached, and the file of the policies beside it."""

    location: str
    options: EngineOptions
    policies: Path


def place_of(settings: Settings, name: str, bundle_hash: str, *, default: bool) -> GalleryPlace | None:
    """Where a served bundle's gallery is; None where it has none."""
    location = gallery_of(read_galleries(settings.gallery), settings.gallery_table, name, default=default)
    if location is None:
        return None
    location = fill(location, name, bundle_hash)
    table = fill(settings.gallery_table, name, bundle_hash)
    options = replace(settings.engine_options, table=table)
    return GalleryPlace(location, options, _policies(settings, location, name, default=default))


def shared_places(places: Mapping[str, GalleryPlace]) -> tuple[str, str] | None:
    """Two bundles whose gallery would be in the same place, where there are any."""
    owners: dict[tuple[str, str], str] = {}
    for name, place in places.items():
        folder = folder_of(place.location)
        key = (str(folder or place.location), place.options.table if folder is None else "")
        if key in owners:
            return owners[key], name
        owners[key] = name
    return None


def _policies(settings: Settings, location: str, name: str, *, default: bool) -> Path:
    """The default bundle's file is called as the settings say, another's has its name in it as well."""
    if settings.policies is None and "://" not in location:
        return Path(location) / POLICIES
    path = settings.policies or Path("candor-policies.sqlite")
    return path if default else path.with_name(f"{path.stem}-{plain(name)}{path.suffix}")

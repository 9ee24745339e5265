"""The gallery that the settings and the command line name, opened for moving; and its name without secrets."""

import argparse
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from models.bundle import Bundle, load_bundle
from models.errors import UserError
from models.hub import locate
from service.gallery import folder_of, open_gallery
from service.gallery.base import Gallery, GalleryError
from service.gallery.options import Consistency
from service.naming import read_bundles
from service.places import GalleryPlace, place_of
from service.settings import SettingsError, read_settings

NAMING: Final = (
    "host",
    "port",
    "dbname",
    "database",
    "search_path",
    "options",
)  # of a URL's query; others may be secret


@dataclass(frozen=True)
class Place:
    """A bundle and the gallery of its items."""

    gallery: GalleryPlace
    bundle: Bundle

    @property
    def name(self) -> str:
        """Of the gallery, without user or password, and the same from whatever folder it is asked."""
        if (folder := folder_of(self.gallery.location)) is not None:
            return str(folder)
        url = urlsplit(self.gallery.location)
        query = urlencode([(name, value) for name, value in parse_qsl(url.query) if name in NAMING])
        plain = urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path, query, ""))
        return f"{plain} ({self.gallery.options.table})" if url.scheme == "postgresql" else plain

    @property
    def is_missing_folder(self) -> bool:
        """Whether it is a folder that is not there."""
        folder = folder_of(self.gallery.location)
        return folder is not None and not folder.is_dir()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--gallery` and `--bundle`."""
    parser.add_argument("--gallery", metavar="LOCATION", help="folder or URL, in place of CANDOR_GALLERY")
    parser.add_argument("--bundle", metavar="WHERE", help="bundle of its items, in place of CANDOR_BUNDLE")


def read_place(options: argparse.Namespace) -> Place:
    """What the environment and the options name, of several bundles the default one.

    Raises:
        UserError: for settings or a bundle that cannot be used.
    """
    given: dict[str, Any] = {"gallery": options.gallery, "bundle": options.bundle}
    try:
        settings = read_settings({name: value for name, value in given.items() if value is not None})
    except SettingsError as error:
        raise UserError(str(error)) from error
    name, where = read_bundles(settings.bundle)[0]
    bundle = load_bundle(locate(where, progress=True).folder)
    gallery = place_of(settings, name or bundle.manifest.name, bundle.hash, default=True)
    if gallery is None:
        raise UserError("the settings name no gallery for this bundle: name one with --gallery or CANDOR_GALLERY")
    reading = replace(gallery.options, consistency=settings.gallery_consistency or Consistency.STRONG)
    return Place(replace(gallery, options=reading), bundle)


@contextlib.asynccontextmanager
async def opened(place: Place) -> AsyncIterator[Gallery]:
    """The gallery, closed at the end; reads of it see what every process wrote.

    Raises:
        UserError: in place of a GalleryError, also from within the block.
    """
    try:
        gallery = await open_gallery(
            place.gallery.location,
            dimension=place.bundle.manifest.dimension,
            bundle_hash=place.bundle.hash,
            options=place.gallery.options,
        )
        try:
            yield gallery
        finally:
            await gallery.close()
    except GalleryError as error:
        raise UserError(str(error)) from error

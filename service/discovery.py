"""Which bundles the settings name, as they are on disk and on the hub now, and where the gallery of each is to be."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.bundle import Bundle, BundleError, load_bundle
from models.hub import Located, locate
from service.gallery.base import GalleryError
from service.naming import read_bundles, read_galleries
from service.places import GalleryPlace, place_of, shared_places
from service.settings import Settings


@dataclass(frozen=True)
class Found:
    """A bundle that the settings name, by the name it is served under, and where its gallery is to be."""

    name: str
    located: Located
    bundle: Bundle
    place: GalleryPlace | None


def find_bundles(settings: Settings) -> list[Found]:
    """Every bundle that the settings name, read and verified, the default one first; blocks.

    Raises:
        BundleError: for one that cannot be had or served, and for names that contradict each other.
        GalleryError: where two would share a gallery.
    """
    named = read_bundles(settings.bundle)
    found = [find_bundle(settings, name, where, default=not i) for i, (name, where) in enumerate(named)]
    check_together(found, settings)
    return found


def find_bundle(settings: Settings, name: str | None, where: str, *, default: bool) -> Found:
    """One of them; errors as `find_bundles`."""
    located = locate(where)
    bundle = load_bundle(located.folder)
    called = name or bundle.manifest.name
    return Found(called, located, bundle, place_of(settings, called, bundle.hash, default=default))


def check_together(found: Sequence[Found], settings: Settings) -> None:
    """Return if all of them can be served by one server; errors as `find_bundles`."""
    _check_names([each.name for each in found], settings)
    _check_places({each.name: each.place for each in found if each.place is not None})


def _check_names(names: Sequence[str], settings: Settings) -> None:
    if twice := {name for name in names if names.count(name) > 1}:
        raise BundleError(
            f"two bundles are called {min(twice)!r}: give each a name of its own with CANDOR_BUNDLE=NAME=WHERE,..."
        )
    if strangers := {name for name in read_galleries(settings.gallery) if name is not None} - set(names):
        raise BundleError(
            f"CANDOR_GALLERY has a gallery for {min(strangers)!r}, and the bundles are {', '.join(map(repr, names))}"
        )


def _check_places(places: Mapping[str, GalleryPlace]) -> None:
    if both := shared_places(places):
        raise GalleryError(
            f"bundles {both[0]!r} and {both[1]!r} would share a gallery: put {{bundle}} into CANDOR_GALLERY (or, with "
            "PostgreSQL, into CANDOR_GALLERY_TABLE), or name a place for each"
        )

"""Each bundle that would be served, with its gallery and its policies; then all of them together."""

from collections.abc import Iterator

from models.bundle import BundleError
from service.checks.findings import Finding, Kind, attempted
from service.checks.gallery import examine as examine_gallery
from service.checks.graph import examine as examine_graph
from service.checks.situation import Situation
from service.discovery import Found, check_together, find_bundle
from service.gallery.base import GalleryError
from service.naming import read_bundles
from service.settings import Settings


def check(situation: Situation) -> Iterator[Finding]:
    """One after the other, and whether one server can have them all."""
    settings, found, named = situation.settings, [], read_bundles(situation.settings.bundle)
    for number, (name, where) in enumerate(named):
        try:
            each = find_bundle(settings, name, where, default=not number)
        except BundleError as error:
            yield Finding(Kind.BUNDLE_REFUSED, str(error))
            continue
        found.append(each)
        yield from _examine(each, settings)
    if len(found) == len(named):
        yield from _together(found, settings)


def _examine(found: Found, settings: Settings) -> Iterator[Finding]:
    bundle, place = found.bundle, found.place
    yield Finding(Kind.BUNDLE_LOADED, _describe(found))
    yield from attempted("graph", lambda: examine_graph(bundle, settings))
    if place is None:
        yield Finding(Kind.GALLERY_NONE, f"{found.name} is served without one")
    else:
        yield from attempted("gallery", lambda: examine_gallery(place, bundle, settings))


def _together(found: list[Found], settings: Settings) -> Iterator[Finding]:
    try:
        check_together(found, settings)
    except BundleError as error:
        yield Finding(Kind.BUNDLE_REFUSED, str(error))
    except GalleryError as error:
        yield Finding(Kind.GALLERY_REFUSED, str(error))


def _describe(found: Found) -> str:
    bundle, manifest = found.bundle, found.bundle.manifest
    return f"{found.name} at {bundle.path}: {manifest.backbone.name}, D = {manifest.dimension}, {bundle.hash}"

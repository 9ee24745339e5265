"""Each bundle that would be served, with its gallery and its policies."""

from collections.abc import Iterator

from models.bundle import Bundle, BundleError, load_bundle
from service.checks.findings import Finding, Kind, attempted
from service.checks.gallery import examine as examine_gallery
from service.checks.graph import examine as examine_graph
from service.checks.situation import Served, Situation


def check(situation: Situation) -> Iterator[Finding]:
    """All of them, one after the other."""
    for served in situation.served:
        yield from _examine(served, situation)


def _examine(served: Served, situation: Situation) -> Iterator[Finding]:
    try:
        bundle = load_bundle(served.bundle)
    except BundleError as error:
        yield Finding(Kind.BUNDLE_REFUSED, str(error))
        return
    yield Finding(Kind.BUNDLE_LOADED, _name(bundle))
    settings = situation.settings
    yield from attempted("graph", lambda: examine_graph(bundle, settings))
    yield from attempted("gallery", lambda: examine_gallery(served.gallery, bundle, settings))


def _name(bundle: Bundle) -> str:
    manifest = bundle.manifest
    return f"{manifest.name} at {bundle.path}: {manifest.backbone.name}, D = {manifest.dimension}, {bundle.hash}"

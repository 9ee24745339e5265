"""Opening LanceDB with options of a test's own, and looking at what is behind the gallery."""

from service.gallery.checked import CheckedGallery
from service.gallery.lance.engine import LanceEngine, LanceOptions, open_lance_engine
from tests.service.gallery.oracle import BUNDLE, DIMENSION


async def open_lance(location: str, options: LanceOptions) -> CheckedGallery:
    """The gallery in a folder."""
    engine = await open_lance_engine(location, dimension=DIMENSION, bundle_hash=BUNDLE, options=options)
    return CheckedGallery(engine, DIMENSION)


def engine_of(gallery: CheckedGallery) -> LanceEngine:
    """What keeps a gallery's items."""
    assert isinstance(gallery._engine, LanceEngine)
    return gallery._engine

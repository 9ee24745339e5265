"""Opening PostgreSQL's engine with options of a test's own, and looking at what is behind the gallery."""

from service.gallery.checked import CheckedGallery
from service.gallery.options import EngineOptions
from service.gallery.postgresql.engine import PostgresEngine
from service.gallery.postgresql.maintenance import Upkeep
from service.gallery.postgresql.opening import open_postgres_engine
from tests.service.gallery.oracle import BUNDLE, DIMENSION
from tests.service.gallery.servers.postgresql import BY_HAND


async def open_postgres(
    location: str, options: EngineOptions, upkeep: Upkeep = BY_HAND, dimension: int = DIMENSION
) -> CheckedGallery:
    """The gallery there."""
    engine = await open_postgres_engine(
        location, dimension=dimension, bundle_hash=BUNDLE, options=options, upkeep=upkeep
    )
    return CheckedGallery(engine, dimension)


def engine_of(gallery: CheckedGallery) -> PostgresEngine:
    """What keeps a gallery's items."""
    assert isinstance(gallery._engine, PostgresEngine)
    return gallery._engine

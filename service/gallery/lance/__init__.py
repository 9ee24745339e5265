"""The gallery in LanceDB, in this process: a folder or an object store."""

from service.gallery.lance.engine import LanceEngine, LanceOptions, open_lance_engine
from service.gallery.lance.surveying import survey
from service.gallery.options import EngineOptions

__all__ = ["open_engine", "survey"]


async def open_engine(location: str, *, dimension: int, bundle_hash: str, options: EngineOptions) -> LanceEngine:
    """As `open_lance_engine`."""
    storage = LanceOptions(storage=options.storage)
    return await open_lance_engine(location, dimension=dimension, bundle_hash=bundle_hash, options=storage)

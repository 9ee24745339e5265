"""The gallery in PostgreSQL with pgvector: one table, which any number of servers may share."""

from service.gallery.options import EngineOptions
from service.gallery.postgresql.engine import PostgresEngine
from service.gallery.postgresql.opening import open_postgres_engine
from service.gallery.postgresql.surveying import survey

__all__ = ["open_engine", "survey"]


async def open_engine(location: str, *, dimension: int, bundle_hash: str, options: EngineOptions) -> PostgresEngine:
    """As `open_postgres_engine`."""
    return await open_postgres_engine(location, dimension=dimension, bundle_hash=bundle_hash, options=options)

"""What is in a Milvus collection, asked without loading it."""

from service.gallery.milvus.address import parse_address
from service.gallery.milvus.connection import Connection, quiet_logging
from service.gallery.milvus.opening import require_ours
from service.gallery.options import EngineOptions
from service.gallery.survey import Survey


async def survey(location: str, *, dimension: int, bundle_hash: str, options: EngineOptions) -> Survey:
    """As `survey_gallery`; items that were deleted count until Milvus has cleaned up after them."""
    quiet_logging()
    connection = Connection(parse_address(location, options), options)
    try:
        return await _survey(connection, dimension, bundle_hash)
    finally:
        await connection.close()


async def _survey(connection: Connection, dimension: int, bundle_hash: str) -> Survey:
    engine = f"Milvus {await connection.call('get_server_version')}"
    if not await connection.call("has_collection"):
        return Survey(engine)
    found = await connection.call("describe_collection")
    require_ours(found["properties"], connection.address.location, dimension, bundle_hash)
    stats = await connection.call("get_collection_stats")
    return Survey(engine, int(stats["row_count"]))

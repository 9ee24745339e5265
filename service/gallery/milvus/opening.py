"""Opening the Milvus collection of a gallery: made where there is none, refused where it is not this bundle's."""

from collections.abc import Mapping
from typing import Any, Final

from pymilvus import AsyncMilvusClient
from pymilvus.client.types import LoadState

from service.gallery.base import GalleryError, GalleryUnavailable
from service.gallery.identity import Identity, require_same
from service.gallery.milvus.address import parse_address
from service.gallery.milvus.collection import BUNDLE_KEY, DIMENSION_KEY, FORMAT, FORMAT_KEY, properties, schema
from service.gallery.milvus.connection import Connection, quiet_logging
from service.gallery.milvus.engine import MilvusEngine
from service.gallery.options import EngineOptions

INDEX: Final = {"index_type": "HNSW", "metric_type": "COSINE", "params": {"M": 32, "efConstruction": 256}}


async def open_engine(location: str, *, dimension: int, bundle_hash: str, options: EngineOptions) -> MilvusEngine:
    """Open or create the collection of one bundle.

    Args:
        location: `milvus://[user:password@]host:19530/[database/]collection`.
        dimension: D of the bundle's embeddings.
        bundle_hash: the bundle's `hash`.
        options: how the server is reached, and how many copies of the collection it loads.

    Raises:
        GalleryError: when the place cannot be used, or holds the items of another bundle.
        GalleryUnavailable: when the server cannot be reached or is not ready.
    """
    quiet_logging()
    connection = Connection(parse_address(location, options), options)
    try:
        await _open(connection, dimension, bundle_hash, options.replicas)
    except BaseException:
        await connection.close()
        raise
    return MilvusEngine(connection, options.consistency)


async def _open(connection: Connection, dimension: int, bundle_hash: str, replicas: int) -> None:
    if not await connection.call("has_collection"):
        await _create(connection, dimension, bundle_hash)
    found = await connection.call("describe_collection")
    require_ours(found["properties"], connection.address.location, dimension, bundle_hash)
    if not await connection.call("list_indexes"):  # whoever made the collection may have died before its index
        await connection.call("create_index", index_params=AsyncMilvusClient.prepare_index_params("embedding", **INDEX))
    await _load(connection, replicas)


async def _create(connection: Connection, dimension: int, bundle_hash: str) -> None:
    """Make the collection; of two processes that make it at once, one makes it."""
    try:
        await connection.call(
            "create_collection",
            schema=schema(dimension),
            properties=properties(dimension, bundle_hash),
            consistency_level="Strong",
        )
    except GalleryError:
        if not await connection.call("has_collection"):
            raise


def require_ours(found: Mapping[str, str], location: str, dimension: int, bundle_hash: str) -> None:
    """Refuse a collection whose properties say something else than what this server would have written.

    Raises:
        GalleryError: where it holds the items of another bundle, or is no gallery.
    """
    written = Identity(found.get(FORMAT_KEY, ""), found.get(BUNDLE_KEY, ""), found.get(DIMENSION_KEY, ""))
    ours = Identity(FORMAT, bundle_hash, str(dimension))
    require_same(written, ours, place=location, elsewhere="CANDOR_GALLERY to another collection")


async def _load(connection: Connection, replicas: int) -> None:
    """Have the collection in memory, in that many copies.

    One that is there in another number of them is left alone: to release it would take it from whoever searches it.
    """
    location = connection.address.location
    if await _state(connection) == LoadState.Loaded:
        if (found := len(await connection.call("describe_replica"))) != replicas:
            raise GalleryError(
                f"{location} is loaded in {found} replicas, not {replicas}: set CANDOR_GALLERY_REPLICAS={found}, or "
                "release the collection in Milvus while no server uses it"
            )
        return
    try:
        await connection.call("load_collection", replica_number=replicas)
    except GalleryUnavailable as error:  # perhaps for no other reason than that it takes long
        if (state := await _state(connection)) == LoadState.Loading:
            raise GalleryUnavailable(f"{location} is being loaded, which takes long: try again") from error
        if state != LoadState.Loaded:
            raise
    except GalleryError as error:
        raise GalleryError(f"{location} cannot be loaded in {replicas} replicas: {error}") from error


async def _state(connection: Connection) -> Any:
    return (await connection.call("get_load_state"))["state"]

"""The connection to Milvus: every call within a time, every failure said in the gallery's words."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any, Final

import grpc
from pymilvus import AsyncMilvusClient, MilvusClient
from pymilvus.exceptions import MilvusException

from service.gallery.base import GalleryError, GalleryUnavailable
from service.gallery.milvus.address import Address, client_arguments
from service.gallery.options import EngineOptions

# What these log, with a traceback for each call that fails, is raised as well.
RAISED_ANYWAY: Final = ("pymilvus.decorators", "pymilvus.client.connection_manager")
MARGIN_S: Final = 5.0  # more than ours for the client's own time, or it would give up in words that say less
AWAY: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED})
# Codes of the server: unavailable, out of memory, too many requests, too fast; a collection that is not loaded yet; a
# replica, channel, segment or node that is not there now.
AWAY_CODES: Final = frozenset({2, 3, 4, 8, 101, 103, 400, 401, 500, 501, 503, 600, 601, 602, 901, 902})
AWAY_WORDS: Final = (
    "not ready",
    "not healthy",
    "not loaded",
    "no available",
    "not serving",
    "unavailable",
    "recovering",
)


class Connection:
    """One client of a server, made at the first call and used by every later one; it reconnects by itself."""

    def __init__(self, address: Address, options: EngineOptions) -> None:
        self.address = address
        self._timeout_s = options.timeout_s
        self._arguments = client_arguments(address, options)
        with self._telling():
            self._client = AsyncMilvusClient(timeout=self._patience, **self._arguments)

    async def call(self, name: str, **arguments: Any) -> Any:
        """Call a method of the client on the collection.

        Raises:
            GalleryUnavailable: where the server is away, not ready, or does not answer in time.
            GalleryError: where it refuses.
        """
        with self._telling():
            async with asyncio.timeout(self._timeout_s):
                return await getattr(self._client, name)(
                    collection_name=self.address.collection, timeout=self._patience, **arguments
                )

    async def loaded_segments(self) -> list[Any]:
        """Segments of the collection in memory, sealed ones: their `num_rows`, and `index_id` or 0.

        The asynchronous client cannot ask; one that can is made for it in a thread.

        Raises:
            GalleryUnavailable, GalleryError: as `call`.
        """
        with self._telling():
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.to_thread(self._loaded_segments)

    def _loaded_segments(self) -> list[Any]:
        client = MilvusClient(timeout=self._timeout_s, **self._arguments)
        try:
            return list(client.list_loaded_segments(self.address.collection, timeout=self._timeout_s))
        finally:
            client.close()

    async def close(self) -> None:
        """Let go of the connection."""
        await self._client.close()

    @property
    def _patience(self) -> float:
        return self._timeout_s + MARGIN_S

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            raise GalleryUnavailable(
                f"Milvus at {self.address.server} does not answer within {self._timeout_s:g} s"
            ) from error
        except (MilvusException, grpc.RpcError, OSError) as error:
            kind = GalleryUnavailable if is_away(error) else GalleryError
            raise kind(f"Milvus at {self.address.server}: {_reason(error)}") from error


def quiet_logging() -> None:
    """Have the client's log lines go where all others go, but for those about what it raises."""
    for name in ("pymilvus", "pymilvus.milvus_client", "pymilvus.bulk_writer"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.setLevel(logging.WARNING)
        logger.propagate = True
    for name in RAISED_ANYWAY:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def is_away(error: BaseException) -> bool:
    """Whether a later call may succeed: the server, or a part of it, is not there now."""
    for one in _causes(error):
        if isinstance(one, grpc.RpcError):
            return one.code() in AWAY
        if isinstance(one, TimeoutError):
            return True
    if not isinstance(error, MilvusException):
        return False
    words = str(error.message).lower()
    return error.code in AWAY or error.code in AWAY_CODES or error.retriable or any(one in words for one in AWAY_WORDS)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = None if seen.__cause__ is seen else seen.__cause__


def _reason(error: BaseException) -> str:
    """What went wrong: in the channel's words where it did there, as the client's own are the same for every reason."""
    for one in _causes(error):
        if isinstance(one, grpc.RpcError) and one.details():
            return str(one.details()).splitlines()[0][:500]
    text = str(error.message if isinstance(error, MilvusException) else error)
    return text.splitlines()[0][:500] if text else type(error).__name__

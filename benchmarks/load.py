"""A load generator light enough to share two cores with the server it drives.

Requests are bytes made beforehand, connections are kept alive, and of an answer only status and length are looked at:
a general HTTP client may take more CPU per request than the server does, and would then be what is measured.
"""

import asyncio
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from benchmarks.cpu_time import Usage, metered

Item = TypeVar("Item")
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

MOST_PASSES = 10_000
PATIENCE_S = 60.0  # beyond the time asked for, until a load is given up
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
CONTENT_TYPES = {".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}


class LoadError(Exception):
    """An answer other than 200, or none: figures of such a load would mislead."""


def load(
    url: str, server_pid: int, photos: Sequence[Path], concurrency: int, seconds: float
) -> tuple[list[float], Usage]:
    """Drive `POST /embed` for that long: the latencies in seconds, and the CPU of the server and of this process.

    Raises:
        LoadError: as `send_all`.
    """
    requests = [raw_request(url, photo) for photo in photos]
    return metered(lambda: asyncio.run(send_all(url, requests, concurrency, seconds)), server_pid, os.getpid())


def passes(items: Sequence[Item], seconds: float) -> Iterator[Item]:
    """Whole passes over the items until the time is up: every stretch of work has the same mix, whatever its speed.

    The clock starts at the first item. One pass at least, `MOST_PASSES` at most.
    """
    ends = time.perf_counter() + seconds
    for _ in range(MOST_PASSES):
        yield from items
        if time.perf_counter() >= ends:
            return


def raw_request(url: str, photo: Path) -> bytes:
    """`POST /embed` with the photo as its raw body."""
    data = photo.read_bytes()
    head = (
        f"POST /embed HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        f"Content-Type: {CONTENT_TYPES[photo.suffix.lower()]}\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    return head.encode() + data


async def send_all(url: str, requests: Sequence[bytes], concurrency: int, seconds: float) -> list[float]:
    """Keep `concurrency` requests in flight for that long; the latency of each, in seconds, from first byte to last.

    Raises:
        LoadError: at the first answer that is not 200, or where answers stop coming.
    """
    address = urlsplit(url)
    connections = [await asyncio.open_connection(address.hostname, address.port) for _ in range(concurrency)]
    shared = passes(requests, seconds)
    try:
        async with asyncio.timeout(seconds + PATIENCE_S):
            latencies = await asyncio.gather(*(_send(connection, shared) for connection in connections))
    except TimeoutError as error:
        raise LoadError(f"the server has stopped answering: {PATIENCE_S:g} s beyond the end, and not done") from error
    finally:
        for _, writer in connections:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in connections), return_exceptions=True)
    return [latency for connection in latencies for latency in connection]


async def _send(connection: Connection, requests: Iterable[bytes]) -> list[float]:
    """One connection's part of the requests, one after the other."""
    return [await _exchange(*connection, request) for request in requests]


async def _exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> float:
    started = time.perf_counter()
    writer.write(request)
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        length = CONTENT_LENGTH.search(head)
        body = await reader.readexactly(int(length[1]) if length else 0)
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise LoadError(f"the server closed a connection before it had answered: {error}") from error
    seconds = time.perf_counter() - started
    if head.split(maxsplit=2)[1] != b"200" or not length:
        raise LoadError(f"not an answer of 200 and known length: {(head + body)[:500]!r}")
    return seconds

"""A closed loop: so many requests in flight, the next sent once one is answered."""

import asyncio
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from benchmarks.cpu_time import Usage, metered
from benchmarks.http_client import Connection, connect, run
from benchmarks.payloads import Target, make_requests

Item = TypeVar("Item")

MOST_PASSES = 10_000
PATIENCE_S = 60.0  # beyond the time asked for, until a load is given up


class LoadError(Exception):
    """An answer other than 200, or none: figures of such a load would mislead."""


def load(
    target: Target, server_pid: int, photos: Sequence[Path], concurrency: int, seconds: float
) -> tuple[list[float], Usage]:
    """Drive a server for that long: the latencies in seconds, and the CPU of the server and of this process.

    Raises:
        LoadError: as `send_all`.
    """
    requests = make_requests(target, photos)
    return metered(lambda: run(send_all(target.url, requests, concurrency, seconds)), server_pid, os.getpid())


def load_count(target: Target, photos: Sequence[Path], concurrency: int, count: int, patience_s: float) -> float:
    """Send so many requests, whatever the time; the seconds they took.

    Raises:
        LoadError: as `send_all`.
    """
    requests = itertools.islice(itertools.cycle(make_requests(target, photos)), count)
    started = time.perf_counter()
    run(send_each(target.url, requests, concurrency, patience_s))
    return time.perf_counter() - started


def passes(items: Sequence[Item], seconds: float) -> Iterator[Item]:
    """Whole passes over the items until the time is up: every stretch of work has the same mix, whatever its speed.

    The clock starts at the first item. One pass at least, `MOST_PASSES` at most.
    """
    ends = time.perf_counter() + seconds
    for _ in range(MOST_PASSES):
        yield from items
        if time.perf_counter() >= ends:
            return


async def send_all(url: str, requests: Sequence[bytes], concurrency: int, seconds: float) -> list[float]:
    """Keep `concurrency` requests in flight for that long; the latency of each, in seconds, from first byte to last.

    Raises:
        LoadError: at the first answer that is not 200, or where answers stop coming.
    """
    return await send_each(url, passes(requests, seconds), concurrency, seconds + PATIENCE_S)


async def send_each(url: str, requests: Iterable[bytes], concurrency: int, patience_s: float) -> list[float]:
    """Send each request once, `concurrency` at a time, within `patience_s`; latencies and errors as `send_all`."""
    connections = [await connect(url) for _ in range(concurrency)]
    shared = iter(requests)
    try:
        async with asyncio.timeout(patience_s):
            latencies = await asyncio.gather(*(_send(connection, shared) for connection in connections))
    except TimeoutError as error:
        raise LoadError(f"the server has stopped answering: {patience_s:g} s, and not done") from error
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))
    return [latency for connection in latencies for latency in connection]


async def _send(connection: Connection, requests: Iterable[bytes]) -> list[float]:
    """One connection's part of the requests, one after the other."""
    return [await _exchange(connection, request) for request in requests]


async def _exchange(connection: Connection, request: bytes) -> float:
    started = time.perf_counter()
    try:
        answer = await connection.exchange(request)
    except ConnectionError as error:
        raise LoadError(f"the server closed a connection before it had answered: {error}") from error
    seconds = time.perf_counter() - started
    if answer.status != 200 or not answer.complete or not answer.body:
        raise LoadError(f"not an answer of 200 and known length: {answer.status} {answer.body[:500]!r}")
    return seconds

"""An open loop: requests arrive when they arrive, whether or not earlier ones have been answered, as real users do.

Latency counts from when a request was due, so that a client that falls behind does not flatter the server.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cpu_time import Usage, metered
from benchmarks.http_client import Connection, connect, run
from benchmarks.payloads import Target, make_requests
from benchmarks.rounds import percentiles_ms

OK = "200"
TIMEOUT = "timeout"  # the client has waited `patience_s`
REFUSED = "connection error"  # no connection, or one that was closed before its answer


@dataclass(frozen=True)
class Offer:
    """Requests arriving at random: `rate` a second on average, for `seconds`; a client gives up after `patience_s`."""

    rate: float
    seconds: float
    patience_s: float
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one request ended: a status code or one of the words above.

    `latency_s` counts from when it was due, `finished_s` from the start; `lag_s` is how late the client began with it.
    """

    result: str
    latency_s: float
    finished_s: float
    lag_s: float = 0.0


def arrivals(offer: Offer) -> NDArray[np.float64]:
    """Seconds from the start, ascending, within [0, seconds): a Poisson process, the same for the same seed.

    Raises:
        ValueError: unless rate and duration are positive.
    """
    if offer.rate <= 0 or offer.seconds <= 0:
        raise ValueError(f"rate and seconds must be positive, not {offer.rate} and {offer.seconds}")
    random = np.random.default_rng(offer.seed)
    expected = offer.rate * offer.seconds
    times = np.empty(0)
    while times.size == 0 or times[-1] < offer.seconds:
        gaps = random.exponential(1 / offer.rate, int(expected + 10))
        times = np.concatenate([times, gaps.cumsum() + (times[-1] if times.size else 0.0)])
    return times[times < offer.seconds]


def offer_load(target: Target, server_pid: int, photos: Sequence[Path], offer: Offer) -> tuple[list[Outcome], Usage]:
    """Offer the load: how every request ended, and the CPU of the server and of this process."""
    requests = make_requests(target, photos)
    return metered(lambda: run(send_when_due(target.url, requests, offer)), server_pid, os.getpid())


async def send_when_due(url: str, requests: Sequence[bytes], offer: Offer) -> list[Outcome]:
    """Send the requests in turn, each at its time, on an idle connection or a new one; in the order of their times."""
    idle: list[Connection] = []
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        tasks = []
        for number, due in enumerate(arrivals(offer).tolist()):
            wait = started + due - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            request = requests[number % len(requests)]
            tasks.append(group.create_task(_send(url, request, idle, started, due, offer.patience_s)))
    await asyncio.gather(*(connection.close() for connection in idle))
    return [task.result() for task in tasks]


async def _send(
    url: str, request: bytes, idle: list[Connection], started: float, due_s: float, patience_s: float
) -> Outcome:
    connection: Connection | None = None
    lag_s = time.perf_counter() - started - due_s
    try:
        async with asyncio.timeout_at(asyncio.get_running_loop().time() + patience_s):
            while idle and (connection is None or connection.closed):
                connection = idle.pop()
            if connection is None or connection.closed:
                connection = await connect(url)
            answer = await connection.exchange(request)
            result = str(answer.status)
    except TimeoutError:
        result = TIMEOUT
    except OSError:
        result = REFUSED
    if connection is not None and not connection.closed:
        if result == TIMEOUT:
            await connection.close()
        else:
            idle.append(connection)
    finished = time.perf_counter() - started
    return Outcome(result, finished - due_s, finished, lag_s)


def summarise_offer(outcomes: Sequence[Outcome], offer: Offer) -> dict[str, Any]:
    """Counts by result, answers of 200 per second while requests arrived, and latencies of all of those, in ms.

    A client that lags offers less than it should: `client_lag_ms` says how late it was.
    """
    in_time = sum(each.result == OK and each.finished_s <= offer.seconds for each in outcomes)
    return {
        "rate": offer.rate,
        "seconds": offer.seconds,
        "patience_s": offer.patience_s,
        "offered": len(outcomes),
        "results": dict(sorted(Counter(each.result for each in outcomes).items())),
        "goodput_per_second": in_time / offer.seconds,
        "latency_ms": percentiles_ms([each.latency_s for each in outcomes if each.result == OK]),
        "client_lag_ms": percentiles_ms([each.lag_s for each in outcomes]),
    }

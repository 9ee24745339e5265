import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from benchmarks.open_loop import (
    OK,
    REFUSED,
    TIMEOUT,
    Offer,
    Outcome,
    arrivals,
    send_when_due,
    summarise_offer,
)

REQUEST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n"


def test_arrivals_are_a_poisson_process_of_the_rate() -> None:
    times = arrivals(Offer(rate=200.0, seconds=50.0, patience_s=1.0, seed=1))

    gaps = np.diff(times)
    assert (gaps >= 0).all()
    assert times[0] >= 0
    assert times[-1] < 50.0
    assert len(times) == pytest.approx(10_000, rel=0.05)
    assert gaps.mean() == pytest.approx(1 / 200, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # exponential: as wide as its mean


def test_arrivals_reach_the_end_and_repeat_for_a_seed() -> None:
    offers = [Offer(rate=3.0, seconds=5.0, patience_s=1.0, seed=seed) for seed in range(200)]

    assert np.mean([len(arrivals(offer)) for offer in offers]) == pytest.approx(15.0, rel=0.1)
    assert arrivals(offers[3]).tolist() == arrivals(offers[3]).tolist()
    assert arrivals(offers[3]).tolist() != arrivals(offers[4]).tolist()


@pytest.mark.parametrize(("rate", "seconds"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_an_offer_of_nothing_is_refused(rate: float, seconds: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        arrivals(Offer(rate, seconds, patience_s=1.0))


@asynccontextmanager
async def answering(answers: Sequence[bytes | None]) -> AsyncIterator[str]:
    """The URL of a server that answers its requests in turn; None closes the connection, no bytes keep it waiting."""
    shared = iter(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                answer = next(shared)
                if answer is None:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def answer(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\n{{}}".encode()


async def test_every_request_ends_in_one_of_the_ways_it_can_end() -> None:
    offer = Offer(rate=40.0, seconds=0.25, patience_s=0.3)
    count = len(arrivals(offer))
    assert count >= 5
    answers = [answer("429 Too Many Requests"), None, b"", *[answer("200 OK")] * count]

    async with answering(answers) as url:
        outcomes = await send_when_due(url, [REQUEST], offer)

    assert sorted(each.result for each in outcomes) == sorted(["429", REFUSED, TIMEOUT, *[OK] * (count - 3)])
    timed_out = next(each for each in outcomes if each.result == TIMEOUT)
    assert timed_out.latency_s >= 0.3


async def test_a_server_that_is_gone_is_counted_and_not_raised() -> None:
    async with answering([]) as url:
        pass

    outcomes = await send_when_due(url, [REQUEST], Offer(rate=100.0, seconds=0.1, patience_s=0.2))

    assert {each.result for each in outcomes} == {REFUSED}


def test_goodput_counts_what_was_answered_while_requests_arrived() -> None:
    offer = Offer(rate=2.0, seconds=2.0, patience_s=1.0)
    outcomes = [
        Outcome("200", latency_s=0.1, finished_s=0.5),
        Outcome("200", latency_s=0.3, finished_s=1.9, lag_s=0.2),
        Outcome("200", latency_s=0.5, finished_s=2.2),  # after the last arrival
        Outcome("429", latency_s=9.0, finished_s=1.0),
    ]

    summary = summarise_offer(outcomes, offer)

    assert summary["goodput_per_second"] == pytest.approx(1.0)
    assert summary["results"] == {"200": 3, "429": 1}
    assert summary["latency_ms"]["p50"] == pytest.approx(300.0)
    assert summary["latency_ms"]["p99"] <= 500.0
    assert summary["client_lag_ms"]["p99"] == pytest.approx(194.0)
    assert summarise_offer([], offer)["latency_ms"] == {}

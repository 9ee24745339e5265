"""How often a request is made and how long is waited: real sockets, and a sleep that only takes notes."""

import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from typing import Any

import pytest

from models.errors import UserError
from scripts.client import ApiError, AsyncClient, Client, Unintelligible, Unreachable
from scripts.client.attempts import Patience, Send, Wait, attempts
from scripts.client.wire import Answer, Call, Request
from tests.scripts.client.conftest import BOTH, closed, value, values
from tests.scripts.client.scripted import CUT, EMBEDDED, Said, busy, scripted

Kind = type[Client] | type[AsyncClient]
MODEL = {
    **dict.fromkeys(("bundle", "bundle_hash", "backbone", "device", "version"), "b"),
    **dict.fromkeys(("dimension", "threads", "lanes", "max_batch"), 1),
    **{name: {} for name in ("preprocessing", "reference", "training", "metrics", "limits")},
    "threshold": {"uncertainty": None, "percentile": None, "source": "none"},
}


@asynccontextmanager
async def asking(kind: Kind, url: str, **options: Any) -> AsyncIterator[tuple[Any, list[float]]]:
    """A client, and the waits that it asks for."""
    waits: list[float] = []

    async def later(seconds: float) -> None:
        waits.append(seconds)

    sleep: Callable[[float], Any] = waits.append if kind is Client else later
    client: Any = kind(url, sleep=sleep, **options)
    yield client, waits
    await closed(client)


@BOTH
@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_server_is_asked_again_no_sooner_than_it_says(kind: Kind, status: int) -> None:
    with scripted(busy("7", status), busy("3", status), EMBEDDED) as server:
        async with asking(kind, server.url) as (client, waits):
            assert (await value(client.embed(b"x"))).embedding.tolist() == [1.0, 0.0]
    assert len(server.heard) == 3
    assert [heard.body for heard in server.heard] == [b"x"] * 3
    assert 7 <= waits[0] <= 7 * 1.25
    assert 3 <= waits[1] <= 3 * 1.25


@BOTH
async def test_a_time_to_come_back_may_be_a_date(kind: Kind) -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    past = format_datetime(datetime.now(UTC) - timedelta(seconds=60), usegmt=True)
    with scripted(busy(then), busy(past), busy("soon"), EMBEDDED) as server:
        async with asking(kind, server.url) as (client, waits):
            await value(client.embed(b"x"))
    assert 50 <= waits[0] <= 75
    assert 0 < waits[1] < 1
    assert 0 < waits[2] <= 2.0  # no date that can be read: as if none had been given


@BOTH
async def test_without_a_time_waits_double(kind: Kind) -> None:
    with scripted(busy(status=503)) as server:
        async with asking(kind, server.url, retries=9, patience_s=1e9) as (client, waits):
            with pytest.raises(ApiError):
                await value(client.embed(b"x"))
    assert len(server.heard) == 10
    for tried, wait in enumerate(waits):
        most = min(30.0, 0.5 * 2**tried)
        assert most / 2 <= wait <= most


@BOTH
async def test_retries_end_and_the_last_refusal_is_told(kind: Kind) -> None:
    with scripted(busy("1")) as server:
        async with asking(kind, server.url, retries=2) as (client, waits):
            with pytest.raises(ApiError) as refused:
                await value(client.embed(b"x"))
    assert (len(server.heard), len(waits)) == (3, 2)
    error = refused.value
    assert (error.status, error.type, error.title) == (429, "overloaded", "The queue is full")
    assert (error.detail, error.request_id, error.retry_after_s) == ("come back later", "r1", 1.0)
    assert str(error) == "POST /embed was answered 429: come back later"


@BOTH
async def test_a_wait_longer_than_the_patience_is_not_begun(kind: Kind) -> None:
    with scripted(busy("500")) as server:
        async with asking(kind, server.url, retries=None, patience_s=400) as (client, waits):
            with pytest.raises(ApiError) as refused:
                await value(client.embed(b"x"))
    assert (len(server.heard), waits, refused.value.retry_after_s) == (1, [], 500.0)


def test_the_patience_counts_waits_and_answers_alike() -> None:
    clock = [0.0]
    timeouts = []

    def take(step: Send | Wait) -> Answer | None:
        if isinstance(step, Wait):
            clock[0] += step.seconds
            return None
        timeouts.append(step.timeout_s)
        clock[0] += 9.0  # which the answer took
        return Answer(429, {"retry-after": "1"}, b"")

    def drive() -> None:
        steps = attempts(Call(Request("GET", "/"), lambda answer: None), Patience(None, 100.0), lambda: clock[0])
        step = next(steps)
        while True:
            step = steps.send(take(step))

    with pytest.raises(ApiError):
        drive()
    assert 75 < clock[0] < 100 + 9
    assert timeouts[0] == 100.0
    assert all(later < earlier for earlier, later in pairwise(timeouts))


@BOTH
async def test_other_refusals_are_final(kind: Kind) -> None:
    with scripted(busy("1", 400)) as server:
        async with asking(kind, server.url) as (client, waits):
            with pytest.raises(ApiError, match="answered 400"):
                await value(client.embed(b"x"))
    assert (len(server.heard), waits) == (1, [])


@BOTH
async def test_a_connection_that_breaks_is_tried_again(kind: Kind) -> None:
    with scripted(CUT, Said(502, b"<html>"), CUT, EMBEDDED) as server:
        async with asking(kind, server.url) as (client, waits):
            await value(client.embed(b"x"))
    assert (len(server.heard), len(waits)) == (4, 3)


@BOTH
async def test_what_must_not_happen_twice_is_not_tried_again_over_a_broken_connection(kind: Kind) -> None:
    with scripted(CUT) as server:
        async with asking(kind, server.url) as (client, waits):
            with pytest.raises(Unreachable, match=f"no answer from {server.url}"):
                await value(client.policies.create("shop", [], [], []))
    assert (len(server.heard), waits) == (1, [])
    with scripted(busy("2"), Said(404, b"")) as server:
        async with asking(kind, server.url) as (client, waits):
            with pytest.raises(ApiError, match="answered 404: nothing more was said"):
                await value(client.policies.delete("shop"))
    assert [heard.line for heard in server.heard] == ["DELETE /policies/shop"] * 2


@BOTH
async def test_silence_ends(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with asking(kind, url, timeout_s=0.05, retries=1) as (client, waits):
            with pytest.raises(Unreachable, match="no answer"):
                await value(client.embed(b"x"))
        assert len(waits) == 1
        async with asking(kind, url, patience_s=0.05, retries=None) as (client, waits):
            with pytest.raises(Unreachable, match="no answer"):
                await value(client.embed(b"x"))
        assert waits == []


@BOTH
async def test_nobody_at_that_address_is_told_at_once_when_asked_whether_it_is_ready(kind: Kind) -> None:
    async with asking(kind, "http://127.0.0.1:9") as (client, waits):
        with pytest.raises(Unreachable, match="no answer from http://127"):
            await value(client.ready())
        assert waits == []
    with scripted(busy("1", 503), Said(content={"status": "ready"}), Said(404)) as server:
        async with asking(kind, server.url) as (client, waits):
            assert [await value(client.ready()), await value(client.ready())] == [False, True]
            with pytest.raises(ApiError, match="404"):
                await value(client.ready())


@BOTH
@pytest.mark.parametrize(
    "content", [b"<html>", b"", b"\xff", b"[]", b"7", b'{"results": []}', b'{"results": [{"status": "ok"}]}']
)
async def test_an_answer_that_is_not_candors_is_told(kind: Kind, content: bytes) -> None:
    with scripted(Said(content=content)) as server:
        async with asking(kind, server.url) as (client, _):
            with pytest.raises(Unintelligible, match="POST /embed: the answer is not candor's"):
                await value(client.embed(b"x"))
    assert len(server.heard) == 1


@BOTH
async def test_an_answer_to_fewer_images_than_were_sent_is_none(kind: Kind) -> None:
    with scripted(EMBEDDED) as server:
        async with asking(kind, server.url) as (client, _):
            with pytest.raises(Unintelligible, match="1 results of 2"):
                await value(client.embed([b"x", b"y"]))


@BOTH
async def test_a_refusal_that_is_not_candors_is_quoted(kind: Kind) -> None:
    with scripted(Said(413, b"<h1>too large</h1>")) as server:
        async with asking(kind, server.url) as (client, _):
            with pytest.raises(ApiError) as refused:
                await value(client.embed(b"x"))
    assert (refused.value.type, refused.value.detail) == ("http_413", "<h1>too large</h1>")


@BOTH
async def test_key_bundle_and_options_are_sent_with_every_request(kind: Kind) -> None:
    with scripted(EMBEDDED) as server:
        async with asking(kind, f"{server.url}/below/", api_key="secret", bundle="b 2") as (client, _):
            await value(client.embed(b"x", max_percentile=0.9, on_abstain="omit", max_uncertainty=None))
    (heard,) = server.heard
    assert heard.line == "POST /below/embed?bundle=b+2&encoding=base64&max_percentile=0.9&on_abstain=omit"
    assert heard.headers["authorization"] == "Bearer secret"
    assert heard.headers["content-type"] == "application/octet-stream"


@BOTH
async def test_every_bundle_of_a_server_is_listed(kind: Kind) -> None:
    with scripted(Said(content={"default": "b", "models": [MODEL, {**MODEL, "bundle": "c", "new": 1}]})) as server:
        async with asking(kind, server.url) as (client, _):
            models = await value(client.models())
    assert (models.default, [model.bundle for model in models.models]) == ("b", ["b", "c"])
    assert server.heard[0].line == "GET /models"


@BOTH
async def test_a_request_that_is_too_large_is_sent_in_halves(kind: Kind) -> None:
    two = EMBEDDED.content
    too_large = Said(413, b"no more than two")
    script = [Said(content=MODEL), too_large, Said(content={**two, "results": two["results"] * 2}), too_large]
    with scripted(*script, EMBEDDED, too_large) as server:
        async with asking(kind, server.url) as (client, _):
            pairs = await values(client.embed_many([b"1", b"2", b"3", b"4"], concurrency=1))
    outcomes = [outcome for _, outcome in pairs]
    assert [isinstance(outcome, ApiError) for outcome in outcomes] == [False, False, False, True]
    assert len(server.heard) == 6


@BOTH
async def test_a_refusal_of_every_request_ends_a_stream(kind: Kind) -> None:
    with scripted(Said(content=MODEL), busy("1", 401)) as server:
        async with asking(kind, server.url) as (client, _):
            with pytest.raises(ApiError, match="401"):
                await values(client.embed_many([b"x"] * 100, batch=2, concurrency=2))
    assert len(server.heard) < 10


def test_one_client_serves_many_threads() -> None:
    with scripted(EMBEDDED) as server, Client(server.url) as client:
        threads = [threading.Thread(target=lambda: [client.embed(b"x") for _ in range(10)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.heard) == 80


@BOTH
@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("localhost:8000", {}, "no http or https URL"),
        ("ftp://x", {}, "no http or https URL"),
        ("http://", {}, "no http or https URL"),
        ("http://x", {"api_key": "a\nb"}, "characters that no key has"),
        ("http://x", {"api_key": "schlüssel"}, "characters that no key has"),
        ("https://x", {"verify": "/no/where.pem"}, "No such file"),
        ("https://x", {"cert": ("/no/where.pem", "/no/where.key")}, "No such file"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(kind: Kind, url: str, options: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        kind(url, **options)

"""Every way a request fails, provoked for real, and each answered as problem+json."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from httpx2 import Response

from models.images import ImageTooLarge, UndecodableImage, UnsupportedFormat
from service.errors import Problem
from service.gallery.base import GalleryError, NoRoom
from service.lanes import Outputs
from tests.service.callers import give_key
from tests.service.conftest import Running, Start
from tests.service.fakes import GatedSession, PoisonedSession
from tests.service.images import black, encode, flat, picture, png
from tests.service.waiting import until

PNG = {"content-type": "image/png"}
JSON = {"content-type": "application/json"}


def check(response: Response, status: int, kind: str) -> dict[str, Any]:
    body = response.json()
    assert (response.status_code, body["type"]) == (status, kind), body
    assert response.headers["content-type"] == "application/problem+json"
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == response.headers["x-request-id"]
    assert isinstance(body, dict)
    return body


@pytest.mark.parametrize(
    ("content", "headers", "status", "kind"),
    [
        (b"", PNG, 400, "malformed_request"),
        (b"{", JSON, 400, "malformed_request"),
        (b"[]", JSON, 400, "malformed_request"),
        (b"{}", JSON, 400, "malformed_request"),
        (b'{"images": "x"}', JSON, 400, "malformed_request"),
        (b'{"images": []}', JSON, 400, "malformed_request"),
        (b'{"images": ["%%%"]}', JSON, 400, "malformed_request"),
        (b'{"images": ["data:image/png,abc"]}', JSON, 400, "malformed_request"),
        (b'{"images": ["https://example.org/a.png"]}', JSON, 400, "malformed_request"),
        (b'{"images": ["aGk="], "max_percentil": 0.5}', JSON, 400, "invalid_option"),
        (b'{"images": ["aGk="], "max_percentile": 1.5}', JSON, 400, "invalid_option"),
        (b'{"images": ["aGk="], "max_percentile": 0.5, "max_uncertainty": 1}', JSON, 400, "invalid_option"),
        (b"x", {"content-type": "multipart/form-data"}, 400, "malformed_request"),
        (b"x", {"content-type": "multipart/form-data; boundary=b"}, 400, "malformed_request"),
        (b"--b\r\n\r\nx\r\n--b--\r\n", {"content-type": "multipart/form-data; boundary=b"}, 400, "malformed_request"),
        (b"a=b", {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
        (png(), {**PNG, "content-encoding": "gzip"}, 415, "unsupported_media_type"),
        (b"hello", PNG, 415, "unsupported_format"),
        (png()[:90], PNG, 422, "undecodable_image"),
    ],
)
async def test_what_cannot_be_read_is_refused(
    running: Running, content: bytes, headers: dict[str, str], status: int, kind: str
) -> None:
    check(await running.client.post("/embed", content=content, headers=headers), status, kind)


async def test_a_form_cut_off_before_its_end_is_refused(running: Running) -> None:
    whole = httpx2.Request("POST", "http://x", files=[("images", ("a.png", png(), "image/png"))])
    content = whole.read()
    headers = {"content-type": whole.headers["content-type"]}

    check(await running.client.post("/embed", content=content[:-8], headers=headers), 400, "malformed_request")


async def test_a_file_in_another_field_is_named(running: Running) -> None:
    problem = check(await running.client.post("/embed", files={"photo": png()}), 400, "invalid_option")
    assert "photo" in problem["detail"]


async def test_an_option_given_twice_is_refused(running: Running) -> None:
    url = "/embed?max_percentile=0.1&max_percentile=0.9"
    check(await running.client.post(url, content=png(), headers=PNG), 400, "invalid_option")


async def test_unknown_paths_and_methods(running: Running) -> None:
    check(await running.client.get("/nowhere"), 404, "not_found")
    check(await running.client.post("/embed/"), 404, "not_found")
    refused = await running.client.get("/embed")
    check(refused, 405, "method_not_allowed")
    assert refused.headers["allow"] == "POST"
    several = await running.client.patch("/gallery/a")
    check(several, 405, "method_not_allowed")
    assert several.headers["allow"] == "DELETE, GET, PUT"
    assert (await running.client.post("/docs")).headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/gallery/nobody", "/gallery/a%2Fb"])
async def test_an_item_that_is_not_there(running: Running, path: str) -> None:
    check(await running.client.get(path), 404, "unknown_id")
    check(await running.client.delete(path), 404, "unknown_id")
    check(await running.client.post("/retrieve", json={"id": "nobody"}), 404, "unknown_id")


async def test_an_image_above_the_byte_limit_by_its_announced_length(start: Start) -> None:
    async with start(max_image_bytes=1000) as running:
        check(await running.client.post("/embed", content=b"x" * 1001, headers=PNG), 413, "body_too_large")


async def test_an_image_above_the_byte_limit_is_refused_while_it_streams(start: Start) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b"x" * 100

    async with start(max_image_bytes=1000) as running:
        check(await running.client.post("/embed", content=endless(), headers=PNG), 413, "body_too_large")
    assert sent == 11


async def test_a_base64_image_above_the_byte_limit(start: Start) -> None:
    text = base64.b64encode(bytes(2000)).decode()
    async with start(max_image_bytes=1000) as running:
        check(await running.client.post("/embed", json={"images": [text]}), 413, "image_too_large")


async def test_a_form_above_the_body_limit(start: Start) -> None:
    async with start(max_body_bytes=100) as running:
        check(await running.client.post("/embed", files={"images": png()}), 413, "body_too_large")


async def test_an_image_above_the_pixel_limit(start: Start) -> None:
    async with start(max_pixels=1000) as running:
        image = encode(picture(size=(40, 26)))
        check(await running.client.post("/embed", content=image, headers=PNG), 413, "image_too_large")


async def test_more_images_than_a_request_may_hold(start: Start) -> None:
    async with start(max_images_per_request=2) as running:
        files = [("images", (str(i), png(), "image/png")) for i in range(3)]
        check(await running.client.post("/embed", files=files), 413, "too_many_images")
        check(await running.client.post("/gallery", files=files), 413, "too_many_images")


async def test_a_slow_upload(start: Start) -> None:
    async def stalled() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(30)

    async with start(upload_timeout_s=0.05) as running:
        response = await running.client.post("/embed", content=stalled(), headers=PNG)
        check(response, 408, "upload_timeout")
        assert response.headers["connection"] == "close"


async def test_a_key_is_asked_for_but_not_by_probes(start: Start, tmp_path: Path) -> None:
    key = give_key(tmp_path / "keys.txt")
    async with start(api_keys=tmp_path / "keys.txt") as running:
        client = running.client
        refused = await client.post("/embed", content=png(), headers=PNG)
        check(refused, 401, "unauthorized")
        assert refused.headers["www-authenticate"].startswith("Bearer")
        for wrong in (f"Bearer {key[:-1]}", f"Basic {key}", key, "Bearer", "Bearer \xff", ""):
            headers = {b"authorization": wrong.encode("latin-1")}
            check(await client.get("/model", headers=headers), 401, "unauthorized")
        check(await client.get("/metrics"), 401, "unauthorized")
        for right in (f"Bearer {key}", f"bearer   {key} "):
            answer = await client.post("/embed", content=png(), headers={**PNG, "authorization": right})
            assert answer.status_code == 200
        for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200


class Gate:
    """The session of an app, whose gate the test holds."""

    session: GatedSession

    def __call__(self, session: Any) -> GatedSession:
        self.session = GatedSession(session)
        return self.session


async def test_a_full_queue_refuses_the_whole_request_at_once(start: Start) -> None:
    gate, files = Gate(), [("images", (str(i), png(i), "image/png")) for i in range(3)]
    async with start(gate, queue_images=4, max_images_per_request=4) as running:
        client = running.client
        accepted = asyncio.create_task(client.post("/embed", files=files))
        await asyncio.to_thread(gate.session.entered.acquire)

        refused = await client.post("/embed", files=files)  # 3 + 3 > 4: not even the first of them is taken
        check(refused, 429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert running.services.pipeline.admission.images == 3

        last = asyncio.create_task(client.post("/embed", content=png(), headers=PNG))  # 3 + 1 <= 4
        await until(lambda: running.services.pipeline.admission.images == 4)
        check(await client.post("/retrieve", content=png(), headers=PNG), 429, "overloaded")
        check(await client.put("/gallery/a", content=png(), headers=PNG), 429, "overloaded")
        vector = await client.put("/gallery/v", json={"vector": [1.0] * 48, "uncertainty": 1})  # needs no queue
        assert vector.status_code == 200
        assert (await client.post("/retrieve", json={"id": "v"})).status_code == 200
        gate.session.gate.set()
        assert [response.status_code for response in await asyncio.gather(accepted, last)] == [200, 200]


async def test_an_answer_that_takes_too_long_leaves_the_queue(start: Start) -> None:
    gate = Gate()
    async with start(gate, request_timeout_s=0.1, max_batch=1) as running:
        first = asyncio.create_task(running.client.post("/embed", content=png(), headers=PNG))
        await asyncio.to_thread(gate.session.entered.acquire)
        check(await running.client.post("/embed", content=png(), headers=PNG), 504, "deadline_exceeded")
        check(await first, 504, "deadline_exceeded")
        assert running.services.pipeline.admission.images == 0
        assert running.services.pipeline.waiting == 0
        gate.session.gate.set()
    assert gate.session.batches == [1]


async def test_an_inference_that_never_ends_fails_the_health_check(start: Start) -> None:
    gate = Gate()
    async with start(gate, request_timeout_s=0.05) as running:
        check(await running.client.post("/embed", content=png(), headers=PNG), 504, "deadline_exceeded")
        check(await running.client.get("/healthz"), 503, "unavailable")
        gate.session.gate.set()


async def test_the_death_of_the_inference_loop_flips_health(start: Start) -> None:
    class Fatal(BaseException):
        """Beyond what one batch may raise."""

    def die() -> Outputs:
        raise Fatal

    async with start(lambda session: PoisonedSession(session, die)) as running:
        client = running.client
        assert (await client.get("/healthz")).status_code == 200
        check(await client.post("/embed", content=black(), headers=PNG), 503, "unavailable")
        check(await client.post("/embed", content=png(), headers=PNG), 503, "unavailable")
        check(await client.get("/healthz"), 503, "unavailable")
        check(await client.get("/readyz"), 503, "unavailable")
        assert "candor_ready 0.0" in (await client.get("/metrics")).text
    assert "Fatal" in running.log.getvalue()


async def test_a_client_that_leaves_takes_its_image_out_of_the_queue(start: Start) -> None:
    gate = Gate()
    async with start(gate, max_batch=1) as running:
        pipeline = running.services.pipeline
        first = asyncio.create_task(running.client.post("/embed", content=png(), headers=PNG))
        await asyncio.to_thread(gate.session.entered.acquire)
        left = asyncio.Event()
        second = asyncio.create_task(_call_until(running, png(), left))
        await until(lambda: pipeline.waiting == 1)
        left.set()
        assert await second == 499
        assert (pipeline.waiting, pipeline.admission.images) == (0, 1)
        gate.session.gate.set()
        assert (await first).status_code == 200
    assert gate.session.batches == [1]


async def test_a_client_that_leaves_during_the_upload_is_let_go(running: Running) -> None:
    left = asyncio.Event()
    left.set()
    assert await _call_until(running, png(), left, more_body=True) == 499
    assert running.services.pipeline.admission.images == 0


async def _call_until(running: Running, content: bytes, left: asyncio.Event, *, more_body: bool = False) -> int:
    """Speak ASGI to the app as a server does whose client sends `content`, then leaves; the status of the answer."""
    messages = iter([{"type": "http.request", "body": content, "more_body": more_body}])
    status = 0

    async def receive() -> dict[str, Any]:
        for message in messages:
            return message
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/embed",
        "query_string": b"",
        "headers": [(b"content-type", b"image/png")],
    }
    await running.app(scope, receive, send)
    return status


async def test_requests_are_refused_politely_while_loading(start: Start) -> None:
    release = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(session: Any) -> Any:
        asyncio.run_coroutine_threadsafe(release.wait(), loop).result(30)
        return session

    async with start(slow, ready=False) as running:
        for path in ("/embed", "/retrieve"):
            refused = await running.client.post(path, content=png(), headers=PNG)
            check(refused, 503, "unavailable")
            assert int(refused.headers["retry-after"]) >= 1
        check(await running.client.get("/readyz"), 503, "unavailable")
        assert (await running.client.get("/healthz")).json() == {"status": "loading"}
        release.set()
        await until(lambda: running.app.state.lifecycle.services is not None)
        assert (await running.client.get("/readyz")).status_code == 200


async def test_a_failure_to_load_is_told_by_every_probe(start: Start) -> None:
    def fail(session: Any) -> Any:
        raise RuntimeError("no such luck")

    async with start(fail, ready=False) as running:
        await until(lambda: running.app.state.lifecycle.failure is not None)
        assert "no such luck" in (await running.client.get("/readyz")).text
        check(await running.client.get("/healthz"), 503, "unavailable")
        check(await running.client.post("/embed", content=png(), headers=PNG), 503, "unavailable")


async def test_draining_refuses_new_requests_and_closes_their_connection(running: Running) -> None:
    running.app.state.lifecycle.draining = True

    refused = await running.client.post("/embed", content=png(), headers=PNG)

    check(refused, 503, "unavailable")
    assert refused.headers["connection"] == "close"
    check(await running.client.get("/readyz"), 503, "unavailable")
    assert (await running.client.get("/healthz")).status_code == 200
    assert "candor_ready 0.0" in (await running.client.get("/metrics")).text


async def test_a_defect_is_a_500_that_tells_nothing_but_its_id(running: Running) -> None:
    def break_down() -> None:
        raise ZeroDivisionError("secret detail")

    running.gallery.before_write = break_down
    response = await running.client.put("/gallery/a", content=png(), headers=PNG)

    problem = check(response, 500, "internal_error")
    assert "secret" not in response.text
    logged = [json.loads(line) for line in running.log.getvalue().splitlines()]
    assert any("secret detail" in str(line) and line.get("request_id") == problem["request_id"] for line in logged)


async def test_a_gallery_that_fails_says_so(running: Running) -> None:
    def fail() -> None:
        raise GalleryError("the disk is full")

    running.gallery.before_write = fail
    problem = check(await running.client.put("/gallery/a", content=png(), headers=PNG), 500, "gallery_failed")
    assert problem["detail"] == "the disk is full"


async def test_an_item_the_engine_has_no_room_for_is_refused(running: Running) -> None:
    def refuse() -> None:
        raise NoRoom("payload of 'a' takes 70000 bytes")

    running.gallery.before_write = refuse
    problem = check(await running.client.put("/gallery/a", content=png(), headers=PNG), 413, "item_too_large")
    assert "70000 bytes" in problem["detail"]


async def test_a_write_that_takes_too_long_is_not_acknowledged_and_not_torn(start: Start) -> None:
    async with start(request_timeout_s=0.1) as running:
        running.gallery.may_write.clear()
        late = await running.client.put("/gallery/a", json={"vector": [1.0] * 48, "uncertainty": 1})
        check(late, 504, "deadline_exceeded")
        assert running.gallery.items == {}
        running.gallery.may_write.set()
        await until(lambda: "a" in running.gallery.items)  # what was begun is finished


async def test_a_request_id_is_taken_over_if_fit_and_made_if_not(running: Running) -> None:
    given = await running.client.get("/model", headers={"x-request-id": "trace-42"})
    made = await running.client.get("/model", headers={"x-request-id": 'bad"id\t'})

    assert given.headers["x-request-id"] == "trace-42"
    assert len(made.headers["x-request-id"]) == 32


@pytest.mark.parametrize("query", ["limit=-1", "limit=1001", "offset=x", f"offset={2**31}", "filter={", "filter=[]"])
async def test_bad_page_parameters(running: Running, query: str) -> None:
    check(await running.client.get(f"/gallery?{query}"), 400, "invalid_option")


async def test_an_uncertain_image_may_be_an_error(running: Running) -> None:
    url = "/embed?max_percentile=0.5&on_abstain=error"
    check(await running.client.post(url, content=flat(), headers=PNG), 422, "abstained")


def test_the_documented_errors_are_the_codes(repository: Path) -> None:
    def kinds(base: type[Problem]) -> set[tuple[int, str]]:
        return {(base.status, base.type)}.union(*map(kinds, base.__subclasses__()))

    table = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", (repository / "docs" / "http.md").read_text(), re.MULTILINE)
    images = {(error.status, error.type) for error in (ImageTooLarge, UnsupportedFormat, UndecodableImage)}

    assert {(int(status), kind) for status, kind in table} == (kinds(Problem) | images) - {(499, "client_gone")}

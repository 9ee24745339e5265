"""What the log holds of what was sent: nothing, at any level, but the path at level debug."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from httpx2 import Client

from tests.service.bundle_factory import DIMENSION
from tests.service.callers import bearing, give_key
from tests.service.conftest import Start
from tests.service.images import png
from tests.service.process import Server, ready_client, serving

PNG = {"content-type": "image/png"}
IMAGE = png(7)
TEXT = base64.b64encode(IMAGE).decode()
VECTOR = np.full(DIMENSION, DIMENSION**-0.5).tolist()
SENT = "canary"  # in each name and value below that is not part of a path


def bodies() -> Iterator[dict[str, Any]]:
    """Bodies of every form, most of which no endpoint can read."""
    yield {}
    yield {"content": IMAGE, "headers": PNG}
    yield {"content": b"canary" + IMAGE, "headers": PNG}
    yield {"content": IMAGE[:99] + b"canary", "headers": PNG}
    yield {"content": b'{"canary": canary', "headers": {"content-type": "application/json"}}
    yield {"content": b"canary", "headers": {"content-type": "canary/canary"}}
    yield {"content": b"canary", "headers": {"content-type": "multipart/form-data; boundary=canary"}}
    yield {"files": {"canary": ("canary.png", IMAGE, "image/png")}, "data": {"canary": "canary"}}
    yield {"json": {"canary": "canary", "images": [TEXT, "canary"]}}
    yield {"json": {"image": TEXT, "vector": VECTOR, "filter": {"canary": {"canary": "canary"}}}}
    yield {"json": {"items": [{"id": "canary", "image": TEXT, "payload": {"canary": "canary"}}]}}


def ask_everything(client: Client, headers: dict[str, str]) -> set[int]:
    """Every endpoint with every body and odd options; the statuses of the answers."""
    statuses = set()
    paths = client.get("/openapi.json").json()["paths"]
    for path, item in paths.items():
        place = path.replace("{id}", "thing").replace("{name}", "thing").replace("{version}", "1")
        for method in item:
            for body in bodies():
                for query in ("", "?canary=canary", "?filter={canary", "?limit=canary", "?bundle=canary"):
                    sent = {**body, "headers": {**body.get("headers", {}), **headers}}
                    statuses.add(client.request(method, place + query, **sent).status_code)
    return statuses


def ask_well(client: Client, headers: dict[str, str]) -> None:
    """Requests that succeed."""
    stored = {"vector": VECTOR, "uncertainty": 1.0, "payload": {"canary": "canary"}}
    where = {"canary": "canary"}
    answers = [
        client.post("/embed", content=IMAGE, headers={**PNG, **headers}),
        client.post("/embed", json={"images": [TEXT]}, headers=headers),
        client.post("/embed", files={"images": IMAGE}, headers=headers),
        client.put("/gallery/thing", json=stored, headers=headers),
        client.put("/gallery/other", content=IMAGE, headers={**PNG, **headers}, params={"payload": '{"canary": 1}'}),
        client.post("/retrieve", json={"vector": VECTOR, "filter": where}, headers=headers),
        client.post("/retrieve", json={"image": TEXT}, headers=headers),
        client.get("/gallery", params={"filter": json.dumps(where)}, headers=headers),
        client.get("/gallery/thing", headers=headers),
        client.post("/gallery/delete", json={"filter": where}, headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [200] * len(answers)


def slices(text: str, length: int = 16) -> Iterator[str]:
    for start in range(0, len(text) - length, length):
        yield text[start : start + length]


def check_nothing_sent_is_in(log: str, server: Server) -> None:
    assert SENT not in log
    assert not any(part in log for part in slices(TEXT))
    assert not any(part in log for part in slices(repr(IMAGE)[2:-1]))
    assert str(VECTOR[0])[:8] not in log
    assert len(server.logged("request")) > 500


def test_nothing_that_was_sent_is_in_the_log(bundle_path: Path, tmp_path: Path) -> None:
    key = give_key(tmp_path / "keys.txt")
    settings = {"CANDOR_API_KEYS": str(tmp_path / "keys.txt"), "CANDOR_LOG_LEVEL": "debug"}
    headers = {**bearing(key), "user-agent": "canary", "cookie": "canary", "referer": "https://canary.example"}
    with serving(bundle_path, tmp_path / "gallery", **settings) as server, ready_client(server) as client:
        ask_well(client, headers)
        statuses = ask_everything(client, headers)
        assert client.get("/model", headers=bearing("candor_canary")).status_code == 401
        assert client.get("/model", headers={"authorization": "Basic canary"}).status_code == 401
        server.terminate()
        assert server.wait() == 0

    assert {200, 400, 404, 415, 422} <= statuses
    assert not [status for status in statuses if status >= 500]
    check_nothing_sent_is_in(server.errors, server)
    assert key not in server.errors
    assert "/gallery/thing" in {line["path"] for line in server.logged("path")}


@pytest.mark.parametrize(("level", "told"), [("info", False), ("debug", True)])
async def test_a_path_which_may_name_a_person_is_told_at_debug_alone(start: Start, level: str, told: bool) -> None:
    async with start(log_level=level) as running:
        await running.client.get("/gallery/jane.doe")
        await running.client.get("/jane.doe")
        await running.client.get("/gallery", params={"filter": '{"name": "jane.doe"}'})

    lines = [json.loads(line) for line in running.log.getvalue().splitlines()]
    requests = [line for line in lines if line["event"] == "request"]
    assert [line["route"] for line in requests] == ["/gallery/{id:path}", "unmatched", "/gallery"]
    assert [line["path"] for line in lines if line["event"] == "path"] == (
        ["/gallery/jane.doe", "/jane.doe", "/gallery"] if told else []
    )
    assert ("jane" in running.log.getvalue()) == told

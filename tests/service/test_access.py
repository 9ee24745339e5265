"""Who may come in: by keys and their scopes, or by where a web page is from."""

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from service.access import NEEDED, OPEN_PATHS, is_loopback, needed_scope
from service.keys_remove import remove_key
from tests.service.callers import bearing, give_key
from tests.service.conftest import Running, Start
from tests.service.images import png
from tests.service.test_errors import check

PNG = {"content-type": "image/png"}
SCOPES = ("embed", "retrieve", "write", "admin")
ANY_KEY = {"/model", "/models", "/metrics"}
EXPECTED = {
    ("POST", "/embed"): "embed",
    ("POST", "/v1/embeddings"): "embed",
    ("GET", "/v2/models/default"): "embed",
    ("POST", "/v2/models/default/infer"): "embed",
    ("POST", "/retrieve"): "retrieve",
    ("POST", "/feedback"): "retrieve",
    ("GET", "/gallery"): "retrieve",
    ("GET", "/gallery/a"): "retrieve",
    ("POST", "/gallery"): "write",
    ("POST", "/gallery/delete"): "write",
    ("PUT", "/gallery/a/b"): "write",
    ("DELETE", "/gallery/a"): "write",
    ("BREW", "/gallery/a"): "write",
    ("GET", "/policies"): "retrieve",
    ("GET", "/policies/p"): "retrieve",
    ("POST", "/policies"): "admin",
    ("DELETE", "/policies/p"): "admin",
    ("POST", "/admin/reload"): "admin",
    ("GET", "/admin/reload"): "admin",
    ("GET", "/model"): None,
    ("GET", "/metrics"): None,
    ("POST", "/unheard/of"): None,
}


@pytest.mark.parametrize(("request_", "scope"), list(EXPECTED.items()))
def test_each_endpoint_needs_its_scope(request_: tuple[str, str], scope: str | None) -> None:
    assert needed_scope(*request_) == scope


def endpoints(app: FastAPI) -> set[tuple[str, str]]:
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    return {(method, route.path) for route in routes for method in route.methods or ()}


async def test_no_endpoint_is_left_without_a_decision(running: Running) -> None:
    undecided = {
        path
        for _, path in endpoints(running.app)
        if path not in OPEN_PATHS and path not in ANY_KEY and path.split("/")[1] not in NEEDED
    }
    assert not undecided


async def test_a_key_opens_what_it_is_for_and_nothing_else(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    keys = {scope: give_key(file, scope, scope) for scope in SCOPES}
    requests: dict[str, tuple[str, str, dict[str, Any]]] = {
        "embed": ("POST", "/embed", {"content": png(), "headers": PNG}),
        "write": ("PUT", "/gallery/a", {"content": png(), "headers": PNG}),
        "retrieve": ("POST", "/retrieve", {"content": png(), "headers": PNG}),
        "admin": ("DELETE", "/policies/none", {"headers": {}}),
    }
    async with start(api_keys=file) as running:
        for needed, (method, path, arguments) in requests.items():
            for scope, key in keys.items():
                sent = {**arguments, "headers": {**arguments["headers"], **bearing(key)}}
                answer = await running.client.request(method, path, **sent)
                if scope == needed:
                    assert answer.status_code == (404 if needed == "admin" else 200), (method, path)
                else:
                    check(answer, 403, "forbidden")
                    assert f"scope {needed}" in answer.json()["detail"]
                    assert f'scope="{needed}"' in answer.headers["www-authenticate"]
        for key in keys.values():
            for path in ANY_KEY - {"/models"}:
                assert (await running.client.get(path, headers=bearing(key))).status_code == 200


async def test_a_removed_key_is_refused_by_the_running_server(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    kept, lost = give_key(file, "kept"), give_key(file, "lost")
    async with start(api_keys=file) as running:
        assert (await running.client.get("/model", headers=bearing(lost))).status_code == 200
        remove_key(file, "lost")
        check(await running.client.get("/model", headers=bearing(lost)), 401, "unauthorized")
        assert (await running.client.get("/model", headers=bearing(kept))).status_code == 200


FOREIGN = {"origin": "https://evil.example"}


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost:1", "http://localhost.evil.example"]
)
async def test_a_page_of_another_site_may_not_use_an_open_server(running: Running, method: str, origin: str) -> None:
    answer = await running.client.request(method, "/gallery/a", headers={"origin": origin})

    check(answer, 403, "forbidden")
    assert "access-control-allow-origin" not in answer.headers
    assert not running.gallery.items


@pytest.mark.parametrize(
    "host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST", "10.0.0.1", "[fe80::1]:8000", "candor:8000"]
)
async def test_a_page_of_the_servers_own_may_use_it(running: Running, host: str) -> None:
    headers = {"host": host, "origin": f"http://{host}".lower()}
    assert (await running.client.get("/gallery", headers=headers)).status_code == 200


@pytest.mark.parametrize("settings", [{}, {"host": "0.0.0.0", "allow_anonymous": True}])
@pytest.mark.parametrize("host", ["evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "1.2.3.4.5"])
async def test_a_site_whose_name_was_made_to_point_here_may_not_use_an_open_server(
    start: Start, settings: dict[str, Any], host: str
) -> None:
    async with start(**settings) as running:
        for headers in ({"host": host}, {"host": host, "origin": f"http://{host}"}):
            check(await running.client.get("/gallery", headers=headers), 403, "forbidden")
            assert (await running.client.get("/healthz", headers=headers)).status_code == 200


async def test_with_keys_any_name_will_do(start: Start, tmp_path: Path) -> None:
    headers = {**bearing(give_key(tmp_path / "keys.txt")), "host": "candor.example", **FOREIGN}
    async with start(api_keys=tmp_path / "keys.txt") as running:
        assert (await running.client.get("/gallery", headers=headers)).status_code == 200


async def test_pages_of_named_origins_may_use_the_server(start: Start, tmp_path: Path) -> None:
    origin, file = "https://shop.example", tmp_path / "keys.txt"
    key = give_key(file)
    asked = {"access-control-request-method": "PUT", "access-control-request-headers": "authorization"}
    for keys in ({}, {"api_keys": file}):
        async with start(allowed_origins=f"{origin}, https://other.example", **keys) as running:
            client = running.client
            leave = await client.options("/gallery/a", headers={"origin": origin, **asked})
            refused = await client.options("/gallery/a", headers={**FOREIGN, **asked})
            used = await client.put(
                "/gallery/a", content=png(), headers={**PNG, **bearing(key), "origin": origin, "host": "shop.example"}
            )
            failed = await client.get("/nowhere", headers={**bearing(key), "origin": origin})
        assert leave.status_code == 200
        assert leave.headers["access-control-allow-origin"] == origin
        assert "PUT" in leave.headers["access-control-allow-methods"]
        assert refused.status_code == 400
        assert used.status_code == 200
        check(failed, 404, "not_found")
        for answer in (used, failed):
            assert answer.headers["access-control-allow-origin"] == origin
            assert "X-Request-ID" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize(
    ("host", "closed"),
    [
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.0.2.1", False),
        ("no-such-host.invalid", False),
    ],
)
def test_only_loopback_keeps_other_machines_out(host: str, closed: bool) -> None:
    assert is_loopback(host) == closed

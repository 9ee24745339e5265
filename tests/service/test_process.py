"""Real server processes: starting, refusing to start, draining, and being killed in the middle of their work."""

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import onnxruntime as ort
import pytest
from httpx2 import Client, ConnectError, TransportError

from service.server import CLOSE_S
from tests.service.bundle_factory import DIMENSION, make_bundle
from tests.service.callers import give_key
from tests.service.images import jpeg, png
from tests.service.process import PATIENCE_S, Server, ready_client, serving

PNG = {"content-type": "image/png"}


def test_a_server_embeds_stores_finds_and_leaves_cleanly(bundle_path: Path, tmp_path: Path) -> None:
    with serving(bundle_path, tmp_path / "gallery") as server:
        with ready_client(server) as client:
            embedded = client.post("/embed", content=jpeg(1), headers={"content-type": "image/jpeg"}).json()
            for seed in range(3):
                payload = {"payload": json.dumps({"seed": seed})}
                assert client.put(f"/gallery/{seed}", content=png(seed), headers=PNG, params=payload).status_code == 200
            found = client.post(
                "/retrieve", content=png(1), headers=PNG, params={"filter": '{"seed": {"gte": 1}}'}
            ).json()
            page = client.get("/gallery").json()
        server.terminate()
        assert server.wait() == 0

    assert len(embedded["results"][0]["embedding"]) == DIMENSION
    assert found["matches"][0]["id"] == "1"
    assert found["removed"]["by_filter"] == 1
    assert (page["count"], page["engine"]) == (3, "lancedb")
    assert server.event("stopped")["cut_off"] is False


def test_a_restart_keeps_the_gallery_and_another_bundle_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "gallery"
    with serving(bundle_path, gallery) as server, ready_client(server) as client:
        client.put("/gallery/a", content=png(1), headers=PNG)
    with serving(bundle_path, gallery) as server, ready_client(server) as client:
        assert client.get("/gallery/a").status_code == 200
    with serving(make_bundle(tmp_path / "other", scale=2.0), gallery) as server:
        assert server.wait() == 1
    assert "bundle" in server.errors
    assert "Traceback" not in server.errors


def test_cuda_that_cannot_be_had_stops_the_start(bundle_path: Path, tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("the CUDA runtime is installed here")
    with serving(bundle_path, tmp_path / "gallery", "--device", "cuda") as server:
        assert server.wait() == 1

    assert "CANDOR_DEVICE=cuda" in server.errors
    assert "candor[gpu]" in server.errors
    assert "Traceback" not in server.errors


def test_a_bundle_that_is_missing_stops_the_start(tmp_path: Path) -> None:
    with serving(tmp_path / "nowhere", tmp_path / "gallery") as server:
        assert server.wait() == 1

    assert "is no bundle" in server.errors
    assert "Traceback" not in server.errors


def test_a_port_in_use_stops_the_start(bundle_path: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with serving(bundle_path, tmp_path / "gallery", "--port", str(port)) as server:
            assert server.wait() == 1

    assert f"cannot listen on 127.0.0.1 port {port}" in server.errors
    assert "Traceback" not in server.errors


@pytest.mark.parametrize(("host", "workers"), [("0.0.0.0", "1"), ("::", "2")])
def test_other_machines_are_not_let_in_by_default(bundle_path: Path, tmp_path: Path, host: str, workers: str) -> None:
    with serving(bundle_path, tmp_path / "gallery", "--host", host, "--workers", workers) as server:
        assert server.wait() == 2

    assert "CANDOR_API_KEYS" in server.errors
    assert "CANDOR_ALLOW_ANONYMOUS=true" in server.errors
    assert "Traceback" not in server.errors


@pytest.mark.parametrize(("host", "here", "keyed"), [("0.0.0.0", "127.0.0.1", True), ("::", "[::1]", False)])
def test_other_machines_are_let_in_with_keys_or_on_purpose(
    bundle_path: Path, tmp_path: Path, host: str, here: str, keyed: bool
) -> None:
    give_key(tmp_path / "keys.txt")
    way_in = {"CANDOR_API_KEYS": str(tmp_path / "keys.txt")} if keyed else {"CANDOR_ALLOW_ANONYMOUS": "true"}
    with serving(bundle_path, tmp_path / "gallery", "--host", host, **way_in) as server, Client() as client:
        answer = client.get(f"http://{here}:{urlsplit(server.url).port}/model", timeout=PATIENCE_S)
        assert (answer.status_code == 401) == keyed


def test_an_unknown_variable_is_warned_about(bundle_path: Path, tmp_path: Path) -> None:
    with serving(bundle_path, tmp_path / "gallery", CANDOR_MAX_PERCENTIL="0.5") as server:
        warning = server.event("unknown setting ignored")

    assert (warning["variable"], warning["nearest"]) == ("CANDOR_MAX_PERCENTIL", "CANDOR_MAX_PERCENTILE")


class SlowUpload:
    """A request whose body is sent by hand: accepted once its head is read, answered only when the rest is sent."""

    def __init__(self, url: str, content: bytes) -> None:
        host, _, port = url.removeprefix("http://").partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self._rest = content[1:]
        head = (
            f"POST /embed HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/png\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + content[:1])

    def finish(self) -> bytes:
        """Send the rest; the answer's first line."""
        self._socket.sendall(self._rest)
        return self.first_line()

    def finish_with_body(self) -> Any:
        """Send the rest; the answer's JSON."""
        with self._socket:
            self._socket.sendall(self._rest)
            answer = HTTPResponse(self._socket)
            answer.begin()
            return json.loads(answer.read())

    def first_line(self) -> bytes:
        """The answer's first line, or nothing where the connection was closed."""
        with self._socket, self._socket.makefile("rb") as answer:
            try:
                return answer.readline()
            except ConnectionResetError:
                return b""


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def in_flight(client: Client) -> int:
    line = next(x for x in client.get("/metrics").text.splitlines() if x.startswith("candor_requests_in_flight "))
    return int(float(line.split()[1])) - 1  # less the one that asks


def test_sigterm_answers_what_was_accepted_and_refuses_the_rest(bundle_path: Path, tmp_path: Path) -> None:
    with serving(bundle_path, tmp_path / "gallery") as server, ready_client(server) as client:
        uploads = [SlowUpload(server.url, png(seed)) for seed in range(5)]
        wait_until(lambda: in_flight(client) == 5)

        server.terminate()
        wait_until(lambda: client.get("/readyz").status_code == 503)
        for _ in range(20):  # longer than the server takes to close, once nothing is left to answer
            time.sleep(CLOSE_S / 10)
            with Client(base_url=server.url, timeout=PATIENCE_S) as newcomer:
                assert newcomer.get("/readyz").status_code == 503
        refused = client.post("/embed", content=png(), headers=PNG)
        answers = [upload.finish() for upload in uploads]

        assert refused.status_code == 503
        assert refused.headers["connection"] == "close"
        assert int(refused.headers["retry-after"]) >= 1
        assert answers == [b"HTTP/1.1 200 OK\r\n"] * 5
        assert server.wait() == 0


def test_a_drain_that_takes_too_long_is_cut_off_and_says_so(bundle_path: Path, tmp_path: Path) -> None:
    with (
        serving(bundle_path, tmp_path / "gallery", CANDOR_DRAIN_TIMEOUT_S="0.2") as server,
        ready_client(server) as client,
    ):
        upload = SlowUpload(server.url, png())
        wait_until(lambda: in_flight(client) == 1)
        server.terminate()

        assert server.wait() == 1
        assert upload.first_line() == b"HTTP/1.1 503 Service Unavailable\r\n"
        assert server.event("stopped")["cut_off"] is True


def test_a_second_signal_does_not_wait(bundle_path: Path, tmp_path: Path) -> None:
    with (
        serving(bundle_path, tmp_path / "gallery", CANDOR_DRAIN_TIMEOUT_S="3600") as server,
        ready_client(server) as client,
    ):
        upload = SlowUpload(server.url, png())
        wait_until(lambda: in_flight(client) == 1)
        server.terminate()
        wait_until(lambda: client.get("/readyz").status_code == 503)
        server.terminate()

        assert server.wait() == 1
        assert b"200" not in upload.first_line()


ROUNDS = 5
WRITERS = 4


class Ingest:
    """Threads that store and delete items over HTTP until the server dies, and remember what was acknowledged."""

    def __init__(self, server: Server, round_: int) -> None:
        self.stored: dict[str, list[float]] = {}
        self.deleted: set[str] = set()
        self._url = server.url
        self._round = round_
        self._lock = threading.Lock()

    def has_stored(self, count: int) -> bool:
        """Whether that many puts have been acknowledged, and not deleted since."""
        return len(self.stored) >= count

    def run(self, writer: int) -> None:
        random = np.random.default_rng([self._round, writer])
        with Client(base_url=self._url, timeout=PATIENCE_S) as client:
            try:
                for n in range(100_000):
                    self._store(client, f"{self._round}/{writer}/{n}", random.normal(size=DIMENSION))
                    if n % 10 == 9:
                        self._delete(client, f"{self._round}/{writer}/{n - 5}")
            except (TransportError, ConnectError):
                return  # the server is dead; what was not acknowledged may or may not be there

    def _store(self, client: Client, name: str, vector: Any) -> None:
        unit = (vector / np.linalg.norm(vector)).tolist()
        body = {"vector": unit, "uncertainty": 1.0, "payload": {"name": name}}
        response = client.put(f"/gallery/{name}", json=body)
        assert response.status_code == 200, response.text
        with self._lock:
            self.stored[name] = unit

    def _delete(self, client: Client, name: str) -> None:
        with self._lock:
            del self.stored[name]  # from the request on, it may be there or not
        response = client.delete(f"/gallery/{name}")
        assert response.status_code == 200, response.text
        with self._lock:
            self.deleted.add(name)


def test_kill_9_in_the_middle_of_ingest_loses_nothing_acknowledged(bundle_path: Path, tmp_path: Path) -> None:
    stored: dict[str, list[float]] = {}
    deleted: set[str] = set()
    for round_ in range(ROUNDS + 1):  # each round looks at what the one before left; the last does nothing else
        with serving(bundle_path, tmp_path / "gallery") as server, ready_client(server) as client:
            check_survivors(client, stored, deleted, kills=round_)
            if round_ == ROUNDS:
                return
            ingest = Ingest(server, round_)
            with ThreadPoolExecutor(WRITERS) as writers:
                tasks = [writers.submit(ingest.run, writer) for writer in range(WRITERS)]
                wait_until(partial(ingest.has_stored, 40 + 7 * round_))
                server.kill()
                for task in tasks:
                    task.result(PATIENCE_S)
            stored |= ingest.stored
            deleted |= ingest.deleted


def check_survivors(client: Client, stored: dict[str, list[float]], deleted: set[str], kills: int) -> None:
    """Every acknowledged item is there, whole and found; no deleted one is."""
    items: dict[str, Any] = {}
    while page := client.get("/gallery", params={"limit": 1000, "offset": len(items)}).json()["items"]:
        items |= {item["id"]: item for item in page}
    missing, risen = stored.keys() - items.keys(), deleted & items.keys()
    print(
        f"after {kills} kills: {len(stored)} puts and {len(deleted)} deletions acknowledged, {len(items)} items there, "
        f"{len(missing)} missing, {len(risen)} risen"
    )
    assert not missing
    assert not risen
    for name in list(stored)[-5:]:
        assert client.get(f"/gallery/{name}").json()["embedding"] == pytest.approx(stored[name], abs=1e-6)
        assert client.post("/retrieve", json={"vector": stored[name]}).json()["matches"][0]["id"] == name

"""Hot reload of real servers: nothing dropped, nothing mixed, nothing changed by one that fails."""

import gc
import itertools
import json
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from httpx2 import Client
from numpy.typing import NDArray

from models.bundle import load_bundle
from models.preprocess import preprocess
from service.session import Session
from tests.service.bundle_factory import expected, make_bundle
from tests.service.conftest import Start
from tests.service.images import picture, png
from tests.service.process import PATIENCE_S, ready_client, serving
from tests.service.test_process import PNG, SlowUpload, wait_until
from tests.service.test_workers import ask, metrics, two_workers, wait_for_workers
from tests.service.waiting import until

CLIENTS = 4
RELOADS = 6


class Versions:
    """A link to one of two bundles, of other embeddings and uncertainties, which is turned in one step."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.link = home / "current"
        self.folders = {
            "one": make_bundle(home / "one"),
            "two": make_bundle(home / "two", sign=-1, scale=2.0),
        }
        self.hashes = {name: load_bundle(folder).hash for name, folder in self.folders.items()}
        self.turn("one")

    def turn(self, name: str) -> None:
        fresh = self._home / ".next"
        fresh.symlink_to(name)
        fresh.replace(self.link)

    def expected(self, bundle_hash: str, seed: int) -> tuple[NDArray[np.float64], float]:
        """The embedding and the uncertainty that the bundle of that hash gives of `png(seed)`."""
        preprocessing = load_bundle(self.folders["one"]).preprocessing
        embedding, uncertainty, _ = expected(preprocess(picture(seed), preprocessing))
        return (embedding, uncertainty) if bundle_hash == self.hashes["one"] else (-embedding, 2 * uncertainty)


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path)


def reload(client: Client) -> list[dict[str, Any]]:
    answer = client.post("/admin/reload", content=b"")
    assert answer.status_code == 200, answer.text
    changed: list[dict[str, Any]] = answer.json()["changed"]
    return changed


def served(client: Client) -> str:
    bundle_hash: str = client.get("/model").json()["bundle_hash"]
    return bundle_hash


class Load:
    """Clients that send images until told to stop, and what each was answered."""

    def __init__(self, url: str, path: str = "/embed") -> None:
        self._url = url
        self._path = path
        self._stop = threading.Event()
        self.answers: list[tuple[int, int, Any]] = []
        self._pool = ThreadPoolExecutor(CLIENTS)
        self._tasks = [self._pool.submit(self._run, number) for number in range(CLIENTS)]

    def _run(self, number: int) -> None:
        with Client(base_url=self._url, timeout=PATIENCE_S) as client:
            while not self._stop.is_set():
                seed = number + CLIENTS * (len(self.answers) % 3)
                answer = client.post(self._path, content=png(seed), headers=PNG)
                self.answers.append((seed, answer.status_code, answer.json()))

    def wait_for_more(self) -> None:
        count = len(self.answers)
        wait_until(lambda: len(self.answers) > count + 3 * CLIENTS)

    def stop(self) -> None:
        self._stop.set()
        for task in self._tasks:
            task.result(PATIENCE_S)
        self._pool.shutdown()


def test_reloads_under_load_drop_nothing_and_mix_nothing(versions: Versions) -> None:
    gallery = versions.link.parent / "galleries" / "{hash}"
    with serving(versions.link, gallery) as server, ready_client(server) as client:
        load = Load(server.url)
        for number in range(RELOADS):
            load.wait_for_more()
            versions.turn("one" if number % 2 else "two")
            assert len(reload(client)) == 1
        load.wait_for_more()
        load.stop()
        wait_until(lambda: server.errors.count('"bundle closed"') == RELOADS)
        metrics = client.get("/metrics").text

    assert {status for _, status, _ in load.answers} == {200}
    assert {answer["bundle_hash"] for _, _, answer in load.answers} == set(versions.hashes.values())
    for seed, _, answer in load.answers:
        embedding, uncertainty = versions.expected(answer["bundle_hash"], seed)
        assert answer["results"][0]["embedding"] == pytest.approx(embedding, abs=1e-2)
        assert answer["results"][0]["uncertainty"] == pytest.approx(uncertainty, rel=1e-2)
    assert f'candor_reloads_total{{outcome="ok"}} {RELOADS}.0' in metrics
    infos = [line for line in metrics.splitlines() if line.startswith("candor_model_info{")]
    assert len(infos) == 1
    assert versions.hashes["one"] in infos[0]
    assert f'candor_images_total{{bundle="tiny",outcome="ok"}} {len(load.answers)}.0' in metrics


def test_a_request_is_answered_by_what_was_served_when_it_came(versions: Versions) -> None:
    with serving(versions.link, "none") as server, ready_client(server) as client:
        upload = SlowUpload(server.url, png(1))
        wait_until(lambda: "candor_requests_in_flight 2.0" in client.get("/metrics").text)
        versions.turn("two")
        reload(client)
        assert served(client) == versions.hashes["two"]
        assert '"bundle closed"' not in server.errors
        answer = upload.finish_with_body()
        assert server.event("bundle closed")["hash"] == versions.hashes["one"]

    assert answer["bundle_hash"] == versions.hashes["one"]
    assert answer["results"][0]["embedding"] == pytest.approx(versions.expected(versions.hashes["one"], 1)[0], abs=1e-2)


def test_a_gallery_of_each_version_is_there_again_when_that_version_is(versions: Versions) -> None:
    gallery = versions.link.parent / "galleries" / "{bundle}-{hash}"
    with serving(versions.link, gallery) as server, ready_client(server) as client:
        client.put("/gallery/a", content=png(1), headers=PNG)
        versions.turn("two")
        reload(client)
        assert client.get("/gallery").json()["count"] == 0
        client.put("/gallery/b", content=png(1), headers=PNG)
        match = client.post("/retrieve", content=png(1), headers=PNG).json()["matches"][0]
        versions.turn("one")
        reload(client)
        ids = [item["id"] for item in client.get("/gallery").json()["items"]]

    assert (match["id"], match["score"]) == ("b", pytest.approx(1.0, abs=1e-3))
    assert ids == ["a"]


def test_what_is_the_same_is_not_opened_again(versions: Versions, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", name="other", grid=2)
    bundles = f"{versions.link},{other}"
    with serving(bundles, tmp_path / "galleries" / "{bundle}-{hash}") as server, ready_client(server) as client:
        assert reload(client) == []
        versions.turn("two")
        changed = reload(client)
        lines = [json.loads(line) for line in server.lines if '"bundle loaded"' in line]

    assert changed == [{"bundle": "tiny", "before": versions.hashes["one"], "after": versions.hashes["two"]}]
    assert [line["bundle"] for line in lines] == ["tiny", "other", "tiny"]


def test_new_reference_percentiles_alone_are_served_too(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    manifest = json.loads((bundle / "bundle.json").read_text())
    with serving(bundle, tmp_path / "gallery") as server, ready_client(server) as client:
        client.put("/gallery/a", content=png(1), headers=PNG)
        before = client.get("/gallery/a").json()
        manifest["reference"]["uncertainty"] = [0.0, 1000.0]
        replace(bundle / "bundle.json", json.dumps(manifest))
        assert len(reload(client)) == 1
        after = client.get("/gallery/a").json()
        server.event("bundle closed")
        assert "candor_model_info{" in client.get("/metrics").text

    assert after["uncertainty"] == before["uncertainty"]
    assert after["percentile"] < before["percentile"] / 10


def replace(path: Path, text: str) -> None:
    fresh = path.with_suffix(".next")
    fresh.write_text(text)
    fresh.replace(path)


def test_a_reload_that_fails_changes_nothing_and_says_why(versions: Versions, tmp_path: Path) -> None:
    with serving(versions.link, tmp_path / "gallery") as server, ready_client(server) as client:
        client.put("/gallery/a", content=png(1), headers=PNG)
        versions.turn("two")  # whose embeddings do not belong into this gallery
        wrong_gallery = client.post("/admin/reload")
        graph = (versions.folders["one"] / "model.onnx").read_bytes()
        versions.turn("one")
        (versions.folders["one"] / "model.onnx").write_bytes(graph[:-1])
        broken = client.post("/admin/reload")
        found = client.post("/retrieve", content=png(1), headers=PNG).json()
        assert served(client) == versions.hashes["one"]
        (versions.folders["one"] / "model.onnx").write_bytes(graph)
        assert reload(client) == []
        counted = client.get("/metrics").text
        assert server.event("reload failed; what was served is served on")["level"] == "error"

    for answer, reason in ((wrong_gallery, "another bundle"), (broken, "is not the graph")):
        assert (answer.status_code, answer.json()["type"]) == (409, "reload_failed")
        assert reason in answer.json()["detail"]
    assert found["matches"][0]["id"] == "a"
    assert 'candor_reloads_total{outcome="failed"} 2.0' in counted
    assert "Traceback" not in server.errors


def test_a_graph_that_is_not_what_its_manifest_says_is_not_reloaded(versions: Versions) -> None:
    with serving(versions.link, "none") as server, ready_client(server) as client:
        manifest = json.loads((versions.folders["two"] / "bundle.json").read_text())
        (versions.folders["two"] / "bundle.json").write_text(json.dumps({**manifest, "dimension": 47}))
        versions.turn("two")
        answer = client.post("/admin/reload")
        assert served(client) == versions.hashes["one"]

    assert answer.status_code == 409
    assert "47" in answer.json()["detail"]


def test_sighup_reloads(versions: Versions) -> None:
    with serving(versions.link, "none") as server, ready_client(server) as client:
        versions.turn("two")
        server.process.send_signal(signal.SIGHUP)
        assert server.event("reloaded")["changed"] == ["tiny"]
        assert served(client) == versions.hashes["two"]
        server.terminate()
        assert server.wait() == 0


def test_reloads_asked_for_at_once_come_one_after_the_other(versions: Versions) -> None:
    with serving(versions.link, "none") as server, ready_client(server) as client, ThreadPoolExecutor(4) as pool:
        versions.turn("two")
        answers = [task.result() for task in [pool.submit(client.post, "/admin/reload") for _ in range(4)]]

    assert [answer.status_code for answer in answers] == [200] * 4
    assert sorted(len(answer.json()["changed"]) for answer in answers) == [0, 0, 0, 1]


def test_the_name_of_a_bundle_follows_its_manifest_unless_one_was_given(versions: Versions) -> None:
    make_bundle(versions.folders["two"], name="renamed", sign=-1)
    gallery = versions.link.parent / "galleries" / "{bundle}"
    with serving(versions.link, gallery) as server, ready_client(server) as client:
        client.post("/embed", content=png(), headers=PNG)
        versions.turn("two")
        assert {each["bundle"]: each["after"] is None for each in reload(client)} == {"tiny": True, "renamed": False}
        assert client.get("/model", params={"bundle": "tiny"}).status_code == 404
        assert client.get("/model").json()["bundle"] == "renamed"
        assert server.event("bundle closed")["bundle"] == "tiny"
        text = client.get("/metrics").text
    assert 'candor_queue_images{bundle="tiny"} 0.0' in text
    for gone in ("candor_model_info", "candor_tuning", "candor_bundle_loaded_timestamp_seconds"):
        lines = [line for line in text.splitlines() if line.startswith(gone + "{")]
        assert lines
        assert all('bundle="renamed"' in line for line in lines)


def test_every_worker_reloads(versions: Versions) -> None:
    with two_workers(versions.link, versions.link.parent / "{hash}") as server:
        wait_for_workers(server)
        versions.turn("two")
        asked = ask(server, "POST", "/admin/reload")
        wait_until(lambda: metrics(server).get(("candor_reloads_total", (("outcome", "ok"),))) == 2)
        hashes = {ask(server, "GET", "/model").json()["bundle_hash"] for _ in range(20)}
        infos = [dict(labels)["hash"] for name, labels in metrics(server) if name == "candor_model_info"]
        versions.turn("one")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: metrics(server)["candor_reloads_total", (("outcome", "ok"),)] == 4)
        back = {ask(server, "GET", "/model").json()["bundle_hash"] for _ in range(20)}
        server.terminate()
        assert server.wait() == 0

    assert (asked.status_code, asked.json()) == (202, {"status": "asked", "changed": None})
    assert hashes == {versions.hashes["two"]}
    assert infos == [versions.hashes["two"]]
    assert back == {versions.hashes["one"]}


async def test_the_session_of_what_is_served_no_more_is_freed(start: Start, versions: Versions) -> None:
    async with start(bundle=versions.link) as running:
        gc.disable()  # it must not take luck
        try:
            old = weakref.ref(running.services.session)
            await running.client.post("/embed", content=png(1), headers=PNG)
            versions.turn("two")
            answer = await running.client.post("/admin/reload")
            assert len(answer.json()["changed"]) == 1
            await until(lambda: old() is None)
        finally:
            gc.enable()
        after = (await running.client.post("/embed", content=png(1), headers=PNG)).json()
        assert after["bundle_hash"] == versions.hashes["two"]


async def test_a_bundle_that_changes_while_it_is_loaded_is_refused(start: Start, versions: Versions) -> None:
    manifest, opened = versions.folders["two"] / "bundle.json", itertools.count()

    def open_(session: Session) -> Session:
        changed = json.loads(manifest.read_text()) | {"created": str(next(opened))}
        replace(manifest, json.dumps(changed))
        return session

    async with start(open_, bundle=versions.link) as running:
        versions.turn("two")
        answer = await running.client.post("/admin/reload")
        model = (await running.client.get("/model")).json()

    assert (answer.status_code, answer.json()["type"]) == (409, "reload_failed")
    assert "was changed while it was loaded" in answer.json()["detail"]
    assert model["bundle_hash"] == versions.hashes["one"]


async def test_a_server_that_still_loads_does_not_reload(start: Start) -> None:
    async with start(ready=False) as running:
        assert (await running.client.post("/admin/reload")).status_code == 503


def test_searches_under_load_each_see_one_version_and_its_gallery(versions: Versions) -> None:
    gallery = versions.link.parent / "galleries" / "{hash}"
    with serving(versions.link, gallery) as server, ready_client(server) as client:
        for name in ("one", "two"):
            versions.turn(name)
            reload(client)
            assert client.put(f"/gallery/{name}", content=png(1), headers=PNG).status_code == 200
        load = Load(server.url, "/retrieve")
        for number in range(RELOADS):
            load.wait_for_more()
            versions.turn("two" if number % 2 else "one")
            reload(client)
        load.wait_for_more()
        load.stop()

    assert {status for _, status, _ in load.answers} == {200}
    assert {answer["matches"][0]["id"] for _, _, answer in load.answers} == {"one", "two"}
    for seed, _, answer in load.answers:
        version = versions.hashes[answer["matches"][0]["id"]]
        assert answer["query"]["uncertainty"] == pytest.approx(versions.expected(version, seed)[1], rel=1e-2)

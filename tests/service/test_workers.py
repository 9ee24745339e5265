"""Several worker processes on one port: shared metrics, one gallery, and what happens when a process dies."""

import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from httpx2 import Client, TransportError
from prometheus_client.parser import text_string_to_metric_families

from service import providers, workers
from service.errors import Unavailable
from service.providers import take_gpu, visible_gpus
from service.server import listen
from service.workers import reserve
from tests.service.bundle_factory import DIMENSION
from tests.service.images import png
from tests.service.process import Server, serving
from tests.service.test_process import PNG, SlowUpload, wait_until

WORKERS = 2


def ask(server: Server, method: str, path: str, **arguments: Any) -> Any:
    """One request on a connection of its own, which the system gives to any of the workers."""
    with Client(base_url=server.url, timeout=60) as client:
        return client.request(method, path, **arguments)


def metrics(server: Server) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(ask(server, "GET", "/metrics").text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def pids(server: Server) -> set[int]:
    return {int(labels[0][1]) for name, labels in metrics(server) if name == "process_start_time_seconds"}


def two_workers(bundle: Path, gallery: Path, **environment: str) -> Any:
    return serving(bundle, gallery, "--workers", str(WORKERS), **environment)


def wait_for_workers(server: Server) -> None:
    server.event("listening")
    wait_until(lambda: len(pids(server)) == WORKERS and metrics(server)["candor_ready", ()] == 1)


def test_workers_share_the_port_the_metrics_and_the_gallery(bundle_path: Path, tmp_path: Path) -> None:
    with two_workers(bundle_path, tmp_path / "gallery") as server:
        wait_for_workers(server)
        for n in range(40):
            vector = [float(n == i) for i in range(DIMENSION)] if n < DIMENSION else [1.0, *[0.0] * (DIMENSION - 1)]
            body = {"vector": vector, "uncertainty": 1.0, "payload": {"n": n}}
            assert ask(server, "PUT", f"/gallery/{n}", json=body).status_code == 200
            assert ask(server, "GET", f"/gallery/{n}").json()["payload"] == {"n": n}
            assert ask(server, "POST", "/embed", content=png(n), headers=PNG).status_code == 200
        deleted = ask(server, "DELETE", "/gallery/7")
        gone = [ask(server, "GET", "/gallery/7").status_code for _ in range(10)]
        wait_until(lambda: metrics(server)["candor_requests_in_flight", ()] == 1)  # as each worker's last tick had it
        counted = metrics(server)
        server.terminate()
        assert server.wait() == 0

    assert deleted.status_code == 200
    assert gone == [404] * 10
    assert counted["candor_images_total", (("bundle", "tiny"), ("outcome", "ok"))] == 40
    puts = [
        value
        for (name, labels), value in counted.items()
        if name == "candor_requests_total" and ("method", "PUT") in labels
    ]
    assert puts == [40]
    assert counted["candor_gallery_items", (("bundle", "tiny"),)] == 39
    assert server.event("all workers have stopped")["exit_code"] == 0


def test_a_worker_that_dies_is_replaced_and_nothing_counted_is_lost(bundle_path: Path, tmp_path: Path) -> None:
    with two_workers(bundle_path, tmp_path / "gallery") as server:
        wait_for_workers(server)
        for n in range(20):
            ask(server, "POST", "/embed", content=png(n), headers=PNG)
        victim = min(pids(server))
        os.kill(victim, signal.SIGKILL)
        ended = server.event("a worker has ended; starting another")
        answered = 0
        while answered < 20:  # the other goes on; only connections that the dead one had taken are lost
            try:
                answered += ask(server, "POST", "/embed", content=png(), headers=PNG).status_code == 200
            except TransportError:
                continue
        wait_for_workers(server)
        assert victim not in pids(server)
        assert metrics(server)["candor_images_total", (("bundle", "tiny"), ("outcome", "ok"))] == 40
    assert ended["exit_code"] == -signal.SIGKILL


def test_a_worker_that_hangs_is_replaced(bundle_path: Path, tmp_path: Path) -> None:
    with two_workers(bundle_path, tmp_path / "gallery") as server:
        wait_for_workers(server)
        victim = max(pids(server))
        os.kill(victim, signal.SIGSTOP)
        assert server.event("a worker is not well; replacing it")["pid"] == victim
        assert server.event("a worker has ended; starting another")["exit_code"] == -signal.SIGKILL


def test_workers_leave_when_their_supervisor_is_killed(bundle_path: Path, tmp_path: Path) -> None:
    with two_workers(bundle_path, tmp_path / "gallery") as server:
        wait_for_workers(server)
        orphans = pids(server)
        server.process.kill()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in orphans))


def test_a_drain_of_all_answers_what_each_has_accepted(bundle_path: Path, tmp_path: Path) -> None:
    with two_workers(bundle_path, tmp_path / "gallery") as server:
        wait_for_workers(server)
        uploads = [SlowUpload(server.url, png(seed)) for seed in range(8)]
        wait_until(lambda: metrics(server)["candor_requests_in_flight", ()] == len(uploads) + 1)
        server.terminate()
        wait_until(lambda: ask(server, "GET", "/readyz").status_code == 503)
        assert [upload.finish() for upload in uploads] == [b"HTTP/1.1 200 OK\r\n"] * len(uploads)
        assert server.wait() == 0


def test_a_second_signal_cuts_the_workers_off(bundle_path: Path, tmp_path: Path) -> None:
    with two_workers(bundle_path, tmp_path / "gallery", CANDOR_DRAIN_TIMEOUT_S="3600") as server:
        wait_for_workers(server)
        upload = SlowUpload(server.url, png())
        wait_until(lambda: metrics(server)["candor_requests_in_flight", ()] == 2)
        server.terminate()
        wait_until(lambda: ask(server, "GET", "/readyz").status_code == 503)
        server.terminate()
        assert server.wait() == 1
        assert b"200" not in upload.first_line()


def test_workers_that_cannot_load_stop_the_start(tmp_path: Path) -> None:
    with two_workers(tmp_path / "nowhere", tmp_path / "gallery") as server:
        assert server.wait() == 1

    assert server.errors.count("is no bundle") == 1
    assert "Traceback" not in server.errors


def test_a_port_that_other_workers_share_is_taken() -> None:
    with reserve("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with listen("127.0.0.1", port, shared=True), pytest.raises(OSError, match="in use"):
            reserve("127.0.0.1", port)


@pytest.mark.parametrize(
    ("chosen", "found", "taken"),
    [
        (None, 2, ["0", "1", "0"]),
        ("3,5", 8, ["3", "5", "3"]),
        ("GPU-a", 8, ["GPU-a"] * 3),
        (None, 0, [None] * 3),
        ("", 2, [""] * 3),
    ],
)
def test_each_worker_takes_the_next_gpu(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None, found: int, taken: list[str | None]
) -> None:
    monkeypatch.setattr(providers, "_count_gpus", lambda: found)
    seen = []
    for worker in range(3):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if chosen is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
        take_gpu(worker)
        seen.append(os.environ.get("CUDA_VISIBLE_DEVICES"))
    assert seen == taken
    assert visible_gpus() == [name for name in taken[2:] if name]


class Reports:
    def __init__(self) -> None:
        self.sent = 0
        self.closed = False

    def send_bytes(self, message: bytes) -> None:
        if self.closed:
            raise BrokenPipeError
        self.sent += 1


def test_only_a_worker_that_is_loaded_and_well_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "REPORT_S", 0.0)
    reports = Reports()
    tick = workers._reporting(reports)  # type: ignore[arg-type]
    well = True

    def check_alive() -> None:
        if not well:
            raise Unavailable("dead")

    lifecycle: Any = SimpleNamespace(services=None, check_alive=check_alive)
    assert tick(lifecycle)
    assert reports.sent == 0
    lifecycle.services = object()
    assert tick(lifecycle)
    assert reports.sent == 1
    well = False
    assert tick(lifecycle)
    assert reports.sent == 1
    well, reports.closed = True, True
    assert not tick(lifecycle)

import json
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from benchmarks import photos, serving
from benchmarks.bare_loop import Pixels, bare_processes, run_pool, run_single
from benchmarks.cpu_time import PROC, cpu_seconds, metered
from benchmarks.load import LoadError, passes, send_all
from benchmarks.payloads import raw_request
from benchmarks.rounds import Round
from models.bundle import load_bundle
from models.images import ImageError, ImageLimits, decode_image
from models.preprocess import preprocess
from service.session import open_session
from service.settings import read_settings
from tests.service.bundle_factory import make_bundle
from tests.service.images import jpeg

pytestmark = pytest.mark.skipif(not (PROC / "stat").is_file(), reason="needs Linux's /proc")

PHOTOS = 6
BURN_S = 0.1


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CANDOR_") and name != "CANDOR_TEST_DATA"]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / photos.FOLDER).mkdir()
    for seed in range(PHOTOS):
        (folder / photos.FOLDER / f"{seed}.JPEG").write_bytes(jpeg(seed))
    (folder / photos.FOLDER / "README.txt").write_text("not a photo")
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


def run_benchmark(data: Path, bundle: Path, out: Path, *options: str) -> dict[str, Any]:
    serving.main(["--data", str(data), "--bundle", str(bundle), "--out", str(out), *options])
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def test_a_small_run_reports_every_round_and_its_counts_add_up(
    data: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANDOR_MAX_BATCH", "3")
    monkeypatch.setenv("CANDOR_API_KEYS", "/not/asked/of/the/load/generator")

    result = run_benchmark(data, bundle, tmp_path / "made" / "r.json", "--seconds=0.2", "--rounds=2", "--concurrency=4")

    one, other = list(serving.WORKS), list(reversed(serving.WORKS))
    rounds = result["rounds"]
    assert [each["work"] for each in rounds] == one + other
    for each in rounds:
        assert each["images"] > 0
        assert each["images"] % PHOTOS == 0  # whole passes
        assert each["seconds"] >= 0.2
        assert each["images_per_second"] == pytest.approx(each["images"] / each["seconds"])
        assert each["cpu_ms_per_image"] == pytest.approx(1000 * each["cpu_seconds"] / each["images"])
        if each["work"] in serving.BARE:
            assert each["latency_ms"] == {}
        else:
            assert 0 < each["latency_ms"]["p50"] <= each["latency_ms"]["p95"] <= each["latency_ms"]["p99"]
    over_http = sum(each["images"] for each in rounds if each["work"] not in serving.BARE)
    images = result["images"]
    assert images["timed"] == over_http
    assert images["counted_by_server"] == images["warm_up"] + over_http
    assert result["photos"] == {
        "folder": photos.FOLDER,
        "count": PHOTOS,
        "bytes": sum(path.stat().st_size for path in (data / photos.FOLDER).glob("*.JPEG")),
    }
    assert result["plan"] == {"seconds": 0.2, "rounds": 2, "concurrency": 4}
    assert result["bundle"]["hash"] == load_bundle(bundle).hash
    assert result["settings"]["max_batch"] == 3
    assert result["machine"]["processor"]
    assert result["versions"].keys() >= {"python", "candor", "onnxruntime", "pillow", "uvicorn"}

    summary = result["summary"]
    speeds = {work: [each["images_per_second"] for each in rounds if each["work"] == work] for work in serving.WORKS}
    assert summary["yardstick"] == max(serving.BARE, key=lambda work: statistics.median(speeds[work]))
    assert {work: summary["medians"][work]["images_per_second"] for work in serving.WORKS} == {
        work: pytest.approx(statistics.median(values)) for work, values in speeds.items()
    }
    table = capsys.readouterr().out
    assert "| `POST /embed`, concurrency 4 |" in table
    assert f"{summary['cpu_over_bare']['median']:.2f} x the CPU per image" in table


def test_ratios_are_of_rounds_side_by_side_to_the_faster_bare_loop() -> None:
    def stretch(work: serving.Work, images: int, cpu_seconds: float) -> Round:
        latencies = () if work in serving.BARE else (0.001, 0.002, 0.003)
        return Round(work, images, 1.0, cpu_seconds, 0.5, 0.0, latencies)

    rounds = [
        *(stretch("server", images, cpu) for images, cpu in [(90, 1.8), (40, 0.8), (80, 1.6)]),
        *(stretch("server_alone", 30, 0.9) for _ in range(3)),
        *(stretch("bare_pool", images, cpu) for images, cpu in [(100, 1.0), (50, 0.5), (200, 2.0)]),
        *(stretch("bare_single", 60, 0.6) for _ in range(3)),
    ]

    summary = serving.summarise(rounds)

    assert summary["yardstick"] == "bare_pool"
    assert summary["throughput_over_bare"] == pytest.approx({"median": 0.8, "min": 0.4, "max": 0.9})
    assert summary["cpu_over_bare"] == pytest.approx({"median": 2.0, "min": 2.0, "max": 2.0})
    assert summary["medians"]["server"]["latency_ms"] == pytest.approx({"p50": 2.0, "p95": 2.9, "p99": 2.98})
    assert summary["medians"]["bare_pool"]["latency_ms"] == {}


def test_no_photos_is_said_in_one_line(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no photos in"):
        run_benchmark(tmp_path, bundle, tmp_path / "result.json")

    assert not (tmp_path / "result.json").exists()


def test_a_refused_request_voids_the_run(
    data: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANDOR_MAX_IMAGE_BYTES", "10")

    with pytest.raises(LoadError, match="413"):
        run_benchmark(data, bundle, tmp_path / "result.json", "--seconds=0.1")

    assert not (tmp_path / "result.json").exists()


def test_a_server_that_cannot_start_is_named_with_its_own_words(
    data: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "read_settings", lambda overrides: None)
    monkeypatch.setenv("CANDOR_MAX_BATCH", "many")

    with pytest.raises(RuntimeError, match="CANDOR_MAX_BATCH"):
        run_benchmark(data, bundle, tmp_path / "result.json")


def test_every_stretch_of_work_is_whole_passes() -> None:
    assert list(passes("abc", 0.0)) == ["a", "b", "c"]

    taken = passes("abc", 3600.0)
    assert [next(taken) for _ in range(7)] == list("abcabca")


@pytest.mark.parametrize(
    ("decoders", "lanes", "in_flight"), [(1, 1, 1), (2, 1, 7), (3, 2, 100), (0, 1, 7), (0, 2, 7), (0, 2, 100)]
)
def test_the_bare_loops_run_every_image_once(bundle: Path, decoders: int, lanes: int, in_flight: int) -> None:
    settings = read_settings({"bundle": bundle, "device": "cpu", "lanes": lanes, "max_batch": 4})
    loaded = load_bundle(bundle)
    session = open_session(loaded, settings)
    images = [jpeg(seed) for seed in range(20)]
    prepared: list[bytes] = []

    def prepare(image: bytes) -> Pixels:
        prepared.append(image)
        return preprocess(decode_image(image, ImageLimits()), loaded.preprocessing)

    assert run_pool(iter(images), prepare, session, decoders, in_flight) == 20
    assert sorted(prepared) == sorted(images)
    prepared.clear()
    assert len(run_single(iter(images), prepare, session)) == 20
    assert prepared == images


def test_several_processes_share_the_images_in_flight(bundle: Path, data: Path) -> None:
    settings = read_settings({"bundle": bundle, "device": "cpu", "workers": 2})
    images, usage = bare_processes(settings, photos.find_photos(data / photos.FOLDER), 4, 0.1)
    assert images % PHOTOS == 0
    assert images >= 2 * PHOTOS
    assert usage.seconds > 0
    assert usage.cpu_seconds[0] > 0


def test_a_process_that_fails_ends_the_others(bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpeg"
    broken.write_bytes(b"no image")
    with pytest.raises(ImageError):
        bare_processes(read_settings({"bundle": bundle, "device": "cpu", "workers": 2}), [broken], 4, 0.1)


def test_an_image_that_breaks_stops_the_bare_loop(bundle: Path) -> None:
    session = open_session(load_bundle(bundle), read_settings({"bundle": bundle, "device": "cpu"}))

    def prepare(image: bytes) -> Pixels:
        raise ValueError(image.decode())

    with pytest.raises(ValueError, match="broken"):
        run_pool(iter([b"broken"] * 5), prepare, session, 2, 3)


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The URL of a server that gives every request, once complete, this answer."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.wfile.write(answer)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def requests_to(url: str, data: Path) -> list[bytes]:
    return [raw_request(url, photo) for photo in photos.find_photos(data / photos.FOLDER)]


async def test_the_load_generator_times_each_request(data: Path) -> None:
    with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as url:
        latencies = await send_all(url, requests_to(url, data), concurrency=4, seconds=0.0)

    assert len(latencies) == PHOTOS
    assert min(latencies) > 0


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_the_load_generator_stops_at_any_other_answer(data: Path, answer: bytes) -> None:
    with answering(answer) as url, pytest.raises(LoadError, match="not an answer of 200"):
        await send_all(url, requests_to(url, data), concurrency=2, seconds=3600.0)


def burn(said: Connection, deeper: bool) -> None:
    """Use `BURN_S` of CPU, in a child as well if asked, then say so and wait to be told to end."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    child = multiprocessing.get_context("spawn").Process(target=burn, args=(there, False))
    if deeper:
        child.start()
    while time.process_time() < BURN_S:
        pass
    if deeper:
        here.recv()
    said.send("burnt")
    said.recv()
    if deeper:
        here.send("end")
        child.join()


def test_cpu_seconds_count_a_process_and_its_descendants() -> None:
    here, there = multiprocessing.get_context("spawn").Pipe()
    child = multiprocessing.get_context("spawn").Process(target=burn, args=(there, True))

    def work() -> None:
        child.start()
        here.recv()

    _, usage = metered(work, os.getpid())
    assert child.pid is not None
    alone = cpu_seconds(child.pid)
    here.send("end")
    child.join()

    resolution = 2 / os.sysconf("SC_CLK_TCK")
    assert alone >= 2 * BURN_S - 2 * resolution
    assert usage.cpu_seconds[0] >= alone - resolution
    assert usage.seconds > 0
    assert usage.other_cpu_seconds >= 0

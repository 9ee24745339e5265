import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.payloads import Target, make_requests
from benchmarks.peers.campaign import capacity_of, chosen_setup
from benchmarks.peers.catalogue import Contender, contenders
from benchmarks.peers.environments import pinned_versions
from benchmarks.peers.launch import OtherWork, agreement, embedding_of, settle
from benchmarks.peers.plan import FULL, SMOKE
from benchmarks.peers.plot import plot
from benchmarks.peers.report import summarise_model, summarise_server
from benchmarks.peers.servers.work import Config, Graph, decode
from benchmarks.peers.store import Store
from benchmarks.peers.table import as_markdown, measured_apart
from models.images import ImageLimits, decode_image
from models.preprocess import Preprocessing, preprocess
from tests.service.bundle_factory import make_bundle
from tests.service.images import jpeg

MODEL = "resnet50"


def stretch(images_per_second: float, cpu_ms: float, p50: float = 10.0) -> dict[str, Any]:
    return {
        "images_per_second": images_per_second,
        "cpu_ms_per_image": cpu_ms,
        "client_cpu_ms_per_image": 0.1,
        "other_cores": 0.0,
        "latency_ms": {"p50": p50, "p95": 2 * p50, "p99": 3 * p50},
        "peak_pss": 100 * 2**20,
        "peak_rss": 200 * 2**20,
    }


def served(images_per_second: float, cpu_ms: float, cold_start_s: float = 2.0) -> dict[str, Any]:
    return {
        "setup": "a worker per core",
        "cold_start_s": cold_start_s,
        "least_cosine": 1.0,
        "many": stretch(images_per_second, cpu_ms),
        "lone": stretch(images_per_second / 4, cpu_ms, p50=7.0),
        "open": {**stretch(0.0, 0.0), "rate": 50.0, "results": {"200": 5}},
    }


def limit(pool: float, single: float, cpu_ms: float) -> dict[str, Any]:
    return {
        "bare_pool": {**stretch(pool, cpu_ms), "latency_ms": {}},
        "bare_processes": {**stretch(pool - 1, cpu_ms), "latency_ms": {}},
        "bare_single": stretch(single, cpu_ms, p50=5.0),
        "session": {"threads": 2},
        "bundle": {"name": MODEL},
    }


def units() -> dict[str, dict[str, Any]]:
    return {
        f"trial/{MODEL}/candor/0": {**stretch(1.0, 1.0), "setup": "another", "cold_start_s": 99.0},
        f"trial/{MODEL}/candor/1": {**stretch(2.0, 1.0), "setup": "a worker per core", "cold_start_s": 5.0},
        f"round-0/{MODEL}/limit": limit(100.0, 60.0, 10.0),
        f"round-1/{MODEL}/limit": limit(50.0, 30.0, 20.0),
        f"round-0/{MODEL}/candor": served(90.0, 11.0),
        f"round-1/{MODEL}/candor": served(48.0, 23.0, cold_start_s=4.0),
        f"round-0/{MODEL}/mosec": {"error": "NotStarted: it left | with 1"},
        f"overload/{MODEL}/candor": {
            "rate": 138.0,
            "results": {"200": 60, "429": 78},
            "goodput_over_capacity": 0.93,
            "latency_ms": {"p50": 900.0, "p95": 1000.0, "p99": 1234.0},
            "peak_pss": 2**20,
            "alive": False,
        },
    }


def everyone() -> list[Contender]:
    return contenders(cores=2)


def test_ratios_are_to_the_faster_bare_loop_of_the_same_round() -> None:
    rows = summarise_model(units(), MODEL, everyone(), rounds=2)

    assert rows["limit"]["yardstick"] == "bare_pool"
    assert rows["limit"]["images_per_second"] == pytest.approx(75.0)
    candor = rows["candor"]
    assert candor["throughput_over_limit"] == pytest.approx({"median": 0.93, "min": 0.9, "max": 0.96})
    assert candor["cpu_over_limit"] == pytest.approx({"median": 1.125, "min": 1.1, "max": 1.15})
    assert candor["lone_overhead_ms"] == pytest.approx(2.0)
    assert candor["cold_start_s"] == {"median": 4.0, "min": 2.0, "max": 5.0}  # the trial's own start among them
    assert candor["overload"]["results"] == {"200": 60, "429": 78}


def test_a_failed_round_is_said_and_the_others_stand() -> None:
    limits = {0: limit(100.0, 60.0, 10.0), 1: limit(50.0, 30.0, 20.0)}
    whole = {"yardstick": "bare_pool", "lone_ms": {"p50": 5.0}}

    row = summarise_server({0: {"error": "it died"}, 1: served(40.0, 25.0)}, limits, whole)

    assert row["failed_rounds"] == ["it died"]
    assert row["throughput_over_limit"]["median"] == pytest.approx(0.8)
    assert summarise_server({0: {"error": "it died"}}, limits, whole) == {"error": "it died"}


def result_of(found: Mapping[str, Any]) -> dict[str, Any]:
    servers = {each.name: {"label": each.label, "package": each.package, "advice": each.advice} for each in everyone()}
    plan = {
        "rounds": 2,
        "concurrency": 16,
        "open_share": 0.7,
        "overload_factor": 2.0,
        "overload_s": 60.0,
        "patience_s": 10.0,
    }
    return {
        "command": "python -m benchmarks.peers",
        "created": "2026-01-01",
        "machine": {"processor": "a processor", "usable_cores": 2},
        "photos": {"count": 100},
        "plan": plan,
        "versions": {name: {server["package"]: "1.2.3"} for name, server in servers.items()},
        "servers": servers,
        "summary": {MODEL: summarise_model(found, MODEL, everyone(), rounds=2)},
        "units": found,
    }


def test_the_table_has_every_server_with_its_figures_or_its_failure(tmp_path: Path) -> None:
    size: dict[str, Any] = {"64 px": stretch(12.5, 3.25), "photo": stretch(6.5, 4.0), "24 Mpx": {"error": "408"}}
    connections = {count: stretch(7.0, 3.0) for count in ("1", "4", "16", "64")}
    grown = {**units(), "growth/candor": {"sizes": size, "concurrency": connections}}

    table = as_markdown(result_of(grown))

    assert "| candor | 69.0 | 0.93 | 17.00 | 1.12 | 10.0 / 20.0 / 30.0 | 7.0 | 10.0 / 30.0 | 100 | 2.0 (5.0) |" in table
    assert "| limit (bare_pool) | 75.0 | 1 | 15.00 | 1 |" in table
    assert "| mosec | failed: NotStarted: it left / with 1 |" in table
    assert f"| {MODEL} | candor | 138 | 200: 60, 429: 78 | 0.93 | 1234 | 1 | died |" in table
    assert "| candor | 12.5 (3.25, 30) | 6.5 (4.00, 30) | failed |" in table
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert all(line.count("|") == line.count(" | ") + 2 for line in rows if "---" not in line)


def test_the_plot_draws_failures_too(tmp_path: Path) -> None:
    plot(result_of(units()), tmp_path / "peers.png")

    with Image.open(tmp_path / "peers.png") as drawn:
        assert min(drawn.size) > 300


def test_the_setup_that_carried_most_is_kept_also_for_the_model_that_shares_it(tmp_path: Path) -> None:
    store = Store(tmp_path, {})
    fastapi = next(each for each in everyone() if each.name == "fastapi")
    store.put("trial/resnet50/fastapi/0", {"error": "it died"})
    store.put("trial/resnet50/fastapi/1", {"images_per_second": 3.0})

    assert chosen_setup(store, fastapi, "resnet50") == fastapi.setups[1]
    assert chosen_setup(store, fastapi, "vit_small_patch16_224") == fastapi.setups[1]
    assert chosen_setup(store, fastapi, "default") == fastapi.setups[0]


def test_capacity_is_the_median_of_the_rounds_that_succeeded(tmp_path: Path) -> None:
    store = Store(tmp_path, {})
    for number, speed in enumerate((10.0, 30.0, 20.0)):
        store.put(f"round-{number}/{MODEL}/mosec", served(speed, 1.0))
    store.put(f"round-3/{MODEL}/mosec", {"error": "it died"})

    assert capacity_of(store, "mosec", MODEL, rounds=4) == 20.0
    with pytest.raises(LookupError, match="no capacity"):
        capacity_of(store, "candor", MODEL, rounds=4)


def test_a_store_goes_on_with_its_own_run_and_refuses_another(tmp_path: Path) -> None:
    Store(tmp_path, {"plan": 1}).put("round-0/a/b", {"x": 1})

    assert Store(tmp_path, {"plan": 1}).get("round-0/a/b") == {"x": 1, "sources": None}
    assert Store(tmp_path, {"plan": 1}).all() == {"round-0/a/b": {"x": 1, "sources": None}}
    with pytest.raises(SystemExit, match="--fresh"):
        Store(tmp_path, {"plan": 2})
    assert Store(tmp_path, {"plan": 2}, fresh=True).get("round-0/a/b") is None


def test_embeddings_that_are_not_those_of_their_photos_are_refused() -> None:
    expected = np.eye(3, 8, dtype=np.float32)

    assert agreement(expected.astype(np.float64) * 5.0, expected) == pytest.approx(1.0)
    with pytest.raises(OtherWork, match="cosines"):
        agreement(expected[[1, 0, 2]].astype(np.float64), expected)
    with pytest.raises(OtherWork):
        agreement(expected.astype(np.float64) + 0.1, expected)
    alike = np.ones((3, 8), dtype=np.float32) / np.sqrt(8, dtype=np.float32)
    with pytest.raises(OtherWork):
        agreement(alike.astype(np.float64), alike)  # nothing tells the photos apart


def test_embeddings_are_found_in_every_form_of_answer() -> None:
    for answer in (
        {"embedding": [1.0, 2.0], "uncertainty": 3.0},
        {"results": [{"status": "ok", "embedding": [1.0, 2.0]}]},
        {"outputs": [{"name": "uncertainty", "data": [3.0]}, {"name": "embedding", "data": [1.0, 2.0]}]},
    ):
        assert embedding_of(answer) == [1.0, 2.0]


@pytest.mark.parametrize("size", [(300, 200), (200, 301), (64, 64), (47, 480)])
@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
def test_peers_see_the_pixels_that_candor_sees(size: tuple[int, int], crop_pct: float, tmp_path: Path) -> None:
    data = jpeg(1, size)
    config = Config(tmp_path, 64, crop_pct, port=0, workers=1, threads=1, max_batch=1, max_wait_ms=0)

    ours = preprocess(decode_image(data, ImageLimits()), Preprocessing(64, crop_pct))

    assert np.array_equal(decode(data, config), ours)


def test_peers_give_what_the_graph_gives(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "tiny")
    config = Config(bundle / "model.onnx", 32, 1.0, port=0, workers=1, threads=1, max_batch=4, max_wait_ms=0)
    images = [decode(jpeg(seed), config) for seed in range(3)]

    answers = Graph(config).answers(images)

    assert len(answers) == 3
    assert np.linalg.norm(answers[0]["embedding"]) == pytest.approx(1.0, abs=1e-5)
    alone = Graph(config).answers(images[1:2])[0]
    assert answers[1]["embedding"] == pytest.approx(alone["embedding"], abs=1e-6)
    assert answers[1]["uncertainty"] == pytest.approx(alone["uncertainty"])


def test_every_peer_has_pins_of_what_names_it() -> None:
    for peer in everyone()[1:]:
        assert pinned_versions(peer.name)[peer.package]
        assert pinned_versions(peer.name)["onnxruntime"] == pinned_versions("fastapi")["onnxruntime"]


def test_requests_carry_the_photos_in_each_form(tmp_path: Path) -> None:
    photos = []
    for seed in range(5):
        photos.append(tmp_path / f"{seed}.jpg")
        photos[-1].write_bytes(jpeg(seed))
    data = [photo.read_bytes() for photo in photos]

    raw = make_requests(Target("http://127.0.0.1:1"), photos)
    pairs = make_requests(Target("http://127.0.0.1:1", form="multipart", images_per_request=2), photos)
    tensors = make_requests(Target("http://127.0.0.1:1", "/infer", "kserve"), photos[:1])

    assert [request.split(b"\r\n\r\n", 1)[1] for request in raw] == data
    assert [[each in request for each in data] for request in pairs] == [
        [True, True, False, False, False],
        [False, False, True, True, False],
    ]
    head, body = tensors[0].split(b"\r\n\r\n", 1)
    assert f"Content-Length: {len(body)}".encode() in head
    assert body.endswith(len(data[0]).to_bytes(4, "little") + data[0])


def test_smoke_takes_no_longer_than_the_full_run_in_any_way() -> None:
    assert all(value <= getattr(FULL, name) for name, value in vars(SMOKE).items())


def test_some_are_measured_again_and_the_others_kept_and_told_apart(tmp_path: Path) -> None:
    first = Store(tmp_path, {"sources": "old", "cores": 2})
    for name in ("candor", "mosec", "limit"):
        first.put(f"round-0/{MODEL}/{name}", {"value": 1})
    first.put(f"trial/{MODEL}/candor/0", {"value": 1})
    with pytest.raises(SystemExit):
        Store(tmp_path, {"sources": "new", "cores": 2})
    with pytest.raises(SystemExit):
        Store(tmp_path, {"sources": "new", "cores": 4}, again=["candor"])

    assert len(first.all()) == 4
    second = Store(tmp_path, {"sources": "new", "cores": 2}, again=["candor", "limit"])
    assert set(second.all()) == {f"round-0/{MODEL}/mosec"}
    second.put(f"round-0/{MODEL}/candor", {"value": 2})
    third = Store(tmp_path, {"sources": "new", "cores": 2})
    assert {key: unit["sources"] for key, unit in third.all().items()} == {
        f"round-0/{MODEL}/candor": "new",
        f"round-0/{MODEL}/mosec": "old",
    }
    said = measured_apart({"units": third.all(), "servers": {"candor": {"label": "c"}, "mosec": {"label": "Mosec"}}})
    assert "not again after those: Mosec." in said
    assert measured_apart({"units": {}, "servers": {}}) == ""


def test_a_server_is_measured_only_once_it_rests() -> None:
    busy_s = 1.2
    code = f"import time; ends = time.time() + {busy_s}\nwhile time.time() < ends: pass\ntime.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            started = time.monotonic()
            settle(process.pid)
            waited = time.monotonic() - started
            settle(process.pid, patience_s=0.0)
        finally:
            process.kill()
    assert busy_s < waited < 20

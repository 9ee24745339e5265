"""What each check makes of a machine that is not the one the tests run on."""

import platform
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from service.checks import cuda, device, packages
from service.checks.cores import demands, restraints
from service.checks.disk import room
from service.checks.findings import Finding, Kind, attempted
from service.checks.memory import compare
from service.checks.network import open_files, port
from service.checks.report import as_text
from service.checks.settings import without_effect
from service.checks.situation import Situation
from service.cores import cpu_quota
from service.memory import granted_bytes, peak_bytes
from service.settings import MIB, Settings

GIB = 1024 * MIB


def kinds(findings: Any) -> list[Kind]:
    return [finding.kind for finding in findings]


def quota(folder: Path, text: str) -> float | None:
    (folder / "cpu.max").write_text(text)
    return cpu_quota(folder, folder / "nothing")


@pytest.mark.parametrize(
    ("text", "environment", "found"),
    [
        ("max 100000\n", {}, []),
        ("200000 100000\n", {"OPENBLAS_NUM_THREADS": "2"}, []),
        ("200000 100000\n", {}, [Kind.LIBRARY_THREADS]),
        ("200000 100000\n", {"OMP_NUM_THREADS": "64"}, [Kind.LIBRARY_THREADS]),
        ("200000 100000\n", {"OMP_NUM_THREADS": "64", "OPENBLAS_NUM_THREADS": "1"}, []),
        ("150000 100000\n", {"OMP_NUM_THREADS": "2"}, [Kind.QUOTA_IN_PARTS]),
        ("1600000 100000\n", {}, []),
    ],
)
def test_a_quota_below_the_affinity_restrains_libraries(
    tmp_path: Path, text: str, environment: dict[str, str], found: list[Kind]
) -> None:
    assert kinds(restraints(8, quota(tmp_path, text), environment)) == found


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, []),
        ({"workers": 4}, []),
        ({"workers": 5}, [Kind.WORKERS_ABOVE_CORES]),
        ({"workers": 2, "threads": 2}, []),
        ({"workers": 2, "threads": 4}, [Kind.THREADS_ABOVE_CORES]),
        ({"threads": 2, "lanes": 4}, [Kind.THREADS_ABOVE_CORES]),
        ({"lanes": 4}, []),
    ],
)
def test_settings_may_ask_for_more_than_four_cores(settings: dict[str, Any], found: list[Kind]) -> None:
    assert kinds(demands(Settings(**settings), 4)) == found


def test_memory_is_what_the_tightest_group_grants(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "memory.max").write_text("536870912\n")
    (tmp_path / "self").write_text("0::/inner\n")
    old = tmp_path / "old"
    (old / "memory").mkdir(parents=True)
    (old / "memory" / "memory.limit_in_bytes").write_text("268435456\n")
    (old / "self").write_text("5:memory:/\n")

    assert granted_bytes(tmp_path, tmp_path / "self") == 512 * MIB
    assert granted_bytes(old, old / "self") == 256 * MIB
    assert granted_bytes(tmp_path / "nowhere", tmp_path / "nothing") > 512 * MIB
    assert peak_bytes() > 10 * MIB


@pytest.mark.parametrize(
    ("workers", "granted", "kind"),
    [
        (1, GIB, Kind.MEMORY_ENOUGH),
        (2, GIB, Kind.MEMORY_ENOUGH),
        (3, GIB, Kind.MEMORY_TIGHT),
        (4, GIB, Kind.MEMORY_SHORT),
    ],
)
def test_workers_are_compared_with_the_memory_granted(workers: int, granted: int, kind: Kind) -> None:
    finding = compare(workers, 300 * MIB, granted)

    assert finding.kind is kind
    assert f"{workers * 300} MiB" in finding.found
    assert "1024 MiB" in finding.found


@pytest.mark.parametrize(
    ("free", "kind"), [(2 * GIB, None), (GIB - 1, Kind.DISK_LOW), (64 * MIB, Kind.DISK_LOW), (MIB, Kind.DISK_FULL)]
)
def test_little_room_on_a_disk_is_found(free: int, kind: Kind | None) -> None:
    finding = room(Path("/data"), free)

    assert (finding.kind if finding else None) is kind


class Stranger(BaseHTTPRequestHandler):
    """Answers everything as a health check of somebody else's might."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "ready"}')

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_another_service_that_is_ready_is_not_taken_for_a_candor() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        answering = threading.Thread(target=server.serve_forever)
        answering.start()
        finding = port(Settings(port=server.server_address[1]))
        server.shutdown()
        answering.join()

    assert finding.kind is Kind.PORT_TAKEN


def test_open_files_are_counted_for_a_full_queue() -> None:
    assert kinds(open_files(256, 256)) == [Kind.FEW_OPEN_FILES]
    assert kinds(open_files(256, 1024)) == []
    assert kinds(open_files(10_000, -1)) == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, []),
        ({"gallery": "g", "gallery_pool": 3}, ["CANDOR_GALLERY_POOL"]),
        ({"gallery": "postgresql://db/x", "gallery_pool": 3, "gallery_replicas": 2}, ["CANDOR_GALLERY_REPLICAS"]),
        ({"gallery": "milvus://db/x", "gallery_replicas": 2, "gallery_table": "t"}, ["CANDOR_GALLERY_TABLE"]),
        ({"gallery": "s3://bucket/x", "gallery_storage": {"region": "eu"}}, []),
        ({"cuda_graphs": True, "device": "cpu"}, ["CANDOR_CUDA_GRAPHS"]),
        ({"max_wait_ms": 900, "request_timeout_s": 0.5}, ["CANDOR_MAX_WAIT_MS"]),
    ],
)
def test_settings_that_mean_nothing_together_are_named(settings: dict[str, Any], named: list[str]) -> None:
    assert [text.split()[0] for text in without_effect(Settings(**settings))] == named


def test_what_is_installed_is_compared_with_what_is_asked_for() -> None:
    numpy = version("numpy")

    assert packages.unmet("numpy>=2.0") is None
    assert packages.unmet("no-such-package>=1; extra == 'gpu'") is None
    outside, missing = packages.unmet("numpy<2.0"), packages.unmet("no-such-package>=1")
    assert outside is not None
    assert missing is not None
    assert (outside.kind, missing.kind) == (Kind.PACKAGE_OUTSIDE, Kind.PACKAGE_MISSING)
    assert numpy in outside.found
    assert "<2.0" in outside.found
    assert "no-such-package" in missing.found


def test_requirements_of_other_systems_are_none_of_ours() -> None:
    assert packages.unmet("no-such-package>=1; sys_platform == 'nowhere'") is None


@pytest.mark.parametrize(
    ("installed", "found"),
    [
        ([], [Kind.RUNTIME_MISSING]),
        (["onnxruntime"], []),
        (["onnxruntime", "numpy"], [Kind.RUNTIMES_MIXED]),
    ],
)
def test_one_runtime_must_be_installed_and_no_more(
    monkeypatch: pytest.MonkeyPatch, installed: list[str], found: list[Kind]
) -> None:
    monkeypatch.setattr(packages, "packages_distributions", lambda: {"onnxruntime": installed})

    assert kinds(packages.runtime_findings()) == found


def test_a_python_outside_the_range_is_a_problem() -> None:
    assert kinds(packages.python_findings("3.9.1", ">=3.11")) == [Kind.PYTHON_UNSUPPORTED]
    assert kinds(packages.python_findings(platform.python_version(), ">=3.11")) == []


def test_libraries_that_cannot_be_loaded_are_named() -> None:
    missing = list(cuda.unloadable(["libc.so.6", "libcublasLt.so.99"]))

    assert len(missing) == 1
    assert missing[0].startswith("libcublasLt.so.99 cannot be loaded")


def test_each_cuda_has_libraries_of_its_own_numbers() -> None:
    assert {"libcublas.so.12", "libcufft.so.11", "libcudnn.so.9"} <= set(cuda.libraries(12))
    assert {"libcublas.so.13", "libcufft.so.12", "libcudnn.so.9"} <= set(cuda.libraries(13))


class Driver:
    """A driver that knows CUDA up to a version and shows so many GPUs."""

    def __init__(self, version: int, count: int) -> None:
        self._version = version
        self._count = count

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self._version
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = self._count
        return 0

    def cuDeviceGetName(self, name: Any, length: int, number: int) -> int:
        name.value = f"GPU {number}".encode()
        return 0


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (Driver(11080, 1), ["CUDA 11.8", "built for CUDA 12.8", "update the driver"]),
        (Driver(12080, 0), ["shows no GPU", "CUDA_VISIBLE_DEVICES is '7'"]),
        (Driver(12080, 1), []),
    ],
)
def test_a_driver_that_is_too_old_or_shows_no_gpu_is_told(
    monkeypatch: pytest.MonkeyPatch, driver: Driver, words: list[str]
) -> None:
    monkeypatch.setattr(cuda, "nvidia_driver", lambda: driver)
    monkeypatch.setattr(ort, "cuda_version", "12.8")

    told = list(cuda.driver_shortcomings({"CUDA_VISIBLE_DEVICES": "7"}))

    assert bool(told) == bool(words)
    assert all(word in " ".join(told) for word in words)


def test_a_container_that_was_started_without_its_gpu_is_told(tmp_path: Path) -> None:
    wish = {"NVIDIA_VISIBLE_DEVICES": "all"}
    assert "--gpus all" in " ".join(cuda.container_hints(wish, tmp_path))
    (tmp_path / "nvidia0").touch()
    assert list(cuda.container_hints(wish, tmp_path)) == []
    assert cuda.gpu_is_there(tmp_path)


def test_a_gpu_that_is_left_unused_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "gpu_is_there", lambda: True)
    monkeypatch.setattr(device, "shortcomings", lambda device, environment: ["no CUDAExecutionProvider"])

    found = list(device.check(Situation(Settings(), {})))

    assert kinds(found) == [Kind.DEVICE_CHOSEN, Kind.GPU_UNUSED]
    assert "CUDAExecutionProvider" in found[1].found


def test_what_a_check_found_before_it_failed_is_kept() -> None:
    def check() -> Any:
        yield Finding(Kind.PORT_FREE, "first")
        raise OSError("broken")

    first, second = attempted("network", check)

    assert first.found == "first"
    assert second == Finding(Kind.CHECK_FAILED, "network: OSError: broken")


def test_long_lines_are_wrapped_in_their_column() -> None:
    finding = Finding(Kind.PORT_TAKEN, "word " * 40)

    lines = as_text([finding], width=80, colour=True).splitlines()

    assert all(len(line.replace("\033[31m", "").replace("\033[0m", "")) <= 80 for line in lines)
    assert "\033[31mproblem" in lines[0]
    assert all(line.startswith(" " * 19) for line in lines[1:-2])

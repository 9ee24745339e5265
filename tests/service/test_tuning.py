"""What is measured, what is chosen from it, and how a choice is kept."""

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.bundle import Bundle
from service import session as session_module
from service.session import open_session
from service.settings import Device, Settings
from service.tuning import (
    HANDED_OVER_S,
    Layout,
    Point,
    Tuning,
    cache_folder,
    carried,
    choose,
    keep,
    key_of,
    layouts,
    measure,
    recall,
)


def points(threads: int, lanes: int, cpu_ms: float = 0.0, **images_per_s: float) -> list[Point]:
    """Points of one layout, by `bN`, the size of the batch."""
    return [Point(threads, lanes, int(batch[1:]), rate, cpu_ms) for batch, rate in images_per_s.items()]


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (1, [(1, 1)]),
        (2, [(2, 1), (1, 1), (1, 2)]),
        (6, [(6, 1), (3, 1), (3, 2), (1, 3), (1, 6)]),
        (8, [(8, 1), (4, 1), (4, 2), (2, 2), (2, 4), (1, 4), (1, 8)]),
    ],
)
def test_layouts_use_all_cores_or_half_and_never_more(cores: int, expected: list[tuple[int, int]]) -> None:
    assert layouts(cores) == [Layout(*each) for each in expected]


def test_the_smallest_batch_that_does_nearly_as_well_is_taken() -> None:
    assert choose(points(2, 1, b1=100, b2=180, b4=198, b8=200)).max_batch == 4
    assert choose(points(2, 1, b1=300, b2=194)).max_batch == 1


def test_lanes_must_pay_for_the_wait_of_a_lone_request() -> None:
    alone = points(2, 1, b1=100, b4=150)

    assert choose([*alone, *points(1, 2, b1=155)]).lanes == 1
    found = choose([*alone, *points(1, 2, b1=170, b4=120)])
    assert (found.threads, found.lanes, found.max_batch) == (1, 2, 1)
    assert len(found.points) == 4


def test_what_is_carried_is_what_the_cores_can_both_decode_and_run() -> None:
    light = points(1, 1, cpu_ms=0.5, b1=2000)[0]
    heavy = points(1, 1, cpu_ms=40.0, b1=25)[0]

    assert carried(light, cores=2, decode_s=0.002) == pytest.approx(2 / (0.0025 + HANDED_OVER_S))
    assert carried(heavy, cores=2, decode_s=0.002) == 25


def test_a_thread_is_left_to_decoding_where_decoding_is_the_most() -> None:
    """Two threads run a light graph sooner, at twice the cost; on a heavy one, a core left idle is lost."""
    light = [*points(2, 1, cpu_ms=0.5, b1=2500), *points(1, 1, cpu_ms=0.3, b1=2000), *points(1, 2, cpu_ms=0.3, b1=3800)]
    heavy = [*points(2, 1, cpu_ms=42, b1=46), *points(1, 1, cpu_ms=40, b1=25), *points(1, 2, cpu_ms=41, b1=48)]

    assert (choose(light, 2, 0.002).threads, choose(light, 2, 0.002).lanes) == (1, 1)
    assert (choose(heavy, 2, 0.002).threads, choose(heavy, 2, 0.002).lanes) == (2, 1)
    assert choose(light).lanes == 2  # the cores have no part in it


class Graph:
    """A graph whose runs take these seconds by the size of the batch, on a clock of its own."""

    def __init__(self, seconds_of: Callable[[int], float]) -> None:
        self.now = 0.0
        self.images = 0
        self.batches: list[int] = []
        self._seconds_of = seconds_of

    def open(self, layout: Layout) -> Callable[[int], object]:
        return self._run

    def clock(self) -> float:
        return self.now

    def cpu_clock(self) -> float:
        """Seven milliseconds an image."""
        return 0.007 * self.images

    def _run(self, batch: int) -> None:
        self.batches.append(batch)
        self.images += batch
        self.now += self._seconds_of(batch)


def test_larger_batches_are_tried_until_they_no_longer_pay() -> None:
    graph = Graph(lambda batch: 0.01 if batch <= 2 else 0.02 * batch)

    found = measure(
        graph.open, [Layout(2, 1)], (1, 2, 4, 8, 16), point_s=0.1, clock=graph.clock, cpu_clock=graph.cpu_clock
    )

    assert found == points(2, 1, cpu_ms=7.0, b1=100, b2=200, b4=50)
    assert set(graph.batches) == {1, 2, 4}


def test_no_larger_batch_is_tried_than_one_that_takes_long() -> None:
    graph = Graph(lambda batch: 0.3 * batch)

    found = measure(graph.open, [Layout(1, 1)], (1, 2, 4), point_s=0.1, clock=graph.clock)

    assert [point.batch for point in found] == [1, 2]


def test_what_runs_beside_is_measured_with_it_and_a_points_rate_is_of_one() -> None:
    together, most, lock = 0, 0, threading.Lock()

    def open_run(layout: Layout) -> Any:
        def run(count: int) -> None:
            nonlocal together, most
            with lock:
                together += 1
                most = max(most, together)
            time.sleep(0.01)
            with lock:
                together -= 1

        return run

    alone, beside = (measure(open_run, [Layout(1, 2)], [1], count, point_s=0.1)[0] for count in (1, 3))
    assert most == 6
    assert (beside.threads, beside.lanes) == (1, 2)
    assert beside.images_per_s < 2 * alone.images_per_s  # not of all three together


def test_what_was_measured_with_decoding_carries_what_it_ran() -> None:
    alone = Point(1, 2, 1, 500.0, 4.0)
    together = Point(1, 2, 1, 300.0, 6.6, decoding=True)
    assert carried(alone, 2, 0.004) == pytest.approx(2 / (0.008 + HANDED_OVER_S))
    assert carried(together, 2, 0.004) == 300.0
    heavy_lone = [Point(2, 1, 1, 50.0, 40.0), Point(1, 2, 1, 50.0, 40.0, decoding=True)]
    assert choose(heavy_lone, 2, 0.001).threads == 2  # 21 ms for a lone image, against 40


def test_what_images_cost_from_thread_to_thread_is_not_forgotten() -> None:
    """As measured: alike without it, and a third apart in the server."""
    apart, together = Point(1, 1, 1, 3100.0, 0.32), Point(1, 2, 1, 1100.0, 1.8, decoding=True)
    assert choose([apart, together], 2, 0.0015).lanes == 2


def test_lanes_that_decode_are_measured_decoding(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(session_module, "cores_per_worker", lambda workers: 2)
    monkeypatch.setattr("service.decoding.cores_per_worker", lambda workers: 2)
    measured = {
        decoders: open_session(
            bundle, Settings(device=Device.CPU, autotune=True, max_batch=1, decode_workers=decoders)
        ).tuning.points
        for decoders in (0, 2)
    }
    assert {(each.threads, each.lanes) for each in measured[0] if each.decoding} == {(1, 2)}
    assert not any(each.decoding for each in measured[2])


def test_lanes_run_side_by_side_on_the_graph_of_their_threads() -> None:
    opened: list[int] = []
    meeting = threading.Barrier(3)

    def open_run(layout: Layout) -> Callable[[int], object]:
        opened.append(layout.threads)
        return lambda batch: meeting.wait(10) if threading.current_thread() is not threading.main_thread() else None

    (point,) = measure(open_run, [Layout(4, 3)], (1,), point_s=0.0)

    assert opened == [4]
    assert (point.threads, point.lanes, point.batch) == (4, 3, 1)


def test_a_choice_is_kept_and_recalled(tmp_path: Path) -> None:
    chosen = Tuning(2, 1, 4, tuple(points(2, 1, b1=100, b4=150)))

    keep("name", chosen, tmp_path / "new")

    assert recall("name", tmp_path / "new") == chosen
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["name.json"]


def test_what_cannot_be_read_or_kept_is_measured_again(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text('{"threads": 1}')
    (tmp_path / "file").touch()

    keep("name", Tuning(1, 1, 1), tmp_path / "file")

    assert recall("broken", tmp_path) is None
    assert recall("absent", tmp_path) is None


def test_choices_are_kept_in_the_users_cache_or_where_anyone_may_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/candor/tuning")

    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user id without an entry
    assert cache_folder() == Path(tempfile.gettempdir()) / "candor" / "tuning"


def test_other_graphs_devices_and_versions_have_other_keys() -> None:
    assert len({key_of("a", Device.CPU), key_of("b", Device.CPU), key_of("a", Device.CUDA), key_of("a")}) == 4


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(session_module, "cores_per_worker", lambda workers: 2)
    return tmp_path / "candor" / "tuning"


def test_a_session_is_tuned_once_and_opened_as_chosen(
    bundle: Bundle, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(device=Device.CPU, autotune=True)
    first = open_session(bundle, settings)
    monkeypatch.setattr(session_module, "measure", lambda *_: pytest.fail("measured again"))

    second = open_session(bundle, settings)

    assert len(list(cache.iterdir())) == 1
    assert {(point.threads, point.lanes) for point in first.tuning.points} == {(2, 1), (1, 1), (1, 2)}
    assert second.tuning == first.tuning
    assert second.buckets[-1] == first.tuning.max_batch


def test_settings_come_before_what_is_measured(bundle: Bundle, cache: Path) -> None:
    found = open_session(bundle, Settings(device=Device.CPU, autotune=True, threads=1)).tuning
    assert {(point.threads, point.lanes) for point in found.points} == {(1, 1)}

    found = open_session(bundle, Settings(device=Device.CPU, autotune=True, max_batch=3)).tuning
    assert {point.batch for point in found.points} == {3}
    assert found.max_batch == 3


def test_lanes_that_are_set_share_the_cores(bundle: Bundle, cache: Path) -> None:
    assert open_session(bundle, Settings(device=Device.CPU, lanes=2, max_batch=4)).tuning == Tuning(1, 2, 4)


@pytest.mark.parametrize("given", [{"autotune": False}, {"autotune": True, "lanes": 1, "max_batch": 4}])
def test_nothing_is_measured_where_nothing_is_open(
    bundle: Bundle, cache: Path, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "measure", lambda *_: pytest.fail("measured"))

    assert open_session(bundle, Settings(device=Device.CPU, **given)).tuning == Tuning(2, 1, 4)

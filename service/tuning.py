"""Which threads, lanes and batch size carry the most images: measured in the first seconds, kept per graph and machine.

A lane is an inference that runs beside others. On a CPU, one inference on all cores answers a lone request soonest, one
on each core wastes least, and large batches fall out of the cache. What inference leaves of the cores decodes images: a
layout carries what its lanes can run, or what the cores can both decode and run, whichever is less. All of it depends
on the graph, so it is measured, by running the graph itself.
"""

import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

POINT_S: Final = 0.15  # seconds that each point is measured for, at least
SLOW_RUN_S: Final = 0.5  # no larger batch is tried once one takes this long
WORSE: Final = 0.75  # nor once throughput has fallen to this share of the layout's best
WITHIN: Final = 0.97  # the smallest batch within this share of the best is taken
NEARLY: Final = 0.95  # of layouts that carry this share of the best, a lone request decides
HANDED_OVER_S: Final = 0.0009  # CPU-seconds that an image costs more where one thread decodes it and another infers
CPU_INFO: Final = Path("/proc/cpuinfo")

Run = Callable[[int], object]
"""Runs the graph on a batch of so many images."""


@dataclass(frozen=True)
class Layout:
    """`threads` of one inference, and how many `lanes` of them run at a time."""

    threads: int
    lanes: int


@dataclass(frozen=True)
class Point:
    """What was measured of a layout with batches of one size, and CPU time per image.

    Of the graph alone, or of decoding and the graph in turn, where lanes decode: what each leaves in the caches costs
    the other, the more so the smaller the batches.
    """

    threads: int
    lanes: int
    batch: int
    images_per_s: float
    cpu_ms: float
    decoding: bool = False


@dataclass(frozen=True)
class Tuning:
    """The choice; `points` is what it was made from, empty where nothing was measured."""

    threads: int
    lanes: int
    max_batch: int
    points: tuple[Point, ...] = ()


def layouts(cores: int) -> list[Layout]:
    """All the cores or half of them, for one inference or shared among several, by halving.

    >>> layouts(4)  # doctest: +NORMALIZE_WHITESPACE
    [Layout(threads=4, lanes=1), Layout(threads=2, lanes=1), Layout(threads=2, lanes=2), Layout(threads=1, lanes=2),
     Layout(threads=1, lanes=4)]
    """
    threads = [cores]
    while threads[-1] > 1:
        threads.append(threads[-1] // 2)
    shares = [max(1, cores // 2), cores]
    return list(dict.fromkeys(Layout(each, share // each) for each in threads for share in shares if share >= each))


def measure(
    open_run: Callable[[Layout], Run],
    candidates: Iterable[Layout],
    batches: Sequence[int],
    beside: int = 1,
    point_s: float = POINT_S,
    clock: Callable[[], float] = time.perf_counter,
    cpu_clock: Callable[[], float] = time.process_time,
    decoding: Callable[[Layout], bool] = lambda layout: False,
) -> list[Point]:
    """Run every layout with ascending batches, until they no longer pay.

    `open_run` makes the graph ready in that layout, to bear `beside` times as many calls at a time as there are lanes:
    processes that will run side by side slow each other down, by the caches they share, and are measured so. The rate
    of a point is that of one of them. `decoding` says in which layouts the run also decodes.
    """
    points = []
    for layout in candidates:
        run, best = open_run(layout), 0.0
        for batch in batches:
            run(batch)  # plans are made and memory is taken
            cpu_before = cpu_clock()
            lanes = layout.lanes * beside
            images, seconds = _run_lanes(run, lanes, batch, point_s, clock)
            images_per_s, run_s = images / seconds / beside, seconds * lanes * batch / images
            cpu_ms = 1000 * (cpu_clock() - cpu_before) / images
            rates = (round(images_per_s, 1), round(cpu_ms, 3))
            points.append(Point(layout.threads, layout.lanes, batch, *rates, decoding(layout)))
            best = max(best, images_per_s)
            if run_s > SLOW_RUN_S or images_per_s < WORSE * best:
                break
    return points


def carried(point: Point, cores: int, decode_s: float) -> float:
    """Images a second that the graph runs and that the cores can decode beside it, each taking `decode_s` of one.

    On two cores of an AMD EPYC the default bundle took 3.7 CPU ms an image where decoders handed images to a lane, and
    2.8 where lanes decoded: more than decoding and inference took by themselves.
    """
    if point.decoding:
        return point.images_per_s
    return min(point.images_per_s, cores / (decode_s + HANDED_OVER_S + point.cpu_ms / 1000))


def choose(points: Sequence[Point], cores: int | None = None, decode_s: float = 0.0) -> Tuning:
    """Of the layouts that carry nearly the most, the one that runs a lone image soonest; its smallest batch that does.

    Args:
        points: what was measured.
        cores: of this process; None where they have no part in inference.
        decode_s: CPU-seconds that an image takes to decode.
    """

    def score(point: Point) -> float:
        return point.images_per_s if cores is None else carried(point, cores, decode_s)

    if not points:
        raise ValueError("there is nothing to choose from")
    by_layout: dict[Layout, list[Point]] = {}
    for point in points:
        by_layout.setdefault(Layout(point.threads, point.lanes), []).append(point)
    best = {layout: max(map(score, found)) for layout, found in by_layout.items()}
    nearly = [layout for layout in best if best[layout] >= NEARLY * max(best.values())]
    chosen = min(nearly, key=lambda layout: _lone_s(by_layout[layout][0], decode_s))
    batch = next(point.batch for point in by_layout[chosen] if score(point) >= WITHIN * best[chosen])
    return Tuning(chosen.threads, chosen.lanes, batch, tuple(points))


def _lone_s(point: Point, decode_s: float) -> float:
    """Seconds of a lone image, decoding included, by what batches of one take."""
    return point.lanes * point.batch / point.images_per_s + (0.0 if point.decoding else decode_s)


def key_of(*parts: object) -> str:
    """A name for what was measured and where: the parts, the processor and the machine's kind."""
    text = json.dumps([*map(str, parts), _processor(), platform.machine()])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def cache_folder() -> Path:
    """Where choices are kept: `candor/tuning` in the user's cache, or among temporary files for a user without one."""
    home = os.path.expanduser("~")
    cache = Path(home) / ".cache" if Path(home).is_absolute() else Path(tempfile.gettempdir())
    return Path(os.environ.get("XDG_CACHE_HOME") or cache) / "candor" / "tuning"


def recall(key: str, folder: Path) -> Tuning | None:
    """A kept choice; None where there is none that can be read."""
    try:
        found = json.loads((folder / f"{key}.json").read_text())
        return Tuning(**{**found, "points": tuple(Point(**point) for point in found["points"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def keep(key: str, tuning: Tuning, folder: Path) -> None:
    """Keep a choice for the next start; a folder that cannot be written only costs measuring again."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{key}.{os.getpid()}.partial"
        partial.write_text(json.dumps(asdict(tuning), indent=1))
        partial.replace(folder / f"{key}.json")
    except OSError:
        return


def _run_lanes(run: Run, lanes: int, batch: int, point_s: float, clock: Callable[[], float]) -> tuple[int, float]:
    """Images run on all lanes, and seconds."""
    started = clock()

    def lane(_: int) -> int:
        count = 0
        while count < 2 or clock() - started < point_s:
            run(batch)
            count += 1
        return count

    with ThreadPoolExecutor(lanes) as pool:
        counts = list(pool.map(lane, range(lanes)))
    return sum(counts) * batch, clock() - started


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")

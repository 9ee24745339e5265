"""Which threads, lanes and batch size carry the most images: measured in the first seconds, kept per graph and machine.

A lane is an inference that runs beside others. On a CPU, one inference on all cores answers a lone request soonest, one
on each core wastes least; large batches fall out of the cache. Which matters more depends on the graph, so it is
measured, by running the graph itself.
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
LANES_GAIN: Final = 1.05  # more lanes must carry this much more: a lone request waits longer in each of them
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
    """What was measured of a layout with batches of one size."""

    threads: int
    lanes: int
    batch: int
    images_per_s: float


@dataclass(frozen=True)
class Tuning:
    """The choice; `points` is what it was made from, empty where nothing was measured."""

    threads: int
    lanes: int
    max_batch: int
    points: tuple[Point, ...] = ()


def layouts(cores: int) -> list[Layout]:
    """All cores for one inference, a core for each of several, and what lies between, by halving.

    >>> layouts(8)
    [Layout(threads=8, lanes=1), Layout(threads=4, lanes=2), Layout(threads=2, lanes=4), Layout(threads=1, lanes=8)]
    """
    threads = [cores]
    while threads[-1] > 1:
        threads.append(threads[-1] // 2)
    return [Layout(each, cores // each) for each in threads]


def measure(
    open_run: Callable[[Layout], Run],
    candidates: Iterable[Layout],
    batches: Sequence[int],
    point_s: float = POINT_S,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Point]:
    """Run every layout with ascending batches, until they no longer pay.

    `open_run` makes the graph ready in that layout, to bear as many calls at a time as there are lanes.
    """
    points = []
    for layout in candidates:
        run, best = open_run(layout), 0.0
        for batch in batches:
            run(batch)  # plans are made and memory is taken
            images_per_s, run_s = _throughput(run, layout.lanes, batch, point_s, clock)
            points.append(Point(layout.threads, layout.lanes, batch, round(images_per_s, 1)))
            best = max(best, images_per_s)
            if run_s > SLOW_RUN_S or images_per_s < WORSE * best:
                break
    return points


def choose(points: Sequence[Point]) -> Tuning:
    """The layout that carries most, with the fewest lanes that do nearly, and its smallest batch that does nearly."""
    by_layout: dict[Layout, list[Point]] = {}
    for point in points:
        by_layout.setdefault(Layout(point.threads, point.lanes), []).append(point)
    best = {layout: max(point.images_per_s for point in found) for layout, found in by_layout.items()}
    chosen: Layout | None = None
    for layout in sorted(best, key=lambda each: each.lanes):
        if chosen is None or best[layout] > LANES_GAIN * best[chosen]:
            chosen = layout
    if chosen is None:
        raise ValueError("there is nothing to choose from")
    batch = next(point.batch for point in by_layout[chosen] if point.images_per_s >= WITHIN * best[chosen])
    return Tuning(chosen.threads, chosen.lanes, batch, tuple(points))


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


def _throughput(run: Run, lanes: int, batch: int, point_s: float, clock: Callable[[], float]) -> tuple[float, float]:
    """Images a second over all lanes, and seconds of one run."""
    started = clock()

    def lane(_: int) -> int:
        count = 0
        while count < 2 or clock() - started < point_s:
            run(batch)
            count += 1
        return count

    with ThreadPoolExecutor(lanes) as pool:
        counts = list(pool.map(lane, range(lanes)))
    seconds = clock() - started
    return sum(counts) * batch / seconds, seconds * lanes / sum(counts)


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = CPU_INFO.read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")

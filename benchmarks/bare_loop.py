"""Decode, preprocess and session with a server's settings and no server around them: the least an answer can cost."""

import itertools
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cpu_time import Usage, metered
from benchmarks.load import passes
from benchmarks.worker import worker
from models.bundle import Bundle, load_bundle
from service.decoding import Prepare, decode_workers, preparation
from service.session import OnnxSession, open_session
from service.settings import Settings

Pixels = NDArray[np.uint8]


def bare_pool(
    settings: Settings,
    photos: Sequence[Path],
    in_flight: int,
    seconds: float,
    ready: Callable[[], None] = lambda: None,
) -> tuple[int, Usage]:
    """Decoders, lanes and batches as one worker of the server has them: how many images, and this process's CPU.

    `ready` is called once the session is open and warm, before anything is measured.
    """
    bundle, session, data = _open(settings, photos)
    prepare = preparation(bundle.preprocessing, settings)

    def loop(seconds: float) -> int:
        decoders = decode_workers(settings, session.device, session.tuning)
        return run_pool(passes(data, seconds), prepare, session, decoders, in_flight)

    loop(0.0)
    ready()
    return metered(lambda: loop(seconds), os.getpid())


def bare_processes(settings: Settings, photos: Sequence[Path], in_flight: int, seconds: float) -> tuple[int, Usage]:
    """`bare_pool` in as many processes at once as the server has workers, which share the images in flight."""
    count, share = settings.workers, max(1, in_flight // settings.workers)
    with TemporaryDirectory(prefix="candor-bench-") as folder, ThreadPoolExecutor(count) as threads:
        ready = partial(_meet, Path(folder), count)
        with ExitStack() as stack:
            processes = [stack.enter_context(worker()) for _ in range(count)]
            runs = [threads.submit(each.call, bare_pool, settings, photos, share, seconds, ready) for each in processes]
            done = [run.result() for run in wait(runs, return_when=FIRST_EXCEPTION).done]
    images = sum(images for images, _ in done)
    cpu_s = sum(usage.cpu_seconds[0] for _, usage in done)
    of_others_s = min(usage.other_cpu_seconds + usage.cpu_seconds[0] for _, usage in done) - cpu_s
    taken_s = images / sum(images / usage.seconds for images, usage in done)
    return images, Usage(taken_s, (cpu_s,), max(0.0, of_others_s))


def _meet(folder: Path, count: int) -> None:
    """Return once so many processes have called this."""
    (folder / str(os.getpid())).touch()
    while len(os.listdir(folder)) < count:
        time.sleep(0.001)


def bare_single(settings: Settings, photos: Sequence[Path], seconds: float) -> tuple[list[float], Usage]:
    """One thread, one image at a time: the seconds that each took, and this process's CPU."""
    bundle, session, data = _open(settings, photos)
    prepare = preparation(bundle.preprocessing, settings)
    run_single(passes(data, 0.0), prepare, session)
    return metered(lambda: run_single(passes(data, seconds), prepare, session), os.getpid())


def _open(settings: Settings, photos: Sequence[Path]) -> tuple[Bundle, OnnxSession, list[bytes]]:
    bundle = load_bundle(Path(settings.bundle))
    return bundle, open_session(bundle, settings), [photo.read_bytes() for photo in photos]


def run_single(images: Iterable[bytes], prepare: Prepare, session: OnnxSession) -> list[float]:
    """One image at a time; the seconds that each took."""
    taken = []
    for image in images:
        started = time.perf_counter()
        session.run([prepare(image)])
        taken.append(time.perf_counter() - started)
    return taken


def run_pool(images: Iterable[bytes], prepare: Prepare, session: OnnxSession, decoders: int, in_flight: int) -> int:
    """Decode on as many threads, `in_flight` images begun and not done, batches of whatever is ready; how many.

    As many batches run at a time as the session has lanes, each lane with its share of the images in flight; without
    decoders, each decodes its own.
    """
    shared, lanes = _Shared(images), session.tuning.lanes
    share = max(1, in_flight // lanes)
    if not decoders:
        return _on_threads(lanes, lambda: _run_alone(shared, prepare, session, share))
    with ThreadPoolExecutor(decoders) as pool:
        return _on_threads(lanes, lambda: _run_lane(shared, prepare, session, pool, share))


def _on_threads(count: int, run: Callable[[], int]) -> int:
    """The sum of what so many threads give; a single one is this."""
    if count == 1:
        return run()
    with ThreadPoolExecutor(count) as threads:
        return sum(each.result() for each in [threads.submit(run) for _ in range(count)])


def _run_alone(images: Iterator[bytes], prepare: Prepare, session: OnnxSession, in_flight: int) -> int:
    count = 0
    while batch := [prepare(image) for image in itertools.islice(images, min(in_flight, session.tuning.max_batch))]:
        session.run(batch)
        count += len(batch)
    return count


def _run_lane(
    images: Iterator[bytes], prepare: Prepare, session: OnnxSession, decoders: ThreadPoolExecutor, in_flight: int
) -> int:
    ready: queue.SimpleQueue[Future[Pixels]] = queue.SimpleQueue()
    count = pending = 0
    while True:
        for image in itertools.islice(images, in_flight - pending):
            decoders.submit(prepare, image).add_done_callback(ready.put)
            pending += 1
        if not pending:
            return count
        batch = [ready.get().result()]
        while not ready.empty() and len(batch) < session.tuning.max_batch:
            batch.append(ready.get().result())
        session.run(batch)
        count, pending = count + len(batch), pending - len(batch)


class _Shared(Iterator[bytes]):
    """One iterator for several threads."""

    def __init__(self, items: Iterable[bytes]) -> None:
        self._items = iter(items)
        self._lock = threading.Lock()

    def __next__(self) -> bytes:
        with self._lock:
            return next(self._items)


def describe_session(settings: Settings) -> dict[str, Any]:
    """The settings that decide speed, as they come out on this machine."""
    session = open_session(load_bundle(Path(settings.bundle)), settings)
    return {
        "device": session.device.value,
        "workers": settings.workers,
        "threads": session.tuning.threads,
        "lanes": session.tuning.lanes,
        "decode_workers": decode_workers(settings, session.device, session.tuning),
        "max_batch": session.tuning.max_batch,
        "buckets": list(session.buckets),
        "queue_images": settings.queue_images,
        "log_level": settings.log_level,
    }

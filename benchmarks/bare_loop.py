"""Decode, preprocess and session with a server's settings and no server around them: the least an answer can cost."""

import itertools
import os
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cpu_time import Usage, metered
from benchmarks.load import passes
from models.bundle import Bundle, load_bundle
from service.decoding import Prepare, decode_workers, preparation
from service.session import OnnxSession, open_session
from service.settings import Settings

Pixels = NDArray[np.uint8]


def bare_pool(settings: Settings, photos: Sequence[Path], in_flight: int, seconds: float) -> tuple[int, Usage]:
    """As many decoder threads as the server, batches of whatever is ready: how many images, and this process's CPU."""
    bundle, session, data = _open(settings, photos)
    prepare = preparation(bundle.preprocessing, settings)

    def loop(seconds: float) -> int:
        return run_pool(passes(data, seconds), prepare, session, decode_workers(settings), in_flight)

    loop(0.0)
    return metered(lambda: loop(seconds), os.getpid())


def bare_single(settings: Settings, photos: Sequence[Path], seconds: float) -> tuple[list[float], Usage]:
    """One thread, one image at a time: the seconds that each took, and this process's CPU."""
    bundle, session, data = _open(settings, photos)
    prepare = preparation(bundle.preprocessing, settings)
    run_single(passes(data, 0.0), prepare, session)
    return metered(lambda: run_single(passes(data, seconds), prepare, session), os.getpid())


def _open(settings: Settings, photos: Sequence[Path]) -> tuple[Bundle, OnnxSession, list[bytes]]:
    bundle = load_bundle(settings.bundle)
    return bundle, open_session(bundle, settings), [photo.read_bytes() for photo in photos]


def run_single(images: Iterable[bytes], prepare: Prepare, session: OnnxSession) -> list[float]:
    """One image at a time; the seconds that each took."""
    taken = []
    for image in images:
        started = time.perf_counter()
        session.run([prepare(image)])
        taken.append(time.perf_counter() - started)
    return taken


def run_pool(images: Iterable[bytes], prepare: Prepare, session: OnnxSession, workers: int, in_flight: int) -> int:
    """Decode on `workers` threads, `in_flight` images begun and not done, batches of whatever is ready; how many.

    As many batches run at a time as the session has lanes, each lane with its share of the images in flight.
    """
    shared, lanes = _Shared(images), session.tuning.lanes
    with ThreadPoolExecutor(workers) as decoders:
        share = max(1, in_flight // lanes)
        if lanes == 1:
            return _run_lane(shared, prepare, session, decoders, share)
        with ThreadPoolExecutor(lanes) as threads:
            runs = [threads.submit(_run_lane, shared, prepare, session, decoders, share) for _ in range(lanes)]
            return sum(run.result() for run in runs)


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
    session = open_session(load_bundle(settings.bundle), settings)
    return {
        "device": session.device.value,
        "threads": session.tuning.threads,
        "lanes": session.tuning.lanes,
        "decode_workers": decode_workers(settings),
        "max_batch": session.tuning.max_batch,
        "buckets": list(session.buckets),
        "queue_images": settings.queue_images,
        "log_level": settings.log_level,
    }

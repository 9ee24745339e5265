"""Decode, preprocess and session with a server's settings and no server around them: the least an answer can cost."""

import itertools
import os
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cpu_time import Usage, metered
from benchmarks.load import passes
from models.bundle import Bundle, load_bundle
from service.cores import usable_cores
from service.pipeline import Prepare, preparation
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


def bare_single(settings: Settings, photos: Sequence[Path], seconds: float) -> tuple[int, Usage]:
    """One thread, one image at a time: how many images, and this process's CPU."""
    bundle, session, data = _open(settings, photos)
    prepare = preparation(bundle.preprocessing, settings)
    run_single(passes(data, 0.0), prepare, session)
    return metered(lambda: run_single(passes(data, seconds), prepare, session), os.getpid())


def _open(settings: Settings, photos: Sequence[Path]) -> tuple[Bundle, OnnxSession, list[bytes]]:
    bundle = load_bundle(settings.bundle)
    return bundle, open_session(bundle, settings), [photo.read_bytes() for photo in photos]


def decode_workers(settings: Settings) -> int:
    """Decoder threads of a server with these settings."""
    return settings.decode_workers or usable_cores()


def run_single(images: Iterator[bytes], prepare: Prepare, session: OnnxSession) -> int:
    """One image at a time; how many there were."""
    count = 0
    for image in images:
        session.run([prepare(image)])
        count += 1
    return count


def run_pool(images: Iterator[bytes], prepare: Prepare, session: OnnxSession, workers: int, in_flight: int) -> int:
    """Decode on `workers` threads, `in_flight` images begun and not done, batches of whatever is ready; how many."""
    ready: queue.SimpleQueue[Future[Pixels]] = queue.SimpleQueue()
    count = pending = 0
    with ThreadPoolExecutor(workers) as pool:
        while True:
            for image in itertools.islice(images, in_flight - pending):
                pool.submit(prepare, image).add_done_callback(ready.put)
                pending += 1
            if not pending:
                return count
            batch = [ready.get().result()]
            while not ready.empty() and len(batch) < session.tuning.max_batch:
                batch.append(ready.get().result())
            session.run(batch)
            count, pending = count + len(batch), pending - len(batch)


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

"""Start a contender with a model, wait for its first answer, and see that it does the same work as candor."""

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cpu_time import metered
from benchmarks.http_client import Answer, connect, run
from benchmarks.payloads import Target, make_requests
from benchmarks.peers.catalogue import CANDOR_NAME, Contender, Setup
from benchmarks.server_process import candor_environment, free_port, launched, tail
from models.bundle import Bundle
from models.graph import open_graph
from models.images import ImageLimits, decode_image
from models.preprocess import preprocess

START_PATIENCE_S = 90.0
ANSWER_PATIENCE_S = 20.0
LEAVE_PATIENCE_S = 5.0
SETTLE_PATIENCE_S = 30.0
LOOK_S, QUIET_LOOKS, QUIET_CORES = 0.5, 2, 0.1  # at rest: so many looks in a row, each below that many cores
LEAST_COSINE = 0.999
CHECKED = 3


class NotStarted(Exception):
    """A server that gives no answer; the message has its last words."""


class OtherWork(Exception):
    """A server whose embeddings are not candor's."""


@dataclass(frozen=True)
class Running:
    """A server that answers; `cold_start_s` from the start of its process to its first answer of 200."""

    process: "subprocess.Popen[bytes]"
    target: Target
    cold_start_s: float

    @property
    def pid(self) -> int:
        """The process that the others descend from."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether that process is still there."""
        return self.process.poll() is None


@contextmanager
def started(
    contender: Contender, setup: Setup, bundle: Bundle, programs: Path, folder: Path, photo: Path
) -> Iterator[Running]:
    """A server that has answered once and come to rest; at the end it has some seconds to leave, then is killed.

    Raises:
        NotStarted: where no answer comes.
    """
    port, log = free_port(), folder / "server.log"
    command = contender.command(setup, port, programs)
    environment = _environment(contender, setup, bundle, port, folder)
    target = Target(f"http://127.0.0.1:{port}", contender.path, contender.form)
    begun = time.perf_counter()
    with launched(command, environment, log) as process:
        _wait_for_answer(process, target, make_requests(target, [photo])[0], log)
        running = Running(process, target, time.perf_counter() - begun)
        settle(process.pid)
        yield running
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(LEAVE_PATIENCE_S)
        except subprocess.TimeoutExpired:
            return


def settle(pid: int, patience_s: float = SETTLE_PATIENCE_S) -> None:
    """Wait until a process and its descendants rest: others of its workers may still be loading; or that long."""
    deadline, quiet = time.monotonic() + patience_s, 0
    while quiet < QUIET_LOOKS and time.monotonic() < deadline:
        _, usage = metered(lambda: time.sleep(LOOK_S), pid)
        quiet = quiet + 1 if usage.cpu_seconds[0] < QUIET_CORES * usage.seconds else 0


def _environment(contender: Contender, setup: Setup, bundle: Bundle, port: int, folder: Path) -> dict[str, str]:
    if contender.name == CANDOR_NAME:
        return candor_environment(
            {
                "bundle": bundle.path.resolve(),
                "gallery": folder / "gallery",
                "api_keys": None,
                "port": port,
                "workers": setup.workers,
            }
        )
    config: Mapping[str, Any] = {
        "graph": bundle.graph_path.resolve(),
        "size": bundle.preprocessing.size,
        "crop_pct": bundle.preprocessing.crop_pct,
        "port": port,
        "workers": setup.workers,
        "threads": setup.threads,
        "max_batch": setup.max_batch,
        "max_wait_ms": setup.max_wait_ms,
    }
    plain = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return plain | {f"PEER_{name.upper()}": str(value) for name, value in config.items()} | dict(contender.environment)


def _wait_for_answer(process: "subprocess.Popen[bytes]", target: Target, request: bytes, log: Path) -> None:
    deadline, last = time.monotonic() + START_PATIENCE_S, "no connection"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise NotStarted(f"it left with {process.returncode}:\n{tail(log)}")
        try:
            answer = run(_ask(target.url, [request]))[0]
        except OSError as error:
            last = str(error) or type(error).__name__
        else:
            if answer.status == 200:
                return
            last = f"{answer.status} {answer.body[:200]!r}"
        time.sleep(0.02)
    raise NotStarted(f"no answer of 200 within {START_PATIENCE_S:g} s (last: {last}):\n{tail(log)}")


async def _ask(url: str, requests: Sequence[bytes]) -> list[Answer]:
    async with asyncio.timeout(ANSWER_PATIENCE_S):
        connection = await connect(url)
        try:
            return [await connection.exchange(request) for request in requests]
        finally:
            await connection.close()


def reference_embeddings(bundle: Bundle, photos: Sequence[Path]) -> NDArray[np.float32]:
    """What candor's own code says of the first `CHECKED` photos, (n, D)."""
    graph = open_graph(bundle.graph_path, threads=1)
    pixels = [
        preprocess(decode_image(photo.read_bytes(), ImageLimits()), bundle.preprocessing) for photo in photos[:CHECKED]
    ]
    return graph(np.stack(pixels))[0]


def check_work(running: Running, photos: Sequence[Path], expected: NDArray[np.float32]) -> float:
    """Ask for the embeddings of as many photos; the least cosine with `expected` (n, D).

    Raises:
        OtherWork: where it is below `LEAST_COSINE`, or the answer is of another photo.
    """
    answers = run(_ask(running.target.url, make_requests(running.target, photos[: len(expected)])))
    found = np.array([embedding_of(json.loads(answer.body)) for answer in answers])
    return agreement(found, expected)


def agreement(found: NDArray[np.float64], expected: NDArray[np.float32]) -> float:
    """The least cosine of embeddings (n, D) with those expected, each in its place; errors as `check_work`."""
    cosine = found @ expected.T / np.linalg.norm(found, axis=1)[:, None]  # (n, n)
    least = float(cosine.diagonal().min())
    if not (least > LEAST_COSINE and (cosine.argmax(axis=1) == np.arange(len(cosine))).all()):
        raise OtherWork(f"its embeddings are not candor's: cosines {cosine.diagonal().round(5).tolist()}")
    return least


def embedding_of(answer: Mapping[str, Any]) -> list[float]:
    """The embedding in an answer of candor, of the Open Inference Protocol, or of `{"embedding": [...]}`."""
    if "outputs" in answer:
        answer = {output["name"]: output["data"] for output in answer["outputs"]}
    elif "results" in answer:
        answer = answer["results"][0]
    embedding: list[float] = answer["embedding"]
    return embedding

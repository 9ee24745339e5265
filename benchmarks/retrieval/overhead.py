"""What HTTP adds to a search: the server, candor's gallery and LanceDB in turn, on one table and the same queries."""

import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.retrieval.client import Until
from benchmarks.retrieval.data import CONDITIONS, NO_CONDITION, Condition
from benchmarks.retrieval.engine import EngineTask, Way, engine_round
from benchmarks.retrieval.measure import medians, memory_mib
from benchmarks.retrieval.parts import Parts, Plan
from benchmarks.retrieval.served import ServedTask, gallery_server, served_round
from benchmarks.retrieval.wire import Encoding
from benchmarks.server_process import Server
from benchmarks.worker import worker

WAYS: tuple[Way, ...] = ("gallery", "lancedb")


@dataclass(frozen=True)
class Place:
    """A gallery that is filled and indexed, and what a server on it needs."""

    bundle: Path
    bundle_hash: str
    corpus_folder: Path
    gallery: Path
    work_folder: Path


@dataclass(frozen=True)
class Load:
    """One kind of search."""

    condition: Condition
    concurrency: int
    encoding: Encoding

    @property
    def name(self) -> str:
        """For files."""
        return f"overhead-{self.condition.name}-{self.concurrency}-{self.encoding}"


def loads(plan: Plan) -> list[Load]:
    """No filter at every concurrency and in both encodings; each condition alone."""
    plain = [Load(NO_CONDITION, concurrency, "base64") for concurrency in plan.concurrencies]
    numbers = [Load(NO_CONDITION, 1, "float")]
    return [*plain, *numbers, *(Load(each, 1, "base64") for each in CONDITIONS if each != NO_CONDITION)]


def measure_overhead(place: Place, plan: Plan, parts: Parts) -> list[Any]:
    """A result per load; a server is started only if one is missing."""
    with ExitStack() as stack:
        missing = [load for load in loads(plan) if not parts.has(load.name)]
        if missing:
            server = stack.enter_context(gallery_server(place.bundle, place.gallery, place.work_folder))
            for load in missing:
                _keep(load, server, place, plan, parts)
        return [parts.keep(load.name, dict) for load in loads(plan)]


def _keep(load: Load, server: Server, place: Place, plan: Plan, parts: Parts) -> None:
    parts.keep(load.name, lambda: _compare(load, server, place, plan))


def _compare(load: Load, server: Server, place: Place, plan: Plan) -> dict[str, Any]:
    """Rounds in which the three take turns."""
    rounds = [_round(load, server, place, plan.seconds) for _ in range(plan.rounds)]
    return {
        "condition": load.condition.name,
        "concurrency": load.concurrency,
        "encoding": load.encoding,
        **{way: medians([each[way] for each in rounds]) for way in ("http", *WAYS)},
        "overhead_ms": differences(rounds, "gallery"),
        "overhead_over_lancedb_ms": differences(rounds, "lancedb"),
        "server_memory_mib": memory_mib(server.pid),
        "rounds": rounds,
    }


def _round(load: Load, server: Server, place: Place, seconds: float) -> dict[str, Any]:
    """Each in a fresh process of its own."""
    asked = ServedTask(
        server.url,
        server.pid,
        place.corpus_folder,
        load.condition,
        load.concurrency,
        Until(seconds),
        load.encoding,
    )
    with worker() as process:
        figures = {"http": process.call(served_round, asked)}
    for way in WAYS:
        task = EngineTask(
            way, place.gallery, place.bundle_hash, place.corpus_folder, load.condition, load.concurrency, seconds
        )
        with worker() as process:
            figures[way] = process.call(engine_round, task)
    return figures


def differences(rounds: Sequence[Mapping[str, Any]], way: str) -> dict[str, float]:
    """p50 over HTTP less p50 of the engine called that way, in milliseconds: round by round, their median and range."""
    values = [each["http"]["latency_ms"]["p50"] - each[way]["latency_ms"]["p50"] for each in rounds]
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}

"""Searches while writes and index upkeep run beside them in the same server, and how long its event loop stalls."""

import asyncio
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
from lancedb.table import AsyncTable

from benchmarks.retrieval.client import Probes, Sent, Until, paced, probe
from benchmarks.retrieval.control import idle_server
from benchmarks.retrieval.corpus_files import Files, read_corpus
from benchmarks.retrieval.data import NO_CONDITION, make_payload
from benchmarks.retrieval.measure import latency_ms, memory_mib
from benchmarks.retrieval.served import ServedTask, gallery_server, served_round
from benchmarks.retrieval.wire import get, item_id, upsert_request
from benchmarks.server_process import Server
from benchmarks.worker import Worker, worker
from service.gallery.lance.maintenance import vector_index
from service.gallery.lance.table import TABLE

PROBES_PER_SECOND = 100.0
WRITES_PER_SECOND = 10.0
ITEMS_PER_WRITE = 10  # half of them items that are there, written again as they are; half new
WRITES = 600  # made beforehand, sent over and over
LONGEST_BUILD_S = 480.0
LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class Setting:
    """Where the galleries are, and how long each phase is to last."""

    bundle: Path
    corpus_folder: Path
    gallery_folder: Path
    work_folder: Path
    seconds: float


@dataclass
class _Seen:
    """What the table's folder showed while a phase ran."""

    index_folders: set[str] = field(default_factory=set)
    vector_index_s: float | None = None
    unindexed_rows: int | None = None


def beside_upkeep(setting: Setting) -> dict[str, Any]:
    """Three phases: nothing beside, writes beside, and writes while the first vector index is built."""
    phases: dict[str, Any] = {}
    with ExitStack() as stack:
        gallery, server = _serve_copy("indexed", setting, stack)
        phases["quiet"] = _phase(server, gallery, setting, writes=False, until_indexed=False)
        phases["writes"] = _phase(server, gallery, setting, writes=True, until_indexed=False)
    with ExitStack() as stack:
        gallery, server = _serve_copy("bare", setting, stack)
        phases["index_build"] = _phase(server, gallery, setting, writes=True, until_indexed=True)
    return phases


def _serve_copy(name: str, setting: Setting, stack: ExitStack) -> tuple[Path, Server]:
    gallery = setting.work_folder / name
    shutil.rmtree(gallery, ignore_errors=True)
    shutil.copytree(setting.gallery_folder / name, gallery)
    stack.callback(shutil.rmtree, gallery)
    return gallery, stack.enter_context(gallery_server(setting.bundle, gallery, setting.work_folder))


def _phase(server: Server, gallery: Path, setting: Setting, *, writes: bool, until_indexed: bool) -> dict[str, Any]:
    stop = setting.work_folder / "stop"
    stop.unlink(missing_ok=True)
    until = Until(LONGEST_BUILD_S if until_indexed else setting.seconds, stop)
    task = ServedTask(server.url, server.pid, setting.corpus_folder, NO_CONDITION, 1, until)
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(4))
        processes = [stack.enter_context(worker()) for _ in range(4)]  # killed first, which ends the threads' calls
        idle = stack.enter_context(idle_server())
        _wake(processes)
        searching = threads.submit(processes[0].call, served_round, task)
        probing = threads.submit(processes[1].call, probe_path, server.url, "/healthz", until)
        controlling = threads.submit(processes[2].call, probe_path, idle, "/healthz", until)
        writing = threads.submit(processes[3].call, write, server.url, setting.corpus_folder, until) if writes else None
        seen = asyncio.run(_watch(gallery, searching, stop if until_indexed else None))
        phase = {"search": searching.result(), "probe": _probe_figures(probing.result())}
        phase["control"] = _probe_figures(controlling.result())
        if writing is not None:
            phase["writes"] = _write_figures(writing.result(), phase["search"]["seconds"])
    stop.unlink(missing_ok=True)
    return {
        **phase,
        "index_folders_made": len(seen.index_folders),
        "vector_index_built_s": seen.vector_index_s,
        "unindexed_rows_at_end": seen.unindexed_rows,
        "server_memory_mib": memory_mib(server.pid),
    }


def _wake(processes: list[Worker]) -> None:
    """Have every process started and its modules imported before the clock runs."""
    for process in processes:
        process.call(latency_ms, [1.0])


async def _watch(gallery: Path, searching: "Future[Any]", stop: Path | None) -> _Seen:
    """Look at the table now and then until the search ends; with `stop`, end it once a vector index is there."""
    connection = await lancedb.connect_async(str(gallery), read_consistency_interval=timedelta(0))
    table = await connection.open_table(TABLE)
    folder, started, seen = gallery / f"{TABLE}.lance" / "_indices", time.monotonic(), _Seen()
    at_start = _names(folder)
    while not searching.done():
        await asyncio.sleep(LOOK_EVERY_S)
        seen.index_folders |= _names(folder) - at_start
        if stop is not None and seen.vector_index_s is None and await vector_index(table) is not None:
            seen.vector_index_s = time.monotonic() - started
            await asyncio.to_thread(stop.touch)
    seen.unindexed_rows = await _unindexed_rows(table)
    table.close()
    return seen


async def _unindexed_rows(table: AsyncTable) -> int | None:
    index = await vector_index(table)
    return None if index is None else int(index.num_unindexed_rows or 0)


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def probe_path(url: str, path: str, until: Until) -> Probes:
    """`probe` of one path, for a process of its own."""
    return probe(url, get(url, path), PROBES_PER_SECOND, until)


def write(url: str, corpus_folder: Path, until: Until) -> Sent:
    """Upsert at a steady rate, for a process of its own."""
    return paced(url, write_requests(url, read_corpus(corpus_folder)), WRITES_PER_SECOND, until)


def write_requests(url: str, files: Files, count: int = WRITES) -> list[bytes]:
    """Upserts that change no query's true neighbours.

    Half of each are items of the corpus as they are, half are new ones opposite to an item, and so far from any query.
    """
    generator = np.random.default_rng((files.corpus.seed, 5))
    return [_write_request(url, files, number, generator) for number in range(count)]


def _write_request(url: str, files: Files, number: int, generator: np.random.Generator) -> bytes:
    rows = generator.choice(files.corpus.rows, ITEMS_PER_WRITE, replace=False)
    new = np.arange(ITEMS_PER_WRITE) % 2 == 1
    ids = [f"n{number}-{row}" if fresh else item_id(int(row)) for row, fresh in zip(rows, new, strict=True)]
    vectors = np.where(new[:, None], -1, 1).astype(np.float32) * files.vectors[rows]  # (n, D)
    contents = [make_payload(int(row), int(files.parts[row])) for row in rows]
    return upsert_request(url, ids, vectors, files.uncertainties[rows].tolist(), contents)


def _probe_figures(probes: Probes) -> Mapping[str, Any]:
    return {
        "probes": len(probes.latencies_s),
        "latency_ms": latency_ms(probes.latencies_s),
        "sent_late_ms": latency_ms(probes.late_s),
    }


def _write_figures(sent: Sent, seconds: float) -> Mapping[str, Any]:
    """Upserts that were acknowledged, and how long all of them had to wait, those refused included."""
    items = ITEMS_PER_WRITE * len(sent.latencies_s)
    return {
        "upserts": len(sent.latencies_s),
        "items": items,
        "items_per_second": items / seconds,
        "latency_ms": latency_ms([*sent.latencies_s, *sent.refused_s]),
        "refused": sent.refused,
    }

"""`POST /retrieve` of a real server, asked by vector by a client in another process."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu_time import metered
from benchmarks.retrieval.client import Until, closed_loop
from benchmarks.retrieval.corpus_files import read_corpus
from benchmarks.retrieval.data import Condition
from benchmarks.retrieval.measure import search_figures
from benchmarks.retrieval.wire import Encoding, retrieve_requests, rows_found, search_ms
from benchmarks.server_process import Server, serving

WARM_UP_S = 1.0


@dataclass(frozen=True)
class ServedTask:
    """What one client process asks of a server: searches of one kind, so many at a time, for that long."""

    url: str
    server_pid: int
    corpus_folder: Path
    condition: Condition
    concurrency: int
    until: Until
    encoding: Encoding = "base64"


def served_round(task: ServedTask) -> dict[str, Any]:
    """The figures of `search_figures`, with the client's CPU and how long the server says that its gallery took."""
    files = read_corpus(task.corpus_folder)
    requests = retrieve_requests(task.url, files.queries, task.condition, task.encoding)
    closed_loop(task.url, requests, 1, Until(WARM_UP_S))
    answers, usage = metered(
        lambda: closed_loop(task.url, requests, task.concurrency, task.until), task.server_pid, os.getpid()
    )
    truth = files.truth[task.condition.name]
    return {
        **search_figures(answers.latencies_s, usage, rows_found(answers.bodies), truth),
        "client_cpu_ms_per_query": 1000 * usage.cpu_seconds[1] / len(answers.latencies_s),
        "server_search_ms_p50": float(np.median(search_ms(answers.bodies))),
    }


@contextmanager
def gallery_server(bundle: Path, gallery: Path, folder: Path) -> Iterator[Server]:
    """A server on a gallery's folder, with its log in `folder`."""
    overrides = {"bundle": bundle.resolve(), "gallery": str(gallery.resolve()), "api_keys": None}
    with serving(overrides, folder) as server:
        yield server

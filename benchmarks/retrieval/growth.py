"""How candor's figures grow with the gallery: the same searches on galleries of several sizes."""

from typing import Any

from benchmarks.retrieval.client import Until
from benchmarks.retrieval.corpus_files import read_corpus
from benchmarks.retrieval.data import NO_CONDITION
from benchmarks.retrieval.filling import Progress
from benchmarks.retrieval.measure import medians, memory_mib
from benchmarks.retrieval.overhead import Place
from benchmarks.retrieval.parts import Plan
from benchmarks.retrieval.served import ServedTask, gallery_server, served_round
from benchmarks.server_process import Server
from benchmarks.worker import worker

CONCURRENCIES = (1, 16)


def measure_size(place: Place, filled: Progress, plan: Plan) -> dict[str, Any]:
    """How the gallery was filled, and searches of it over HTTP without a filter, alone and many at a time."""
    corpus = read_corpus(place.corpus_folder).corpus
    with gallery_server(place.bundle, place.gallery, place.work_folder) as server:
        searches = {
            str(concurrency): medians([_round(place, server, concurrency, plan) for _ in range(plan.rounds)])
            for concurrency in CONCURRENCIES
        }
        memory = memory_mib(server.pid)
    return {"dimension": corpus.dimension, **filled.as_dict(), "server_memory_mib": memory, "concurrency": searches}


def _round(place: Place, server: Server, concurrency: int, plan: Plan) -> dict[str, Any]:
    task = ServedTask(server.url, server.pid, place.corpus_folder, NO_CONDITION, concurrency, Until(plan.seconds))
    with worker() as process:
        return process.call(served_round, task)

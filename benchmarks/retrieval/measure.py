"""Figures of one stretch of searches, and of processes: also for the peers, whose environments hold little else."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cpu_time import Usage
from benchmarks.process_memory import memory_of
from benchmarks.retrieval.data import Ids, recall, short_answers

PERCENTILES = (50, 95, 99)
MIB = 2**20


def latency_ms(latencies_s: Sequence[float]) -> dict[str, float]:
    """Percentiles and the largest, in milliseconds."""
    values = np.percentile(latencies_s, PERCENTILES)
    named = {f"p{percent}": 1000 * float(value) for percent, value in zip(PERCENTILES, values, strict=True)}
    return {**named, "max": 1000 * max(latencies_s)}


def search_figures(
    latencies_s: Sequence[float], usage: Usage, found: Mapping[int, Sequence[int]], truth: Ids
) -> dict[str, Any]:
    """One stretch of searches.

    Args:
        latencies_s: of every query.
        usage: CPU of what searched, first among its processes.
        found: rows found for each query asked, by its position.
        truth: (q, k) rows that should be.
    """
    return {
        "queries": len(latencies_s),
        "seconds": usage.seconds,
        "queries_per_second": len(latencies_s) / usage.seconds,
        "latency_ms": latency_ms(latencies_s),
        "cpu_ms_per_query": 1000 * usage.cpu_seconds[0] / len(latencies_s),
        "other_cores": usage.other_cpu_seconds / usage.seconds,
        "recall_at_10": recall(found, truth),
        "queries_judged": len(found),
        "short_answers": short_answers(found, truth),
    }


def medians(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Round by round figures of one kind to their medians, through nested objects; counts are kept where all agree."""
    first = rounds[0]
    return {
        name: medians([each[name] for each in rounds])
        if isinstance(first[name], Mapping)
        else statistics.median(each[name] for each in rounds)
        for name in first
    }


def memory_mib(pid: int) -> float:
    """Proportional set size of a process and its descendants: pages that several share are counted once."""
    return memory_of(pid).pss / MIB


def folder_mib(folder: Path) -> float:
    """Size of all files below a folder; one that vanishes meanwhile counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total / MIB

"""Rounds of measured work, and what is said of several: medians, percentiles, spreads."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.cpu_time import Usage

PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Round:
    """One stretch of one work.

    `cpu_seconds` are the server's or the bare loop's, `client_cpu_seconds` the load generator's; `other_cores` is how
    many cores everything else on the machine kept busy meanwhile: near 0 on a machine fit for this.
    """

    work: str
    images: int
    seconds: float
    cpu_seconds: float
    client_cpu_seconds: float
    other_cores: float
    latencies_s: tuple[float, ...] = ()

    @property
    def images_per_second(self) -> float:
        """Images over wall-clock seconds."""
        return self.images / self.seconds

    @property
    def cpu_ms_per_image(self) -> float:
        """CPU-milliseconds of the server or the bare loop, per image."""
        return 1000 * self.cpu_seconds / self.images

    def as_dict(self) -> dict[str, Any]:
        """As the result file has it."""
        return {
            "work": self.work,
            "images": self.images,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "cpu_seconds": self.cpu_seconds,
            "cpu_ms_per_image": self.cpu_ms_per_image,
            "client_cpu_ms_per_image": 1000 * self.client_cpu_seconds / self.images,
            "other_cores": self.other_cores,
            "latency_ms": percentiles_ms(self.latencies_s),
        }


def served_round(work: str, latencies_s: Sequence[float], usage: Usage, images_per_request: int = 1) -> Round:
    """A server under load; of the two processes of `usage`, the server comes first and the client second."""
    return Round(
        work=work,
        images=len(latencies_s) * images_per_request,
        seconds=usage.seconds,
        cpu_seconds=usage.cpu_seconds[0],
        client_cpu_seconds=usage.cpu_seconds[1],
        other_cores=usage.other_cpu_seconds / usage.seconds,
        latencies_s=tuple(latencies_s),
    )


def bare_round(work: str, images: int, usage: Usage, latencies_s: Sequence[float] = ()) -> Round:
    """A bare loop, which asks nothing over HTTP."""
    return Round(
        work=work,
        images=images,
        seconds=usage.seconds,
        cpu_seconds=usage.cpu_seconds[0],
        client_cpu_seconds=0.0,
        other_cores=usage.other_cpu_seconds / usage.seconds,
        latencies_s=tuple(latencies_s),
    )


def percentiles_ms(latencies_s: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds; none of nothing."""
    if not latencies_s:
        return {}
    values = np.percentile(latencies_s, PERCENTILES)
    return {f"p{percent}": 1000 * float(value) for percent, value in zip(PERCENTILES, values, strict=True)}


def medians(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Medians over rounds as `Round.as_dict` gives them, each number by itself."""
    numbers = ("images_per_second", "cpu_ms_per_image", "client_cpu_ms_per_image", "other_cores")
    latencies = [each["latency_ms"] for each in rounds]
    return {
        **{name: statistics.median(each[name] for each in rounds) for name in numbers},
        "latency_ms": {name: statistics.median(each[name] for each in latencies) for name in latencies[0]},
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}

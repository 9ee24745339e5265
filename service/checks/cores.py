"""Cores by affinity and quota, and what the settings ask of them."""

import math
from collections.abc import Iterator, Mapping
from typing import Final

from service.checks.findings import Finding, Kind
from service.checks.situation import Situation
from service.cores import affine_cores, cores_per_worker, cpu_quota, usable_cores
from service.settings import Settings

LIBRARY_VARIABLES: Final = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")  # the first that is set counts


def check(situation: Situation) -> Iterator[Finding]:
    """What there is, and what is asked."""
    affine, quota = affine_cores(), cpu_quota()
    granted = f"{affine} by affinity, " + ("no quota" if quota is None else f"a quota of {quota:g}")
    share = cores_per_worker(situation.settings.workers)
    yield Finding(
        Kind.CORES_COUNTED, f"{usable_cores()} ({granted}); {situation.settings.workers} worker(s) of {share}"
    )
    yield from demands(situation.settings, usable_cores())
    yield from restraints(affine, quota, situation.environment)


def demands(settings: Settings, cores: int) -> Iterator[Finding]:
    """Settings that ask for more threads than there are cores."""
    if settings.workers > cores:
        yield Finding(Kind.WORKERS_ABOVE_CORES, f"{settings.workers} workers share {cores} cores")
        return
    lanes = settings.lanes or 1
    threads = settings.threads or max(1, cores // settings.workers // lanes)
    if (together := settings.workers * lanes * threads) > cores:
        yield Finding(
            Kind.THREADS_ABOVE_CORES,
            f"{settings.workers} workers x {lanes} lanes x {threads} threads are {together}, on {cores} cores",
        )


def restraints(affine: int, quota: float | None, environment: Mapping[str, str]) -> Iterator[Finding]:
    """A quota that is not of whole cores, and libraries that know nothing of it."""
    if quota is not None and quota < affine and quota != math.ceil(quota):
        yield Finding(Kind.QUOTA_IN_PARTS, f"the quota is {quota:g} cores, used as {math.ceil(quota)}")
    cores = affine if quota is None else min(affine, math.ceil(quota))
    name, text = next(((name, environment[name]) for name in LIBRARY_VARIABLES if environment.get(name)), ("", ""))
    threads = min(affine, int(text)) if text.isdigit() else affine
    if threads > cores:
        because = f"{name} is {text}" if name else "it counts the affinity, not the quota"
        yield Finding(Kind.LIBRARY_THREADS, f"{threads} threads on {cores} cores: {because}")

"""How many cores this process may use: affinity and cgroup quota, not what the machine has."""

import math
import os
from pathlib import Path

from service.cgroup import CGROUP_OF_SELF, CGROUP_ROOT, cgroup_folders, read_text


def usable_cores(root: Path = CGROUP_ROOT, membership: Path = CGROUP_OF_SELF) -> int:
    """Cores of the affinity mask, or fewer where a cgroup (v1 or v2) grants less time than that; at least 1."""
    quota = cpu_quota(root, membership)
    return affine_cores() if quota is None else max(1, min(affine_cores(), math.ceil(quota)))


def cores_per_worker(workers: int) -> int:
    """An equal share of the usable cores for each of so many processes; at least 1."""
    return max(1, usable_cores() // workers)


def affine_cores() -> int:
    """Cores that the system may run this process on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_quota(root: Path = CGROUP_ROOT, membership: Path = CGROUP_OF_SELF) -> float | None:
    """Cores granted by the tightest cgroup; None where there is no limit."""
    folders = cgroup_folders("cpu", root, membership)
    return min((quota for folder in folders if (quota := _quota(folder)) is not None), default=None)


def _quota(folder: Path) -> float | None:
    """Cores granted by one folder: `cpu.max` of v2, `cpu.cfs_quota_us` over `cpu.cfs_period_us` of v1."""
    quota, _, period = read_text(folder / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = (read_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return None
    return int(quota) / int(period)

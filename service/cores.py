"""How many cores this process may use: affinity and cgroup quota, not what the machine has."""

import math
import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")
CGROUP_OF_SELF = Path("/proc/self/cgroup")


def usable_cores(root: Path = CGROUP_ROOT, membership: Path = CGROUP_OF_SELF) -> int:
    """Cores of the affinity mask, or fewer where a cgroup (v1 or v2) grants less time than that; at least 1."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for folder in _cgroup_folders(root, membership) if (quota := _quota(folder)) is not None]
    return max(1, min([available, *map(math.ceil, quotas)]))


def cores_per_worker(workers: int) -> int:
    """An equal share of the usable cores for each of so many processes; at least 1."""
    return max(1, usable_cores() // workers)


def _cgroup_folders(root: Path, membership: Path) -> list[Path]:
    """Folders that may limit this process: its own group and every parent up to the root, v2 and v1."""
    folders = [root, root / "cpu"]
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            base = root / "cpu" if controllers else root
            inside = base / path.lstrip("/")
            folders += [folder for folder in (inside, *inside.parents) if folder.is_relative_to(base)]
    return folders


def _quota(folder: Path) -> float | None:
    """Cores granted by one folder: `cpu.max` of v2, `cpu.cfs_quota_us` over `cpu.cfs_period_us` of v1."""
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    if not (quota.isdigit() and period.isdigit() and int(period)):
        return None
    return int(quota) / int(period)


def _read(path: Path) -> str:
    """The text of a file, or nothing where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""

"""How much memory this process may use: the cgroup's limit, or what the machine has."""

import os
import resource
import sys
from pathlib import Path

from service.cgroup import CGROUP_OF_SELF, CGROUP_ROOT, cgroup_folders, read_text

LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")  # of v2, of v1


def granted_bytes(root: Path = CGROUP_ROOT, membership: Path = CGROUP_OF_SELF) -> int:
    """Bytes that the tightest cgroup grants, or those of the machine where that is less."""
    folders = cgroup_folders("memory", root, membership)
    texts = [read_text(folder / name).strip() for folder in folders for name in LIMIT_FILES]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(int(text) for text in texts if text.isdigit())])


def peak_bytes() -> int:
    """The most memory that this process has had in use so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak

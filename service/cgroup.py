"""The control groups (v1 or v2) that may limit this process."""

from pathlib import Path
from typing import Final

CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
CGROUP_OF_SELF: Final = Path("/proc/self/cgroup")


def cgroup_folders(controller: str, root: Path, membership: Path) -> list[Path]:
    """Folders with the limits of one controller: this process's own group and each parent up to the root, v2 and v1."""
    folders = [root, root / controller]
    for line in read_text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            base = root / controller if controllers else root
            inside = base / path.lstrip("/")
            folders += [folder for folder in (inside, *inside.parents) if folder.is_relative_to(base)]
    return folders


def read_text(path: Path) -> str:
    """The text of a file, or nothing where it cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""

"""Files that change while the server runs."""

from pathlib import Path


def state_of(path: Path) -> tuple[int, ...] | None:
    """What tells a file from another in its place, or from itself once written to, its mode last; None: not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_mode

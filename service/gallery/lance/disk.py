"""What a table needs of the file system: its new files on the disk itself, and a lock among processes.

The engine writes files without fsync: what it acknowledged survives the death of the process, but a power cut could
take the last instants with it. Syncing each commit's new files before it is acknowledged keeps those too, as far as the
disk tells the truth. What stays open is a cut between a commit and its sync: nothing acknowledged is lost, but the
newest version may then be there in part, and has to be removed by hand.
"""

import contextlib
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

PARALLEL_FLUSHES = 8  # of files in one journal commit, which costs as much as one


class FolderSync:
    """Remembers which files of a folder are already on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(PARALLEL_FLUSHES, thread_name_prefix="gallery-sync")
        self._known: set[str] = set()
        self._known = self._files()

    def sync(self) -> int:
        """Flush files made since the last call, and the folders that list them; how many files."""
        files = self._files()
        new = files - self._known
        list(self._pool.map(_flush, new))
        list(self._pool.map(_flush, {os.path.dirname(path) for path in new}))
        self._known = files
        return len(new)

    def close(self) -> None:
        """Let go of the threads."""
        self._pool.shutdown()

    def _files(self) -> set[str]:
        return {os.path.join(folder, name) for folder, _, names in os.walk(self._folder) for name in names}


class FileLock:
    """A lock that one process of a machine holds at a time, and that the system lets go of when it dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free; whether this process holds it.

        Raises:
            OSError: where the file cannot be made.
        """
        if self._descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let go of the lock; the file stays, as another process may be about to take it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _flush(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # cleaned up meanwhile
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

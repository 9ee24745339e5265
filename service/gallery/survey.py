"""What is at a gallery's place, told without opening the gallery."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Survey:
    """What is there.

    Attributes:
        engine: its name and version, for people.
        items: how many there are; None where no gallery has been made yet.
        unindexed: how many of them a search goes through one by one.
        writable: whether this login, or this user of the machine, may write.
        in_use: whether a process of this machine does the upkeep now.
    """

    engine: str
    items: int | None = None
    unindexed: int = 0
    writable: bool = True
    in_use: bool = False


def nearest_folder(path: Path) -> Path:
    """The path, or the first above it that is there: where a folder would be made."""
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())

"""What follows an @ in the spec of a data set: which of its classes or images are meant."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.errors import UserError


class DatasetError(UserError):
    """A data set that cannot be read as named; the message says what to change."""


def chosen_classes(text: str, known: tuple[str, ...]) -> list[str]:
    """The classes that ranges of positions among the `known` ones choose, as in `0-49,60`, or `FILE.json:KEY` lists.

    Raises:
        DatasetError: for a class that does not exist, or is chosen twice.
    """
    if ".json:" in text:
        return _listed_classes(text, known)
    try:
        ranges = [[int(end) for end in part.split("-")] for part in text.split(",")]
        chosen = [known[i] for ends in ranges for i in range(ends[0], ends[-1] + 1)]
    except (ValueError, IndexError) as error:
        raise DatasetError(f"@{text}: expected ranges within 0-{len(known) - 1}, or FILE.json:KEY") from error
    if not chosen or len(set(chosen)) < len(chosen):
        raise DatasetError(f"@{text}: expected ascending ranges that do not overlap, e.g. 0-49,60")
    return chosen


def _listed_classes(text: str, known: tuple[str, ...]) -> list[str]:
    """The classes that `FILE.json:KEY` lists."""
    chosen = [str(c) for c in _list(text, ":")]
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise DatasetError(f"@{text}: no such classes in the data: {', '.join(unknown[:5])}")
    return chosen


def listed_images(text: str, count: int) -> NDArray[np.int64]:
    """The positions (m,) that `FILE.json#KEY` lists, of `count` images.

    Raises:
        DatasetError: for a position that no image has.
    """
    positions = _list(text, "#")
    if not positions or not all(isinstance(each, int) and 0 <= each < count for each in positions):
        raise DatasetError(f"@{text}: expected positions of images, from 0 to {count - 1}")
    return np.array(positions, dtype=np.int64)


def _list(text: str, separator: str) -> list[Any]:
    """What a JSON file lists under a key, both named by `text`."""
    path, _, key = text.rpartition(separator)
    try:
        lists: dict[str, list[Any]] = json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise DatasetError(f"@{text}: {path} does not exist") from error
    if key not in lists:
        raise DatasetError(f"@{text}: {path} has no list {key!r}, but {', '.join(lists)}")
    return lists[key]

"""What a server has acknowledged, a line each, so that no image is sent twice."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.client import GalleryInfo
from scripts.ingest.images import Image


@dataclass(frozen=True)
class Sent:
    """An image as it was when it was sent: its file's size and time, and a hash of all that was said beside it."""

    id: str
    size: int
    mtime_ns: int
    said: str


def as_sent(image: Image, options: Mapping[str, Any]) -> Sent:
    """An image as it is now.

    Raises:
        OSError: where the file is not there.
    """
    file = image.path.stat()
    said = hashlib.sha256(json.dumps([image.payload, options], sort_keys=True).encode()).hexdigest()[:16]
    return Sent(image.id, file.st_size, file.st_mtime_ns, said)


def journal_path(source: Path, url: str, about: GalleryInfo) -> Path:
    """Beside the folder or CSV, another for each server and bundle."""
    owner = hashlib.sha256(f"{url.rstrip('/')} {about.bundle_hash}".encode()).hexdigest()[:8]
    place = source.resolve()
    return place.with_name(f"{place.name}.{owner}.added.jsonl")


class Journal:
    """A file of acknowledged images, on disk before `add` returns; its last line may be cut off by a death.

    Raises:
        OSError: by every method, where the file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("a+b")
        self._file.seek(0)
        text = self._file.read()
        self._known = {sent.id: sent for sent in map(_read, text.split(b"\n")) if sent is not None}
        if text and not text.endswith(b"\n"):
            self._file.write(b"\n")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, sent: Sent) -> bool:
        return self._known.get(sent.id) == sent

    def forget(self) -> None:
        """Begin again."""
        self._file.truncate(0)
        self._known = {}

    def add(self, acknowledged: Iterable[Sent]) -> None:
        """Note these."""
        lines = [json.dumps(sent.__dict__) + "\n" for sent in acknowledged]
        self._file.write("".join(lines).encode())
        self._file.flush()
        os.fsync(self._file.fileno())


def _read(line: bytes) -> Sent | None:
    try:
        return Sent(**json.loads(line))
    except (ValueError, TypeError):
        return None

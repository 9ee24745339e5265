"""What has been measured so far, a file per unit, so that a run that was ended goes on where it was."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ABOUT = "about.json"
CACHE = "cache"  # of the servers that are measured: it lies in the same folder


class Store:
    """Results by key, such as `round-0/resnet50/mosec`, in a folder of runs that measure the same."""

    def __init__(self, folder: Path, about: Mapping[str, Any], fresh: bool = False, again: Sequence[str] = ()) -> None:
        """Open the folder; what was made for something else than `about` is not mixed with it.

        With `again`, units of these names are dropped and the others kept, though they were measured with other code:
        each remembers the `sources` it was measured with.

        Raises:
            SystemExit: where the folder is of another run, and neither `fresh` nor `again` says what to do with it.
        """
        self.folder = folder
        self._sources = about.get("sources")
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        path = folder / ABOUT
        found = json.loads(path.read_text()) if path.is_file() else None
        if again and found is not None:
            found = {**found, "sources": self._sources}
        if found is not None and found != json.loads(json.dumps(about)):
            sys.exit(f"{folder} holds a run of other code, pins, models or durations: --fresh drops it")
        for key in self.all():
            if not set(again).isdisjoint(key.split("/")):
                self._path(key).unlink()
        _write(path, about)

    def get(self, key: str) -> dict[str, Any] | None:
        """What was kept under the key, if anything."""
        path = self._path(key)
        if not path.is_file():
            return None
        result: dict[str, Any] = json.loads(path.read_text())
        return result

    def put(self, key: str, result: Mapping[str, Any]) -> None:
        """Keep a result, with what it was measured with."""
        _write(self._path(key), {**result, "sources": self._sources})

    def all(self) -> dict[str, dict[str, Any]]:
        """Everything that was kept, by key."""
        paths = {
            str(path.relative_to(self.folder).with_suffix("")): path for path in sorted(self.folder.rglob("*.json"))
        }
        units = {key: path for key, path in paths.items() if path.name != ABOUT and not key.startswith(f"{CACHE}/")}
        return {key: json.loads(path.read_text()) for key, path in units.items()}

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)

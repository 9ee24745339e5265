"""Parts of a long run, kept on disk as they are done, so that a killed run goes on where it was."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long.

    Args:
        rows: of the gallery that overhead, writes and peers are measured on.
        dimension: of its vectors.
        queries: how many different ones.
        seconds: of each round of searches.
        rounds: of each comparison.
        beside_s: seconds of searches with writes beside them.
        concurrencies: requests under way, without a filter.
        sizes: rows of the smaller galleries.
    """

    rows: int = 100_000
    dimension: int = 512
    queries: int = 1000
    seconds: float = 6.0
    rounds: int = 3
    beside_s: float = 90.0
    concurrencies: tuple[int, ...] = (1, 4, 16)
    sizes: tuple[int, ...] = (1000, 10_000)


SMOKE = Plan(
    rows=21_000, dimension=64, queries=200, seconds=0.5, rounds=2, beside_s=8.0, concurrencies=(1, 4), sizes=(1000,)
)


class Parts:
    """Results by name in a folder that belongs to one plan."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        digest = hashlib.sha256(json.dumps(asdict(plan), sort_keys=True).encode()).hexdigest()[:8]
        self._folder = folder / f"parts-{digest}"

    def forget(self) -> None:
        """Drop all that was measured; galleries stay."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def has(self, name: str) -> bool:
        """Whether that part is done."""
        return self._path(name).exists()

    def keep(self, name: str, measure: Callable[[], Any]) -> Any:
        """The part's result as JSON gives it back, measured now if it is not there yet, with when it was measured."""
        path = self._path(name)
        if not path.exists():
            print(f"measuring {name}", file=sys.stderr, flush=True)
            result = {"measured": datetime.now(UTC).isoformat(timespec="seconds"), **measure()}
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(result))
            partial.replace(path)
        return json.loads(path.read_text())

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"

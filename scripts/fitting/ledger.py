"""Which stages of a run are finished, so that the next call of the same command does only the others."""

import itertools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.common import log_to_stderr, write_json


@dataclass(frozen=True)
class Stage:
    """A step of a run: `run(arguments)` makes `out`, if it makes anything; `shown` is how the log writes it."""

    name: str
    run: Callable[[Sequence[str]], None]
    arguments: tuple[str, ...]
    out: Path | None = None
    shown: str = ""

    def finished(self, record: Mapping[str, Any]) -> bool:
        """Whether a record is of this very stage, and what it made is there."""
        same = (record["name"], record["arguments"]) == (self.name, list(self.arguments))
        return same and (self.out is None or self.out.exists())


def run_stages(stages: Sequence[Stage], path: Path, given: Mapping[str, str]) -> None:
    """Run the first stage that the ledger at `path` does not know as finished, and all that come after it.

    `given` are SHA-256 sums of the files that the run starts from: with others, nothing is finished.
    """
    ledger = read_json(path)
    known = ledger["stages"] if ledger.get("given") == dict(given) else []
    pairs = itertools.takewhile(lambda pair: pair[0].finished(pair[1]), zip(stages, known, strict=False))
    records = [record for _, record in pairs]
    for number, stage in enumerate(stages, 1):
        done = number <= len(records)
        log_to_stderr().info("== %d/%d %s: %s", number, len(stages), stage.name, "done before" if done else stage.shown)
        if not done:
            records.append(_timed(stage))
            write_json(path, {"given": dict(given), "stages": records})


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file, nothing where there is none."""
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return content


def _timed(stage: Stage) -> dict[str, Any]:
    started = time.perf_counter()
    stage.run(stage.arguments)
    seconds = round(time.perf_counter() - started, 1)
    return {"name": stage.name, "arguments": list(stage.arguments), "seconds": seconds}

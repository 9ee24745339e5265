"""Memory granted, against what each worker takes: measured on this process, which has opened the same."""

from collections.abc import Iterator
from typing import Final

from service.checks.findings import Finding, Kind
from service.checks.situation import Situation
from service.memory import granted_bytes, peak_bytes
from service.settings import MIB

SERVING: Final = (
    48 * MIB
)  # more that a worker takes than this process: a server of the default bundle had 287, this 243
COMFORT: Final = 1.5  # times what workers take at rest, for images being decoded and searches


def check(situation: Situation) -> Iterator[Finding]:
    """Whether all workers fit; to be asked last, when everything has been opened once."""
    yield compare(situation.settings.workers, peak_bytes() + SERVING, granted_bytes())


def compare(workers: int, each: int, granted: int) -> Finding:
    """What so many workers, each of so many bytes, are in the memory granted."""
    needed = workers * each
    kind = Kind.MEMORY_ENOUGH if COMFORT * needed <= granted else Kind.MEMORY_TIGHT
    if needed > granted:
        kind = Kind.MEMORY_SHORT
    return Finding(
        kind,
        f"{workers} worker(s) take about {needed // MIB} MiB once loaded, and {granted // MIB} MiB are granted",
    )

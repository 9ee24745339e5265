"""How far long work has come, on stderr: one line that changes on a terminal, a line every few seconds elsewhere."""

import sys
import time
from typing import Final, TextIO

TERMINAL_S: Final = 0.2
ELSEWHERE_S: Final = 5.0


class Progress:
    """Counts what is done and says so; the last line comes at the end of the block.

    Args:
        what: of what the work is, and what is counted, in the plural: "exported", "items".
        unit: as above.
        total: how much there is, where that is known.
        done: how much of it earlier runs did.
    """

    def __init__(self, what: str, unit: str, total: int | None, done: int = 0, stream: TextIO | None = None) -> None:
        self._what, self._unit, self._total = what, unit, total
        self._done = self._before = done
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._began = self._said = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._say("\n")

    def advance(self, count: int) -> None:
        """Count some more."""
        self._done += count
        if time.monotonic() - self._said >= (TERMINAL_S if self._terminal else ELSEWHERE_S):
            self._said = time.monotonic()
            self._say("" if self._terminal else "\n")

    def line(self) -> str:
        """Where it stands."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        rate = (self._done - self._before) / seconds
        of = "" if self._total is None else f" of {self._total:,}"
        left = 0 if self._total is None else self._total - self._done
        ends = f", {_duration(left / rate)} left" if left > 0 and rate > 0 else ""
        return f"{self._what} {self._done:,}{of} {self._unit}, {rate:,.0f}/s{ends}"

    def _say(self, end: str) -> None:
        start = "\r\x1b[K" if self._terminal else ""
        self._stream.write(f"{start}{self.line()}{end}")
        self._stream.flush()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"

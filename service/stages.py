"""What a request spends its time on, noted stage by stage where somebody traces it."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Stage:
    """A stretch of a request's time, in seconds of `time.perf_counter`."""

    name: str
    started: float
    ended: float
    attributes: Mapping[str, int]


@dataclass(frozen=True)
class Answered:
    """A request that was answered: from when to when, in seconds of `time.perf_counter`, with what, and for whom."""

    name: str
    attributes: Mapping[str, str | int]
    error: str | None  # what kind of error the answer was
    failed: bool  # by the server's fault
    started: float
    ended: float
    stages: Sequence[Stage]


NOTED: Final[ContextVar[list[Stage] | None]] = ContextVar("candor_stages", default=None)
"""The stages of the request that the running task answers, or helps to; None where nobody traces it."""


def note_stage(name: str, started: float, ended: float, **attributes: int) -> None:
    """Note a stage of the request now being answered, which costs next to nothing where it is not traced."""
    noted = NOTED.get()
    if noted is not None:
        noted.append(Stage(name, started, ended, attributes))

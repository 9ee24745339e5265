"""How often a request is made: steps that whoever has a connection takes, with or without threads or an event loop."""

import itertools
import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from scripts.client.errors import ApiError, ServerError, Unreachable
from scripts.client.wire import Answer, Call, Request, refusal

Value = TypeVar("Value")

BUSY: Final = (429, 503)  # nothing was done, or it may be done again
GATEWAY: Final = (502,)  # of a proxy, which does not know what was done
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0
LEAST_WAIT_S: Final = 0.1


@dataclass(frozen=True)
class Patience:
    """At most so many retries, None for any number; none begins later than `total_s` after the first try."""

    retries: int | None = 5
    total_s: float = 120.0


@dataclass(frozen=True)
class Send:
    """Make a request, and reply with its answer, or with how it failed; silence is not to last longer than that."""

    request: Request
    timeout_s: float


@dataclass(frozen=True)
class Wait:
    """Let that much time pass, and reply with None."""

    seconds: float


Reply: TypeAlias = Answer | Unreachable | None
Steps: TypeAlias = Generator[Send | Wait, Reply, Value]


def attempts(call: Call[Value], patience: Patience, now: Callable[[], float] = time.monotonic) -> Steps[Value]:
    """The steps to the value of a call.

    Tried again: where the server is busy (429, 503), no sooner than its `Retry-After` says; and, where that does no
    harm, after a failed connection and a gateway's 502, after waits that double.

    Raises:
        ServerError: that of the last try.
    """
    began = now()
    for tried in itertools.count():
        outcome = yield Send(call.request, patience.total_s - (now() - began))
        if isinstance(outcome, Answer) and outcome.status < 400:
            return call.understood(outcome)
        error = refusal(call.request, outcome) if isinstance(outcome, Answer) else outcome
        assert error is not None, "a request is replied to"
        wait_s = _wait_s(error, tried)
        late = now() - began + wait_s >= patience.total_s
        if late or tried == patience.retries or not _worth_another(error, call.repeatable):
            raise error
        yield Wait(wait_s)
    raise AssertionError("unreachable")


def readiness() -> Steps[bool]:
    """The steps to whether a server takes requests now, asked once.

    Raises:
        ServerError: where nobody answers, or something else does.
    """
    try:
        return (yield from attempts(Call(Request("GET", "/readyz"), lambda answer: True), Patience(retries=0)))
    except ApiError as error:
        if error.status != 503:
            raise
        return False


def _worth_another(error: ServerError, repeatable: bool) -> bool:
    if isinstance(error, ApiError):
        return error.status in BUSY or (repeatable and error.status in GATEWAY)
    return repeatable


def _wait_s(error: ServerError, tried: int) -> float:
    """A little more than asked for, or a part of a wait that doubles: those who wait do not all come back at once."""
    if isinstance(error, ApiError) and error.retry_after_s is not None:
        return max(error.retry_after_s, LEAST_WAIT_S) * random.uniform(1.0, 1.25)
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(tried, 16)) * random.uniform(0.5, 1.0)

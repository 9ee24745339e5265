"""Trying again what another process's write got in the way of."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

TRIES: Final = 8
WAIT_S: Final = 0.02
CONFLICT_WORDS: Final = (
    "conflict",
    "concurrent",
    "contention",
    "manifest was not found",  # of the version that a write began with: upkeep has deleted it since
)

Result = TypeVar("Result")


async def retrying(action: Callable[[], Awaitable[Result]], words: Sequence[str] = CONFLICT_WORDS) -> Result:
    """Run an action again while its error has one of `words`: by default, while another's commit gets in its way."""
    for attempt in range(TRIES - 1):
        try:
            return await action()
        except (OSError, RuntimeError, ValueError) as error:
            if not any(word in str(error).lower() for word in words):
                raise
            await asyncio.sleep(WAIT_S * 2**attempt * (0.5 + random.random()))
    return await action()

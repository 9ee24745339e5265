"""Waiting for what another task or thread is about to do."""

import asyncio
from collections.abc import Callable

STEP_S = 0.002
STEPS = 30_000  # a hang fails the test rather than the run; never a measure of speed


async def until(condition: Callable[[], bool]) -> None:
    """Return once the condition holds."""
    for _ in range(STEPS):
        if condition():
            return
        await asyncio.sleep(STEP_S)
    raise AssertionError("what the test waits for does not come")

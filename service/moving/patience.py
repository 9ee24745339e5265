"""Waiting for an engine that is not there just now."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from service.gallery.base import GalleryUnavailable

WAITS_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


async def patiently(action: Callable[[], Awaitable[Result]]) -> Result:
    """Run an action that may be run twice, again while its engine is unavailable: for about a minute."""
    for wait_s in WAITS_S:
        try:
            return await action()
        except GalleryUnavailable as error:
            logger.warning("trying again in %g s: %s", wait_s, error)
            await asyncio.sleep(wait_s)
    return await action()

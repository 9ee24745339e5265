"""LanceDB's errors as the gallery's: told in short, and whether another try may succeed."""

import functools
import re
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, ParamSpec, TypeVar

from service.gallery.base import GalleryError, GalleryUnavailable

RAISED: Final = (OSError, RuntimeError, ValueError)
LONGEST: Final = 300
PLAIN_HTTP: Final = "BadScheme"
UNREACHABLE: Final = re.compile(r"Http\(HttpError|HTTP error|status: (5\d\d|429)\b|after [1-9]\d* retries")
CAUSE: Final = re.compile(r"inner: (.*?)(, location: Location|$)", re.DOTALL)  # among how it came to the store's client
REFUSED: Final = re.compile(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", re.DOTALL)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def failure(error: Exception, doing: str = "") -> GalleryError:
    """The error to raise in place of one of `RAISED`; `doing` is what failed, for people."""
    later = UNREACHABLE.search(str(error)) and PLAIN_HTTP not in str(error)
    kind = GalleryUnavailable if later else GalleryError
    return kind(f"{doing}{': ' if doing else ''}{in_short(str(error))}")


def in_short(text: str) -> str:
    """What an object store said, or else the beginning of a message."""
    if said := REFUSED.search(text):
        return f"{said[1]}: {said[2]}"
    if PLAIN_HTTP in text:
        return 'an endpoint at http:// needs "allow_http": "true"'
    cause = CAUSE.search(text)
    text = cause[1] if cause else text
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def told(
    method: Callable[Arguments, Awaitable[Result]],
) -> Callable[Arguments, Coroutine[Any, Any, Result]]:
    """A coroutine function that raises `failure` in place of the engine's errors."""

    @functools.wraps(method)
    async def wrapped(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return await method(*args, **kwargs)
        except RAISED as error:
            raise failure(error) from error

    return wrapped

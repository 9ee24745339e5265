"""An HTTP/1.1 client light enough to share two cores with the server it drives.

Requests are bytes made beforehand, connections are kept alive, and answers must state their length: a general client
may take more CPU per request than the server does, and would then be what is measured.
"""

import asyncio
import re
import resource
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import uvloop

Result = TypeVar("Result")

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body; where the length is not stated, `complete` is False and the body is what came with the head."""

    status: int
    body: bytes
    complete: bool = True


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self.closed = False
        self._lost = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[Answer] | None = None
        self._body_starts = self._ends = 0

    async def exchange(self, request: bytes) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            ConnectionError: where the server closes the connection before it has answered.
        """
        if self._transport is None or self.closed:
            raise ConnectionResetError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._received.clear()
        self._body_starts = self._ends = 0
        self._transport.write(request)
        return await self._answer

    async def close(self) -> None:
        """Close at once, whatever is under way, and wait until that is done."""
        if self._transport is not None:
            self._transport.abort()
            await self._lost.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the event loop."""
        self.closed = True
        self._lost.set()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError(f"closed before an answer: {exc or 'end of stream'}"))

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._received += data
        if not self._ends and not self._read_head():
            return
        if len(self._received) >= self._ends and self._answer is not None and not self._answer.done():
            self._answer.set_result(Answer(self._status(), bytes(self._received[self._body_starts : self._ends])))

    def _read_head(self) -> bool:
        """Whether the head is there, and says how long the body is."""
        end = self._received.find(HEAD_END)
        if end < 0:
            return False
        self._body_starts = end + len(HEAD_END)
        length = CONTENT_LENGTH.search(self._received, 0, self._body_starts)
        if length is None:
            if self._answer is not None and not self._answer.done():
                body = bytes(self._received[self._body_starts :])
                self._answer.set_result(Answer(self._status(), body, complete=False))
            self.closed = True
            return False
        self._ends = self._body_starts + int(length[1])
        return True

    def _status(self) -> int:
        return int(self._received.split(maxsplit=2)[1])


async def connect(url: str) -> Connection:
    """A connection to the host and port of a URL.

    Raises:
        OSError: where there is none to be had.
    """
    address = urlsplit(url)
    host, port = address.hostname or "", address.port or 80
    _, connection = await asyncio.get_running_loop().create_connection(Connection, host, port)
    return connection


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine on the event loop that takes least CPU, with as many connections as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)

"""Clients light enough to share two cores with the server they drive; each runs in a process of its own.

Requests are bytes made beforehand and sent over plain sockets that stay open; answers are read after the clock stops.
"""

import itertools
import re
import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

PATIENCE_S = 120.0  # until an answer is given up
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
HEAD_END = b"\r\n\r\n"
OK = 200
RECEIVE = 1 << 18


class ClientError(Exception):
    """An answer other than 200, or none: figures of such a load would mislead."""


@dataclass(frozen=True)
class Answers:
    """Latencies in seconds, first byte sent to last received, and the last body that each request got, by position."""

    latencies_s: list[float]
    bodies: dict[int, bytes]


@dataclass(frozen=True)
class Probes:
    """A probe's answers: latencies in seconds as `probe` counts them, and how late its own process was to send."""

    latencies_s: list[float]
    late_s: list[float]


@dataclass(frozen=True)
class Sent:
    """What became of requests sent at a pace: latencies in seconds of those answered 200, and counts by other status.

    A request that is not answered 200 has waited that long all the same: `refused_s` are the seconds of these.
    """

    latencies_s: list[float]
    refused_s: list[float]
    refused: dict[str, int]


class _Connection:
    """One connection with at most one request under way."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self.socket = socket.create_connection((address.hostname or "", address.port or 80), timeout=PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.position = 0
        self.started = 0.0
        self.status = 0
        self._received = b""
        self._needed: int | None = None

    def send(self, request: bytes, position: int = 0) -> None:
        """Begin an exchange."""
        self.position, self._received, self._needed = position, b"", None
        self.started = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bytes | None:
        """Read what is there; the body once it is complete, and with it `status`.

        Raises:
            ClientError: for an answer of unknown length, or none.
        """
        try:
            part = self.socket.recv(RECEIVE)
        except OSError as error:
            raise ClientError(f"the server has stopped answering: {error}") from error
        if not part:
            raise ClientError("the server closed a connection before it had answered")
        self._received += part
        if self._needed is None:
            self._needed = _full_length(self._received)
        if self._needed is None or len(self._received) < self._needed:
            return None
        head, _, body = self._received.partition(HEAD_END)
        self.status = int(head.split(maxsplit=2)[1])
        return body

    def receive_ok(self) -> bytes | None:
        """`receive` where anything but 200 would make the figures void.

        Raises:
            ClientError: as `receive`, and for another status.
        """
        body = self.receive()
        if body is not None and self.status != OK:
            raise ClientError(f"not an answer of 200: {self._received[:500]!r}")
        return body

    def close(self) -> None:
        """Let go of the socket."""
        self.socket.close()

    def exchange(self, request: bytes) -> bytes:
        """Send and wait; the body."""
        self.send(request)
        while (body := self.receive()) is None:
            pass
        return body

    def exchange_ok(self, request: bytes) -> None:
        """Send and wait for 200.

        Raises:
            ClientError: as `receive_ok`.
        """
        self.send(request)
        while self.receive_ok() is None:
            pass


def _full_length(received: bytes) -> int | None:
    """Bytes of the whole answer, once its head is there."""
    end = received.find(HEAD_END)
    if end < 0:
        return None
    length = CONTENT_LENGTH.search(received[: end + 2])
    if length is None:
        raise ClientError(f"not an answer of known length: {received[:500]!r}")
    return end + len(HEAD_END) + int(length[1])


@dataclass(frozen=True)
class Until:
    """How long a client works: so many seconds, or less if a file of that name appears."""

    seconds: float
    stop: Path | None = None

    def over(self, elapsed_s: float) -> bool:
        """Whether to stop, that many seconds from the start."""
        return elapsed_s >= self.seconds or (self.stop is not None and self.stop.exists())


def closed_loop(url: str, requests: Sequence[bytes], concurrency: int, until: Until) -> Answers:
    """Keep `concurrency` requests under way, over and over in order; each is answered before the end.

    Raises:
        ClientError: at the first answer that is not 200, or where none comes for `PATIENCE_S`.
    """
    latencies: list[float] = []
    bodies: dict[int, bytes] = {}
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        connections = [stack.enter_context(closing(_Connection(url))) for _ in range(concurrency)]
        turns = itertools.cycle(range(len(requests)))
        for connection, position in zip(connections, turns, strict=False):
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(requests[position], position)
        under_way, started = concurrency, time.perf_counter()
        while under_way:
            for connection, body in _answered(selector):
                now = time.perf_counter()
                latencies.append(now - connection.started)
                bodies[connection.position] = body
                if until.over(now - started):
                    under_way -= 1
                    continue
                position = next(turns)
                connection.send(requests[position], position)
    return Answers(latencies, bodies)


def _answered(selector: selectors.BaseSelector) -> Iterator[tuple[_Connection, bytes]]:
    """Connections whose answers are complete now, each as soon as it has been read."""
    ready = selector.select(PATIENCE_S)
    if not ready:
        raise ClientError(f"no answer for {PATIENCE_S:g} s")
    for key, _ in ready:
        body = key.data.receive_ok()
        if body is not None:
            yield key.data, body


def probe(url: str, request: bytes, per_second: float, until: Until) -> Probes:
    """Ask one small thing at a steady rate: how long the server leaves everyone waiting.

    A tick that passes while an answer is awaited counts as asked at that tick and answered then, so that a pause
    weighs by its length. How late the system let this process send is given apart, and is in no latency.

    Raises:
        ClientError: as `closed_loop`.
    """
    latencies: list[float] = []
    late: list[float] = []
    step = 1.0 / per_second
    with closing(_Connection(url)) as connection:
        connection.exchange_ok(request)
        started = tick = time.perf_counter()
        while not until.over(tick - started):
            time.sleep(max(0.0, tick - time.perf_counter()))
            late.append(time.perf_counter() - tick)
            connection.exchange_ok(request)
            now = time.perf_counter()
            latencies.append(now - connection.started)
            tick += step
            while tick < now:
                latencies.append(now - tick)
                tick += step
    return Probes(latencies, late)


def paced(url: str, requests: Sequence[bytes], per_second: float, until: Until) -> Sent:
    """Send requests, over and over in order, so many a second or as fast as they are answered.

    Raises:
        ClientError: where no answer comes.
    """
    latencies: list[float] = []
    refused: list[float] = []
    statuses: Counter[str] = Counter()
    with closing(_Connection(url)) as connection:
        started = time.perf_counter()
        for number in itertools.count():
            if until.over(max(time.perf_counter() - started, number / per_second)):
                break
            time.sleep(max(0.0, started + number / per_second - time.perf_counter()))
            connection.exchange(requests[number % len(requests)])
            waited = time.perf_counter() - connection.started
            if connection.status == OK:
                latencies.append(waited)
            else:
                refused.append(waited)
                statuses[str(connection.status)] += 1
    return Sent(latencies, refused, dict(statuses))

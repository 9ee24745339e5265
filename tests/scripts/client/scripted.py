"""A server of real sockets that says what it is told to, and remembers what it was asked."""

import json
import socket
import ssl
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Said:
    """An answer; `cut` ends the connection in its place, before the request's body is read to its end or after."""

    status: int = 200
    content: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False


@dataclass(frozen=True)
class Heard:
    """A request."""

    line: str
    headers: Mapping[str, str]
    body: bytes


def busy(retry_after: str | None = None, status: int = 429) -> Said:
    """A refusal such as candor's."""
    problem = {"type": "overloaded", "title": "The queue is full", "status": status, "detail": "come back later"}
    return Said(status, problem, {"X-Request-ID": "r1", **({"Retry-After": retry_after} if retry_after else {})})


CUT = Said(cut=True)
EMBEDDED = Said(
    content={
        "bundle": "b",
        "bundle_hash": "sha256:b",
        "results": [
            {
                "status": "ok",
                "embedding": "AACAPwAAAAA=",
                "uncertainty": 0.5,
                "percentile": 0.25,
                "novelty": 1.0,
                "novelty_percentile": 0.75,
                "abstained": False,
            }
        ],
    }
)


class Scripted:
    """Says the next of `script` to each request, and the last of them from then on."""

    def __init__(self, script: Sequence[Said], context: ssl.SSLContext | None) -> None:
        self.heard: list[Heard] = []
        self._script = list(script)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self._server.server_address[1]}"

    def next(self, heard: Heard) -> Said:
        with self._lock:
            self.heard.append(heard)
            return self._script.pop(0) if len(self._script) > 1 else self._script[0]

    def run(self) -> None:
        self._server.serve_forever(poll_interval=0.01)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                said = scripted.next(Heard(self.requestline.rpartition(" ")[0], headers, body))
                if said.cut:
                    self.close_connection = True
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                content = said.content if isinstance(said.content, bytes) else json.dumps(said.content).encode()
                self.send_response(said.status)
                for name, value in {**said.headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_DELETE = answer

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@contextmanager
def scripted(*script: Said, context: ssl.SSLContext | None = None) -> Iterator[Scripted]:
    """A server that says these, one a request."""
    server = Scripted(script, context)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()

"""A client to a running candor server, of the standard library alone."""

import contextlib
import http.client
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from models.errors import UserError

TIMEOUT_S: Final = 60.0


class NoAnswer(UserError):
    """Nobody answers at that address, or the connection broke off; a request may have had its effect."""


@dataclass(frozen=True)
class Answer:
    """What a server said, whatever its status; names of headers in small letters."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def problem(self) -> tuple[str, str]:
        """Type and detail of an error."""
        try:
            content = json.loads(self.body)
            return str(content["type"]), str(content["detail"])
        except (ValueError, KeyError, TypeError):
            return f"http_{self.status}", self.body[:200].decode(errors="replace")


class Server:
    """A candor server; each thread has a connection of its own, closed at the end of the block.

    Raises:
        NoAnswer: by every method, where the server cannot be reached.
        UserError: by all but `request`, where it refuses; the message says what it said.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        self._address = urlsplit(url)
        if self._address.scheme not in ("http", "https") or not self._address.hostname:
            raise UserError(f"--server: {url!r} is no http or https URL")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._own = threading.local()
        self._opened: list[http.client.HTTPConnection] = []

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._opened:
            connection.close()

    @property
    def url(self) -> str:
        """The address, as given."""
        return self._address.geturl()

    def get(self, path: str) -> Any:
        """The JSON behind a path."""
        return self.ask("GET", path, None, None)

    def post(self, path: str, content: Any) -> Any:
        """The JSON answer to JSON."""
        return self.ask("POST", path, json.dumps(content).encode(), "application/json")

    def ask(self, method: str, path: str, body: bytes | None, content_type: str | None) -> Any:
        """The JSON answer to a body."""
        answer = self.request(method, path, body, content_type)
        if answer.status >= 400:
            raise UserError(f"{method} {path} was answered {answer.status}: {answer.problem[1]}")
        return json.loads(answer.body)

    def request(self, method: str, path: str, body: bytes | None, content_type: str | None) -> Answer:
        """The answer of any status."""
        headers = {**self._headers, **({"Content-Type": content_type} if content_type else {})}
        for last_try in (False, True):
            connection = self._connection()
            try:
                return self._exchange(connection, method, self._address.path.rstrip("/") + path, body, headers)
            except (OSError, http.client.HTTPException) as error:  # a kept connection may have been closed meanwhile
                connection.close()
                if last_try:
                    raise NoAnswer(f"no answer from {self.url}: {error}") from error
        raise AssertionError("unreachable")

    def _exchange(
        self,
        connection: http.client.HTTPConnection,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> Answer:
        # A server may refuse a body before all of it was sent, and close the connection: its answer is there to read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, dict(headers))
        response = connection.getresponse()
        return Answer(response.status, response.read(), {name.lower(): value for name, value in response.getheaders()})

    def _connection(self) -> http.client.HTTPConnection:
        if not hasattr(self._own, "connection"):
            kind = http.client.HTTPSConnection if self._address.scheme == "https" else http.client.HTTPConnection
            self._own.connection = kind(self._address.hostname or "", self._address.port, timeout=TIMEOUT_S)
            self._opened.append(self._own.connection)
        connection: http.client.HTTPConnection = self._own.connection
        return connection

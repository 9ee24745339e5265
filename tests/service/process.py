"""A real server process: started, asked, killed."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from httpx2 import Client

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 120.0  # a hang fails the test rather than the run; never a measure of speed


class Server:
    """`python -m service.main`, whose log lines are read as they come."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        self.lines: list[str] = []
        self._news = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service.main", *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "CANDOR_PORT": "0", "CANDOR_LOG_FORMAT": "json", **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                with self._news:
                    self.lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def event(self, name: str) -> dict[str, Any]:
        """The first log line of that event, waited for."""

        def find() -> dict[str, Any] | None:
            return next(iter(self.logged(name)), None)

        with self._news:
            found = self._news.wait_for(lambda: find() or not self._reader.is_alive(), PATIENCE_S) and find()
        assert found, f"no {name!r} in the log:\n{self.errors}"
        return found

    def logged(self, name: str) -> list[dict[str, Any]]:
        """The log lines of that event so far."""
        parsed = (json.loads(line) for line in self.lines if line.startswith("{"))
        return [line for line in parsed if line["event"] == name]

    @property
    def url(self) -> str:
        url: str = self.event("listening")["url"]
        return url

    @property
    def errors(self) -> str:
        """Everything written to stderr so far."""
        return "".join(self.lines)

    def wait(self) -> int:
        """The exit code."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL: nothing is finished, nothing is flushed."""
        self.process.kill()
        self.wait()


@contextmanager
def serving(bundle: Path | str, gallery: Path | str, *arguments: str, **environment: str) -> Iterator[Server]:
    """A server that is killed at the end if it still runs."""
    settings = {"CANDOR_BUNDLE": str(bundle), "CANDOR_GALLERY": str(gallery), "CANDOR_DEVICE": "cpu", **environment}
    server = Server(list(arguments), settings)
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def ready_client(server: Server) -> Iterator[Client]:
    """A client to a server that has loaded."""
    server.event("ready")
    with Client(base_url=server.url, timeout=PATIENCE_S) as client:
        yield client

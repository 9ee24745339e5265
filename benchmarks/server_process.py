"""A server in a process of its own: started on a free port, waited for, stopped as an operator would."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.cpu_time import family
from service.settings import read_settings, variable

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE_S = 120.0  # for the server to become ready, and to leave
TAIL_LINES = 20
CANDOR = (sys.executable, "-m", "service.main")


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    url: str
    pid: int


@contextmanager
def launched(command: Sequence[str], environment: Mapping[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process in the repository's folder, its output in the log; what is left of it and its children is killed."""
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=output, stderr=output, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            for pid in family(process.pid):  # some servers start workers in sessions of their own
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def serving(overrides: Mapping[str, object], folder: Path) -> Iterator[Server]:
    """Candor in a process of its own on a free port of this machine, with its log in the folder; SIGTERM at the end.

    Raises:
        RuntimeError: where it does not become ready, or does not leave with 0.
    """
    log = folder / "server.log"
    with launched(CANDOR, candor_environment(overrides), log) as process:
        yield Server(_wait_until_ready(process, log), process.pid)
        process.send_signal(signal.SIGTERM)
        if process.wait(read_settings(overrides).drain_timeout_s + PATIENCE_S):
            raise RuntimeError(f"the server left with {process.returncode}:\n{tail(log)}")


def candor_environment(overrides: Mapping[str, object]) -> dict[str, str]:
    """This process's environment, with candor's settings: on loopback, a free port and JSON logs unless overridden."""
    own = {"host": "127.0.0.1", "port": 0, "log_format": "json", **overrides}
    return os.environ | {variable(name): "" if value is None else str(value) for name, value in own.items()}


def free_port() -> int:
    """A port of this machine that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def tail(log: Path) -> str:
    """The log's last lines."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-TAIL_LINES:])


def images_answered(server: Server) -> int:
    """How many images candor itself says it has embedded."""
    lines = _get(server.url, "/metrics")[1].splitlines()
    counts = [line.split()[-1] for line in lines if line.startswith("candor_images_total{") and 'outcome="ok"' in line]
    return sum(int(float(count)) for count in counts)


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    """The server's URL, once it answers /readyz with 200."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and process.poll() is None:
        url = _listening(log)
        if url and _get(url, "/readyz")[0] == HTTPStatus.OK:
            return url
        time.sleep(0.05)
    raise RuntimeError(f"the server is not ready:\n{tail(log)}")


def _listening(log: Path) -> str | None:
    """The URL that the server's log names, once it does."""
    complete = (line for line in log.read_text().splitlines(keepends=True) if line.startswith("{") and line[-1] == "\n")
    events = (json.loads(line) for line in complete)
    return next((event["url"] for event in events if event["event"] == "listening"), None)


def _get(url: str, path: str) -> tuple[int, str]:
    """Status and text of an answer."""
    address = urlsplit(url)
    with closing(HTTPConnection(address.netloc, timeout=PATIENCE_S)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

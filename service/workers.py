"""Several serving processes on one port, and the one that looks after them.

Each worker listens by itself and the system spreads connections over them, so that one that dies takes only its own
connections along. The first worker answers, with 503, while it loads, as a lone server does; the others listen once
they have loaded. A worker that ends, or no longer says that it is well, is replaced.
"""

import contextlib
import os
import select
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Final

from prometheus_client.multiprocess import mark_process_dead

from service.errors import Problem
from service.lifecycle import Lifecycle
from service.providers import take_gpu
from service.server import CLOSE_S, listen, serve, url_of
from service.settings import Device, Settings
from service.telemetry import WORKERS_FOLDER, Logger, capture_library_logs, stderr_logger

REPORT_S: Final = 1.0  # between two reports of a worker that it is well
SILENCE_S: Final = 15.0  # without a report, after which a worker is replaced
STEADY_S: Final = 60.0  # a worker that lasted so long is replaced at once
MAX_DELAY_S: Final = 30.0  # before the next try where workers die young
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
LEAVE_S: Final = CLOSE_S + 10.0  # for workers to end beyond the time they have to drain


def reserve(host: str, port: int) -> socket.socket:
    """Hold a port for the workers, without listening on it.

    Raises:
        OSError: where the port is taken or the address is not of this machine.
    """
    with listen(host, port) as alone:  # sharing it would go unnoticed where another server shares it already
        port = alone.getsockname()[1]
    reserved = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind((host, port))
    return reserved


def supervise(settings: Settings, reserved: socket.socket, logger: Logger) -> int:
    """Run `settings.workers` workers to their end; the exit code."""
    with _metrics_folder() as folder, _signals() as signalled:
        return _Supervisor(settings, reserved.getsockname()[:2], logger, folder, signalled).run()


@dataclass
class _Worker:
    """A process, the end of its reports, and what they said."""

    number: int
    process: SpawnProcess
    reports: Connection
    started: float
    heard: float | None = None  # since it has loaded
    reload_due: bool = False  # once it has loaded, as what it loads may be from before


class _Supervisor:
    def __init__(
        self, settings: Settings, address: tuple[str, int], logger: Logger, folder: str, signalled: "_Signalled"
    ) -> None:
        self._settings = settings
        self._address = address
        self._logger = logger
        self._folder = folder
        self._signalled = signalled
        self._workers: dict[int, _Worker] = {}
        self._due: dict[int, float] = {}  # numbers of workers to start, and when
        self._delays: dict[int, float] = {}
        self._up = False  # the first worker has loaded once
        self._leave_by: float | None = None
        self._code = 0

    def run(self) -> int:
        self._start(0)
        while self._workers or (self._due and self._leave_by is None):
            self._wait()
            for number in self._signalled.take():
                if number == signal.SIGHUP:
                    self._pass_on_reload()
                else:
                    self._pass_on_signal()
            for worker in list(self._workers.values()):
                self._look_after(worker)
            self._start_due()
        self._logger.info("all workers have stopped", exit_code=self._code)
        return self._code

    def _wait(self) -> None:
        """Until a signal, a report, a death, or a second has passed."""
        ends = [end for worker in self._workers.values() for end in (worker.process.sentinel, worker.reports)]
        wait([self._signalled.socket, *ends], timeout=REPORT_S)

    def _start(self, number: int) -> None:
        context = get_context("spawn")
        reports, report = context.Pipe(duplex=False)
        arguments = (self._settings, number, self._address, report, self._up)
        process = context.Process(target=work, args=arguments, name=f"candor-worker-{number}")
        process.start()
        report.close()
        self._workers[number] = _Worker(number, process, reports, time.monotonic())

    def _start_due(self) -> None:
        now = time.monotonic()
        for number in [number for number, when in self._due.items() if when <= now]:
            del self._due[number]
            self._start(number)

    def _pass_on_signal(self) -> None:
        """The workers drain at the first signal and leave at once at the second."""
        if self._leave_by is None:
            self._leave_by = time.monotonic() + self._settings.drain_timeout_s + LEAVE_S
            self._due.clear()
        for worker in self._workers.values():
            worker.process.terminate()

    def _pass_on_reload(self) -> None:
        """Each worker reloads by itself, one that is not up yet once it is: before, the signal would end it."""
        for worker in self._workers.values():
            worker.reload_due = True

    def _look_after(self, worker: _Worker) -> None:
        self._hear(worker)
        now = time.monotonic()
        if not worker.process.is_alive():
            self._bury(worker)
        elif self._leave_by is not None:
            if now > self._leave_by:
                worker.process.kill()
        elif worker.heard is not None and now - worker.heard > SILENCE_S:
            self._logger.error("a worker is not well; replacing it", worker=worker.number, pid=worker.process.pid)
            worker.process.kill()
        elif worker.heard is not None and worker.reload_due and worker.process.pid is not None:
            worker.reload_due = False
            os.kill(worker.process.pid, signal.SIGHUP)

    def _hear(self, worker: _Worker) -> None:
        with contextlib.suppress(EOFError, OSError):
            while worker.reports.poll():
                worker.reports.recv_bytes()
                worker.heard = time.monotonic()
        if worker.heard is not None and not self._up:
            self._up = True
            self._due = dict.fromkeys(range(1, self._settings.workers), 0.0)
            url = url_of(self._settings.scheme, *self._address)
            self._logger.info("listening", url=url, pid=os.getpid(), workers=self._settings.workers)

    def _bury(self, worker: _Worker) -> None:
        """Take note of a worker's end, and replace it unless all are to leave."""
        code = worker.process.exitcode or 0
        del self._workers[worker.number]
        worker.reports.close()
        if worker.process.pid is not None:
            mark_process_dead(worker.process.pid, self._folder)  # type: ignore[no-untyped-call]
        if self._leave_by is not None or not self._up:
            self._code = max(self._code, int(code not in (0, -signal.SIGTERM)))
            return
        lasted = time.monotonic() - worker.started
        delay = 0.0 if lasted > STEADY_S else self._delays.get(worker.number, 0.0)
        self._delays[worker.number] = min(MAX_DELAY_S, max(1.0, 2 * delay))
        self._due[worker.number] = time.monotonic() + delay
        self._logger.error(
            "a worker has ended; starting another", worker=worker.number, exit_code=code, in_s=delay, lasted_s=lasted
        )


def work(settings: Settings, number: int, address: tuple[str, int], report: Connection, load_first: bool) -> None:
    """What a worker process runs; exits with the server's code."""
    os.setpgid(0, 0)  # the terminal's Ctrl-C reaches the supervisor alone, which passes it on
    if settings.device is not Device.CPU:
        take_gpu(number)
    logger = stderr_logger(settings).bind(worker=number)
    capture_library_logs(logger)
    listener = listen(*address, shared=True)
    ask_all = partial(os.kill, os.getppid(), signal.SIGHUP)
    raise SystemExit(serve(settings, listener, logger, load_first=load_first, tick=_reporting(report), ask_all=ask_all))


def _reporting(report: Connection) -> Callable[[Lifecycle], bool]:
    """A tick that tells the supervisor that this worker is well, and asks to leave where nobody listens any more."""
    last = 0.0

    def tick(lifecycle: Lifecycle) -> bool:
        nonlocal last
        now = time.monotonic()
        if lifecycle.services is None or now - last < REPORT_S:
            return True
        try:
            lifecycle.check_alive()
        except Problem:
            return True
        try:
            report.send_bytes(b"well")
        except OSError:
            return False
        last = now
        return True

    return tick


@contextmanager
def _metrics_folder() -> Iterator[str]:
    """A folder for the files of the workers' metrics, named in the environment that they inherit."""
    folder = tempfile.mkdtemp(prefix="candor-metrics-")
    os.environ[WORKERS_FOLDER] = folder
    try:
        yield folder
    finally:
        del os.environ[WORKERS_FOLDER]
        shutil.rmtree(folder, ignore_errors=True)


class _Signalled:
    """The signals that came in; its socket can be waited for."""

    def __init__(self, receiving: socket.socket) -> None:
        self.socket = receiving

    def take(self) -> bytes:
        """The numbers of those that came since the last call."""
        readable, _, _ = select.select([self.socket], [], [], 0)
        return self.socket.recv(64) if readable else b""


@contextmanager
def _signals() -> Iterator[_Signalled]:
    """SIGTERM, SIGINT and SIGHUP as something to wait for."""
    receiving, sending = socket.socketpair()
    sending.setblocking(False)
    before = {name: signal.signal(name, lambda *_: None) for name in SIGNALS}
    descriptor = signal.set_wakeup_fd(sending.fileno())
    try:
        yield _Signalled(receiving)
    finally:
        signal.set_wakeup_fd(descriptor)
        for name, handler in before.items():
            signal.signal(name, handler)
        receiving.close()
        sending.close()

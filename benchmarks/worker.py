"""A process of one's own for a piece of work, that never outlives who asked for it."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any, ParamSpec, TypeVar

Params = ParamSpec("Params")
Result = TypeVar("Result")


class WorkerDied(Exception):
    """The process `pid` ended before it had answered."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"process {pid} has ended")
        self.pid = pid


class Worker:
    """A process that takes one piece of work at a time."""

    def __init__(self, pid: int, connection: "Connection[Any, Any]") -> None:
        self.pid = pid
        self._connection = connection

    def call(self, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
        """What the function returns there.

        Raises:
            WorkerDied: where the process ends first.
            Exception: what the function raises.
        """
        try:
            self._connection.send((function, args, kwargs))
            succeeded, value = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise WorkerDied(self.pid) from error
        if not succeeded:
            raise value
        result: Result = value
        return result


@contextmanager
def worker() -> Iterator[Worker]:
    """A fresh process, killed at the end of the block, whatever it does; without its parent it ends by itself."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there,), daemon=True)
    process.start()
    there.close()  # so that the end of one process is the end of the other's pipe
    assert process.pid is not None
    try:
        yield Worker(process.pid, here)
    finally:
        process.kill()
        process.join()
        here.close()


def _work(connection: "Connection[Any, Any]") -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    while True:
        try:
            function, args, kwargs = connection.recv()
            outcome = (True, function(*args, **kwargs))
        except EOFError:
            return
        except Exception as error:
            outcome = (False, error)
        try:
            connection.send(outcome)
        except ConnectionError:
            return


def end_on_sigterm() -> None:
    """Make SIGTERM end this process as an exception does, so that what it has started is ended too."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)

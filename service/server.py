"""One serving process: uvicorn around the app, which on SIGTERM answers what was accepted before leaving."""

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Final

import uvicorn

from service.app import create_app
from service.lifecycle import Lifecycle
from service.reload import REFUSALS, Reloader
from service.settings import Settings
from service.telemetry import Logger, Metrics
from service.tls import Renewal, server_context

KEEP_ALIVE_S: Final = 75  # above the usual 60 s of load balancers, so that it is they who close idle connections
CLOSE_S: Final = 1  # for uvicorn to close connections once every request is answered
BACKLOG: Final = 2048
TICKS_PER_S: Final = 10

Tick = Callable[[Lifecycle], bool]
"""Called ten times a second while serving; False asks to drain and leave."""


def stay(lifecycle: Lifecycle) -> bool:
    """The tick of a process that no other looks after."""
    return True


class DrainingServer(uvicorn.Server):
    """A uvicorn server that goes on listening while it drains, and exits once every accepted request is answered."""

    def __init__(
        self,
        config: uvicorn.Config,
        lifecycle: Lifecycle,
        metrics: Metrics,
        drain_timeout_s: float,
        tick: Tick = stay,
        renewal: Renewal | None = None,
    ) -> None:
        super().__init__(config)
        self.cut_off = False
        self._lifecycle = lifecycle
        self._metrics = metrics
        self._drain_timeout_s = drain_timeout_s
        self._drain_ends: float | None = None
        self._tick = tick
        self._renewal = renewal

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, leave at once at the second."""
        if self._drain_ends is not None:
            self.cut_off = self.should_exit = self.force_exit = True
            return
        self._drain()

    async def on_tick(self, counter: int) -> bool:
        """Whether to leave; asked ten times a second."""
        self._lifecycle.publish(self._metrics)
        if self._renewal is not None and counter % TICKS_PER_S == 0:
            self._renewal.look()
        if not self._tick(self._lifecycle) and self._drain_ends is None:
            self._drain()
        if self._drain_ends is not None and self._lifecycle.in_flight == 0:
            return True
        if self._drain_ends is not None and time.monotonic() > self._drain_ends:
            self.cut_off = True
            return True
        return self._lifecycle.failure is not None or await super().on_tick(counter)

    def _drain(self) -> None:
        self._lifecycle.draining = True
        self._drain_ends = time.monotonic() + self._drain_timeout_s


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket, taken before anything is loaded; `shared`, one of several that the system spreads work over.

    Raises:
        OSError: where the port is taken or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG, reuse_port=shared)


def url_of(scheme: str, host: str, port: int) -> str:
    """The address as clients write it."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def serve(
    settings: Settings,
    listener: socket.socket,
    logger: Logger,
    *,
    load_first: bool = False,
    tick: Tick = stay,
    ask_all: Callable[[], None] | None = None,
) -> int:
    """Run one process to its end, answering 503 while it loads or, `load_first`, only once loaded; the exit code.

    SIGHUP makes it reload; `ask_all` does that to every worker, where there are several.
    """
    app = create_app(settings, logger=logger, load_first=load_first, ask_all=ask_all)
    lifecycle: Lifecycle = app.state.lifecycle
    context = server_context(settings)
    renewal = Renewal(settings, context, logger) if context else None
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here depends on who the client is
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CLOSE_S,
        ssl_context_factory=None if context is None else lambda config, default: context,
    )
    server = DrainingServer(config, lifecycle, app.state.metrics, settings.drain_timeout_s, tick, renewal)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_run(server, listener, app.state.reloader))
    if lifecycle.failure is not None:
        return _report(lifecycle.failure)
    logger.info("stopped", cut_off=server.cut_off)
    return 1 if server.cut_off else 0


async def _run(server: DrainingServer, listener: socket.socket, reloader: Reloader) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reloader.start)
    await server.serve(sockets=[listener])


def _report(failure: Exception) -> int:
    """Say why loading failed; refusals are for the operator, and need no traceback."""
    if isinstance(failure, REFUSALS):
        print(f"candor serve: {failure}", file=sys.stderr)
    return 1

"""`candor serve`: read the settings, listen, serve, and on SIGTERM answer what was accepted before leaving."""

import argparse
import asyncio
import os
import socket
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import uvicorn

from service.app import REFUSALS, create_app
from service.lifecycle import Lifecycle
from service.settings import Device, Settings, SettingsError, read_settings, unknown_variables
from service.telemetry import Logger, capture_library_logs, stderr_logger

KEEP_ALIVE_S = 75  # above the usual 60 s of load balancers, so that it is they who close idle connections
CLOSE_S = 1  # for uvicorn to close connections once every request is answered
BACKLOG = 2048


class DrainingServer(uvicorn.Server):
    """A uvicorn server that goes on listening while it drains, and exits once every accepted request is answered."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle, drain_timeout_s: float) -> None:
        super().__init__(config)
        self.cut_off = False
        self._lifecycle = lifecycle
        self._drain_timeout_s = drain_timeout_s
        self._drain_ends: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, leave at once at the second."""
        if self._drain_ends is not None:
            self.cut_off = self.should_exit = self.force_exit = True
            return
        self._lifecycle.draining = True
        self._drain_ends = time.monotonic() + self._drain_timeout_s

    async def on_tick(self, counter: int) -> bool:
        """Whether to leave; asked ten times a second."""
        if self._drain_ends is not None and self._lifecycle.in_flight == 0:
            return True
        if self._drain_ends is not None and time.monotonic() > self._drain_ends:
            self.cut_off = True
            return True
        return self._lifecycle.failure is not None or await super().on_tick(counter)


def main(argv: Sequence[str]) -> None:
    """Serve until a signal; exits with 0 after a clean drain, 1 on failure, 2 for settings that cannot be used."""
    try:
        settings = read_settings(parse_arguments(argv))
    except SettingsError as error:
        _leave(2, str(error))
    logger = stderr_logger(settings)
    capture_library_logs(logger)
    for name, nearest in unknown_variables(os.environ).items():
        logger.warning("unknown setting ignored", variable=name, nearest=nearest)
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        _leave(1, f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}")
    sys.exit(serve(settings, listener, logger))


def parse_arguments(argv: Sequence[str]) -> dict[str, object]:
    """Command-line options that were given, by the setting they stand for."""
    parser = argparse.ArgumentParser(
        prog="candor serve",
        description="Serve a bundle over HTTP. Every setting is a CANDOR_* variable (docs/settings.md); options win.",
    )
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", help="port to listen on")
    parser.add_argument("--bundle", help="bundle folder")
    parser.add_argument("--gallery", help="gallery folder or URL")
    parser.add_argument("--device", choices=[device.value for device in Device], help="where the graph runs")
    return {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, taken before anything is loaded.

    Raises:
        OSError: where the port is taken or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def serve(settings: Settings, listener: socket.socket, logger: Logger) -> int:
    """Run the server to its end; the exit code."""
    app = create_app(settings, logger=logger)
    lifecycle: Lifecycle = app.state.lifecycle
    config = uvicorn.Config(
        app,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # nothing here depends on who the client is
        ws="none",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=CLOSE_S,
    )
    server = DrainingServer(config, lifecycle, settings.drain_timeout_s)
    host, port = listener.getsockname()[:2]
    logger.info("listening", url=f"http://{f'[{host}]' if ':' in host else host}:{port}", pid=os.getpid())
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(server.serve(sockets=[listener]))
    if lifecycle.failure is not None:
        return _report(lifecycle.failure)
    logger.info("stopped", cut_off=server.cut_off)
    return 1 if server.cut_off else 0


def _report(failure: Exception) -> int:
    """Say why loading failed; refusals are for the operator, and need no traceback."""
    if isinstance(failure, REFUSALS):
        print(f"candor serve: {failure}", file=sys.stderr)
    return 1


def _leave(code: int, message: str) -> NoReturn:
    print(f"candor serve: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])

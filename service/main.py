"""`candor serve`: read the settings, take the port, and serve it with one process or several."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from models.errors import UserError
from service.access import is_loopback
from service.keys import read_keys
from service.server import listen, serve, url_of
from service.settings import Device, Settings, SettingsError, read_settings, unknown_variables
from service.telemetry import capture_library_logs, stderr_logger
from service.tls import server_context
from service.tracing import load_tracing, wants_tracing
from service.workers import reserve, supervise


def main(argv: Sequence[str]) -> None:
    """Serve until a signal; exits with 0 after a clean drain, 1 on failure, 2 for settings that cannot be used."""
    try:
        settings = read_settings(parse_arguments(argv))
        check_start(settings)
    except (SettingsError, UserError) as error:
        _leave(2, str(error))
    logger = stderr_logger(settings)
    capture_library_logs(logger)
    for name, nearest in unknown_variables(os.environ).items():
        logger.warning("unknown setting ignored", variable=name, nearest=nearest)
    several = settings.workers > 1
    try:
        port = reserve(settings.host, settings.port) if several else listen(settings.host, settings.port)
    except OSError as error:
        _leave(1, f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}")
    with port:
        if several:
            sys.exit(supervise(settings, port, logger))
        logger.info("listening", url=url_of(settings.scheme, *port.getsockname()[:2]), pid=os.getpid())
        sys.exit(serve(settings, port, logger))


def check_start(settings: Settings) -> None:
    """Return if all that does not need loading is as it must be.

    Raises:
        SettingsError, UserError: that say what to do.
    """
    if settings.api_keys is not None:
        read_keys(settings.api_keys)
    elif not (settings.allow_anonymous or is_loopback(settings.host)):
        raise SettingsError(
            f"CANDOR_HOST={settings.host} lets other machines in, and there are no API keys: set CANDOR_API_KEYS to a "
            "file made with `candor keys add`, or CANDOR_ALLOW_ANONYMOUS=true if anybody may use this server"
        )
    server_context(settings)
    if wants_tracing(settings, os.environ):
        load_tracing()


def parse_arguments(argv: Sequence[str]) -> dict[str, object]:
    """Command-line options that were given, by the setting they stand for."""
    parser = argparse.ArgumentParser(
        prog="candor serve",
        description="Serve a bundle over HTTP. Every setting is a CANDOR_* variable (docs/settings.md); options win.",
    )
    parser.add_argument("--host", help="address to listen on")
    parser.add_argument("--port", help="port to listen on")
    parser.add_argument(
        "--bundle",
        action="append",
        metavar="[NAME=]WHERE",
        help="bundle folder, or org/name[@revision] of the hub; again for another bundle, the first is the default",
    )
    parser.add_argument(
        "--gallery",
        action="append",
        metavar="[NAME=]LOCATION",
        help="gallery folder or URL, or none; again for another bundle's",
    )
    parser.add_argument("--device", choices=[device.value for device in Device], help="where the graph runs")
    parser.add_argument("--workers", help="processes that serve the port")
    given = {name: value for name, value in vars(parser.parse_args(argv)).items() if value is not None}
    return {name: ",".join(value) if isinstance(value, list) else value for name, value in given.items()}


def _leave(code: int, message: str) -> NoReturn:
    print(f"candor serve: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])

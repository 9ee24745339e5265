"""`candor serve`: read the settings, take the port, and serve it with one process or several."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from models.errors import UserError
from service.arguments import add_options, given_options
from service.server import listen, serve, url_of
from service.settings import SettingsError, read_settings, unknown_variables
from service.starting import check_start
from service.telemetry import capture_library_logs, stderr_logger
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


def parse_arguments(argv: Sequence[str]) -> dict[str, object]:
    """Command-line options that were given, by the setting they stand for."""
    parser = argparse.ArgumentParser(
        prog="candor serve",
        description="Serve a bundle over HTTP. Every setting is a CANDOR_* variable (docs/settings.md); options win.",
    )
    return given_options(add_options(parser).parse_args(argv))


def _leave(code: int, message: str) -> NoReturn:
    print(f"candor serve: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])

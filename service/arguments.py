"""The options of `candor serve`: those settings that may be given on the command line, too."""

import argparse

from service.settings import Device, Settings


def add_options(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add an option for each of them; the parser itself."""
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
    return parser


def given_options(options: argparse.Namespace) -> dict[str, object]:
    """Those that were given, by the setting they stand for."""
    given = {
        name: value for name, value in vars(options).items() if value is not None and name in Settings.model_fields
    }
    return {name: ",".join(value) if isinstance(value, list) else value for name, value in given.items()}

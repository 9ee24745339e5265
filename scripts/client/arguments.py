"""What every command that asks a server takes: where it is, and the key to it."""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from models.errors import UserError
from scripts.client.sync import Client

HERE: Final = "http://127.0.0.1:8000"  # where `candor serve` listens unless told otherwise


def add_server_arguments(arguments: argparse.ArgumentParser, *, patience_s: float = 600.0) -> None:
    """`--server`, `--api-key-file`, `--bundle`, `--ca` and `--patience`."""
    group = arguments.add_argument_group("the server")
    group.add_argument("--server", metavar="URL", help=f"of a running candor; or CANDOR_SERVER, or {HERE}")
    group.add_argument("--api-key-file", type=Path, metavar="FILE", help="with the key to it; or the key in CANDOR_KEY")
    group.add_argument("--bundle", metavar="NAME", help="which of its bundles is asked; its default if not given")
    group.add_argument("--ca", type=Path, metavar="FILE", help="PEM of the authority that its certificate is of")
    group.add_argument(
        "--patience", type=float, default=patience_s, metavar="S", help="until a busy server is given up"
    )


def add_sending_arguments(arguments: argparse.ArgumentParser) -> None:
    """`--concurrency` and `--batch`."""
    arguments.add_argument("--concurrency", type=at_least_one, default=4, metavar="N", help="requests at a time")
    arguments.add_argument("--batch", type=at_least_one, default=16, metavar="N", help="most images in a request")


def at_least_one(text: str) -> int:
    """Argument type: a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def connect(options: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> Client:
    """A client to the server that is meant, which waits as long as `--patience` says.

    Raises:
        UserError: where nobody answers, or the file of the key cannot be read.
    """
    client = Client(
        options.server or environment.get("CANDOR_SERVER") or HERE,
        _key(options.api_key_file) if options.api_key_file else environment.get("CANDOR_KEY"),
        bundle=options.bundle,
        retries=None,
        patience_s=options.patience,
        verify=options.ca or True,
    )
    client.ready()  # where nobody answers, there is no point in waiting
    return client


def _key(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--api-key-file: {error}") from error

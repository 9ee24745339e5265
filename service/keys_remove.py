"""Take an API key out of a file: a server that has the file as CANDOR_API_KEYS refuses the key from then on.

candor keys remove search --file keys.txt
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from models.errors import UserError
from service.keys import name_in, read_keys, write_lines


def main(argv: Sequence[str] | None = None) -> None:
    """Remove one key."""
    options = _arguments().parse_args(argv)
    remove_key(options.file, options.name)
    print(f"removed {options.name} from {options.file}")


def remove_key(path: Path, name: str) -> None:
    """Drop a key's line from a file.

    Raises:
        UserError: where there is no key of that name, or the file cannot be read or written.
    """
    if all(key.name != name for key in read_keys(path)):
        raise UserError(f"{path} has no key {name}: `candor keys list` tells those it has")
    write_lines(path, [line for line in path.read_text("utf-8").splitlines() if name_in(line) != name])


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="candor keys remove", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("name", metavar="NAME", help="of the key")
    arguments.add_argument("--file", type=Path, required=True, help="file of keys")
    return arguments

"""Make an API key, note its hash in a file, and show the key itself this once.

    candor keys add search --scopes embed,retrieve --file keys.txt

Standard output is the key and nothing else. A server that has the file as CANDOR_API_KEYS knows the key at once.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from models.errors import UserError
from service.keys import KEYS_HEAD, Key, KeyScope, check_name, digest_of, new_key, parse_scopes, read_keys, write_lines


def main(argv: Sequence[str] | None = None) -> None:
    """Add one key."""
    options = _arguments().parse_args(argv)
    try:
        check_name(options.name)
        scopes = parse_scopes(options.scopes)
    except ValueError as error:
        raise UserError(str(error)) from error
    key = new_key()
    add_key(options.file, Key(options.name, scopes, digest_of(key.encode())))
    print(key)
    print(
        f"noted in {options.file}: this is the one time that the key itself is shown. Send it as "
        "`Authorization: Bearer KEY`.",
        file=sys.stderr,
    )


def add_key(path: Path, key: Key) -> None:
    """Add a key's line to a file, which is made if it is not there.

    Raises:
        UserError: where there is a key of that name, or the file cannot be read or written.
    """
    lines = list(KEYS_HEAD)
    if path.exists():
        if any(other.name == key.name for other in read_keys(path)):
            raise UserError(f"{path} has a key {key.name}: take another name, or remove that one first")
        lines = path.read_text("utf-8").splitlines()
    write_lines(path, [*lines, key.as_line()])


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="candor keys add", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("name", metavar="NAME", help="who or what the key is for; it is in the server's log")
    arguments.add_argument(
        "--scopes", required=True, help=f"what the key is for: some of {', '.join(KeyScope)}, joined by commas"
    )
    arguments.add_argument("--file", type=Path, required=True, help="file of keys")
    return arguments

"""Tell the API keys of a file: each one's name and what it is for.

candor keys list --file keys.txt
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from service.keys import KeyScope, read_keys


def main(argv: Sequence[str] | None = None) -> None:
    """Print one line a key."""
    for key in read_keys(_arguments().parse_args(argv).file):
        print(f"{key.name}\t{','.join(scope for scope in KeyScope if scope in key.scopes)}")


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="candor keys list", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--file", type=Path, required=True, help="file of keys")
    return arguments

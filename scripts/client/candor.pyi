# The module `candor` to type checkers, as the wheel installs it: a single module cannot say that it is typed (PEP 561).
from collections.abc import Sequence

from scripts.client import *  # noqa: F403  # what a stub imports so is its own
from scripts.client import __all__ as __all__

def main(argv: Sequence[str] | None = None) -> None: ...

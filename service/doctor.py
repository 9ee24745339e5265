"""Examine what `candor serve` would find here, and say what to do about it.

    candor doctor
    candor doctor --gallery postgresql://db/candor --device cuda --json

Settings and options are those of `candor serve`. Nothing is changed: no folder is made, nothing is written to a
gallery. The exit code is 0 without a problem, 1 with one, and 2 where the settings cannot be used.
"""

import argparse
import importlib
import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from service.arguments import add_options, given_options
from service.checks import settings as settings_check
from service.checks.findings import Finding, Level, attempted
from service.checks.report import as_json, as_text
from service.checks.situation import Situation

# In this order; each is imported when its turn comes, so that a package that cannot be imported is one finding.
SUBJECTS: Final = ("settings", "packages", "device", "cores", "served", "network", "disk", "memory")
UNUSABLE: Final = 2


def main(argv: Sequence[str] | None = None) -> None:
    """Examine, print what was found, and exit with 0, 1 or 2."""
    options = _arguments().parse_args(argv)
    logging.basicConfig(handlers=[logging.NullHandler()])  # what is worth saying is said as a finding
    findings, code = examine(given_options(options), os.environ)
    print(as_json(findings, code) if options.json else as_text(findings, width=_width(), colour=_colour(os.environ)))
    sys.exit(code)


def examine(given: Mapping[str, object], environment: Mapping[str, str]) -> tuple[list[Finding], int]:
    """All findings, and the exit code; without settings that can be used, only what needs none."""
    unknown = list(settings_check.unknown(environment))
    settings = settings_check.read(given)
    if isinstance(settings, list):
        return [*settings, *unknown], UNUSABLE
    situation = Situation(settings, environment)
    findings = [
        *unknown,
        *(finding for name in SUBJECTS for finding in attempted(name, partial(_check, name, situation))),
    ]
    return findings, int(any(finding.kind.level is Level.PROBLEM for finding in findings))


def _check(name: str, situation: Situation) -> Iterator[Finding]:
    yield from importlib.import_module(f"service.checks.{name}").check(situation)


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _colour(environment: Mapping[str, str]) -> bool:
    """Colours are for terminals, and not wanted where NO_COLOR is set (no-color.org)."""
    return sys.stdout.isatty() and not environment.get("NO_COLOR")


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="candor doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--json", action="store_true", help="print JSON for machines")
    return add_options(arguments)


if __name__ == "__main__":
    main()

"""Findings as lines for people, or as JSON for machines."""

import textwrap
from collections.abc import Sequence
from typing import Any, Final

import orjson

from service.checks.findings import Finding, Level

COLOURS: Final = {Level.OK: "32", Level.NOTE: "36", Level.WARNING: "33", Level.PROBLEM: "31"}
SUBJECT_WIDTH: Final = 10
LEVEL_WIDTH: Final = 9
MARGIN: Final = SUBJECT_WIDTH + LEVEL_WIDTH
NARROWEST: Final = 40


def as_text(findings: Sequence[Finding], *, width: int | None, colour: bool) -> str:
    """Subject, level and what was found in columns, below it what to do; then how many there are of each level.

    Args:
        findings: in the order to show.
        width: columns to wrap at; None for one line each.
        colour: whether the level is coloured.
    """
    lines = [line for finding in findings for line in _lines(finding, width, colour)]
    return "\n".join([*lines, "", summary(findings)])


def as_json(findings: Sequence[Finding], exit_code: int) -> str:
    """One object: `exit_code`, and `findings` with the key that docs/doctor.md explains."""
    listed = [_as_dict(finding) for finding in findings]
    return orjson.dumps({"exit_code": exit_code, "findings": listed}, option=orjson.OPT_INDENT_2).decode()


def summary(findings: Sequence[Finding]) -> str:
    """How many there are of each level that asks for attention."""
    counts = {level: sum(one.kind.level is level for one in findings) for level in reversed(Level)}
    told = [f"{count} {level.value}{'s' * (count > 1)}" for level, count in counts.items() if level is not Level.OK]
    worth = [text for text, level in zip(told, counts, strict=False) if counts[level]]
    return f"{', '.join(worth)}: docs/doctor.md explains each" if worth else "nothing to do"


def _lines(finding: Finding, width: int | None, colour: bool) -> list[str]:
    kind = finding.kind
    level = kind.level.value.ljust(LEVEL_WIDTH)
    shown = f"\033[{COLOURS[kind.level]}m{level}\033[0m" if colour else level
    said = _wrapped(finding.found, width)
    lines = [f"{kind.subject.ljust(SUBJECT_WIDTH)}{shown}{said[0]}", *(f"{'':{MARGIN}}{line}" for line in said[1:])]
    if kind.advice:
        lines += [f"{'':{MARGIN}}{line}" for line in _wrapped(f"-> {kind.advice}", width)]
    return lines


def _wrapped(text: str, width: int | None) -> list[str]:
    one = " ".join(text.split())
    return textwrap.wrap(one, max(NARROWEST, width - MARGIN)) if width else [one]


def _as_dict(finding: Finding) -> dict[str, Any]:
    kind = finding.kind
    return {
        "subject": kind.subject,
        "finding": kind.key,
        "level": kind.level.value,
        "found": finding.found,
        "advice": kind.advice,
    }

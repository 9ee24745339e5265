"""What a page of the documentation tells its reader to run."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FENCE: Final = re.compile(r"^( *)```(\w*)\s*$")
NOT_RUN: Final = re.compile(r"<!-- not run: (.+) -->")
RUNNABLE: Final = ("console", "python")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its lines, the line it starts at, and why it is not run, where it is not."""

    language: str
    lines: tuple[str, ...]
    line: int
    not_run: str | None


@dataclass(frozen=True)
class Step:
    """One command of the shell, or one Python program."""

    kind: str
    text: str
    line: int


def blocks(text: str) -> Iterator[Block]:
    """Every fenced block of a page.

    Raises:
        ValueError: for a fence that is not closed.
    """
    lines = iter(enumerate(text.splitlines(), start=1))
    reason = None
    for number, line in lines:
        if opening := FENCE.match(line):
            content = []
            for _, inner in lines:
                if FENCE.match(inner):
                    break
                content.append(inner.removeprefix(opening[1]))
            else:
                raise ValueError(f"the block of line {number} does not end")
            yield Block(opening[2], tuple(content), number, reason)
            reason = None
        elif line.strip():
            marked = NOT_RUN.fullmatch(line.strip())
            reason = marked[1] if marked else None


def commands(block: Block) -> Iterator[Step]:
    """The commands of a `console` block: lines that start with `$ `, and those that a backslash adds to them."""
    parts: list[str] = []
    started = 0
    for offset, line in enumerate(block.lines, start=1):
        if line.startswith("$ "):
            parts, started = [line[2:]], block.line + offset
        elif parts:
            parts.append(line)
        if parts and not line.endswith("\\"):
            yield Step("console", "\n".join(parts), started)
            parts = []


def steps(page: Path) -> list[Step]:
    """All that is run of a page, in its order."""
    found: list[Step] = []
    for block in blocks(page.read_text()):
        if block.not_run is None and block.language == "console":
            found += commands(block)
        elif block.not_run is None and block.language == "python":
            found.append(Step("python", "\n".join(block.lines), block.line))
    return found

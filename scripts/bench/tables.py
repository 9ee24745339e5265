"""Markdown tables that GitHub renders: one line for each name, and the best figure of a column in bold."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

ABSENT = "-"


@dataclass(frozen=True)
class Column:
    """Cells (n,) under a title; figures stand to the right, `words` to the left."""

    title: str
    cells: tuple[str, ...]
    words: bool = False


def figures(
    title: str,
    values: Sequence[float],
    *,
    best: Literal["high", "low"] | None = "high",
    digits: int = 3,
    notes: Sequence[str] = (),
) -> Column:
    """A column of values (n,), absent where NaN: those shown as the `best` in bold, each followed by its note."""
    shown = [number(value, digits) for value in values]
    present = [value for value in values if not math.isnan(value)]
    top = number(max(present) if best == "high" else min(present), digits) if best and present else None
    bold = [f"**{cell}**" if cell == top else cell for cell in shown]
    return Column(title, tuple(" ".join(cell).strip() for cell in zip(bold, notes or [""] * len(bold), strict=True)))


def table(title: str, names: Sequence[str], columns: Sequence[Column]) -> str:
    """The columns beside the names (n,), less those without any figure."""
    kept = [column for column in columns if any(cell != ABSENT for cell in column.cells)]
    lines = [[title, *(column.title for column in kept)]]
    lines += [[name, *(column.cells[row] for column in kept)] for row, name in enumerate(names)]
    text = ["| " + " | ".join(map(escaped, line)) + " |" for line in lines]
    rule = "|---|" + "".join("---|" if column.words else "---:|" for column in kept)
    return "\n".join([text[0], rule, *text[1:]])


def number(value: float, digits: int = 3, signed: bool = False) -> str:
    """A value as tables show it."""
    return ABSENT if math.isnan(value) else f"{value:{'+' if signed else ''}.{digits}f}"


def bounds(low: float, high: float, signed: bool = False) -> str:
    """An interval as tables show it; nothing where it is undefined."""
    return "" if math.isnan(low + high) else f"[{number(low, signed=signed)}, {number(high, signed=signed)}]"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: a, b and c."""
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def joined(parts: Iterable[str]) -> str:
    """Paragraphs, tables and images below each other, without the empty ones."""
    return "\n\n".join(part for part in parts if part)


def escaped(text: str) -> str:
    """Text that stays within its cell: a bar would end it."""
    return text.replace("|", "\\|").replace("\n", " ")

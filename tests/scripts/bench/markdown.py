"""Read back what a report shows."""

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table as a reader finds it: the nearest heading above, its header, and its rows by their first cell."""

    heading: str
    header: list[str]
    rows: dict[str, list[str]]

    def column(self, title: str) -> list[str]:
        place = self.header.index(title) - 1
        return [cells[place] for cells in self.rows.values()]

    def values(self, title: str) -> list[float]:
        return [value(cell) for cell in self.column(title)]


def cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(text: str) -> list[Table]:
    found, heading, lines = [], "", [*text.splitlines(), ""]
    block: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            block.append(cells(line))
        elif block:
            assert all(re.fullmatch(r"---:?", cell) for cell in block[1])
            assert {len(row) for row in block} == {len(block[0])}
            found.append(Table(heading, block[0], {row[0]: row[1:] for row in block[2:]}))
            assert len(found[-1].rows) == len(block) - 2
            block = []
        heading = line.lstrip("# ") if line.startswith("#") else heading
    return found


def value(cell: str) -> float:
    """The first number of a cell."""
    return math.nan if cell == "-" else float(re.sub(r"[*]", "", cell).split()[0])


def shown(number: float) -> str:
    return f"{number:.3f}"

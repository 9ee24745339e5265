"""The dashboard's queries, as Grafana would send them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "dashboards" / "candor.json"
VARIABLES = {"$instance": ".*", "$bundle": ".*", "$__rate_interval": "1m"}


@dataclass(frozen=True)
class Query:
    """One query of one panel, its variables filled in."""

    row: str
    panel: str
    expr: str


def dashboard() -> dict[str, Any]:
    """The dashboard that is provisioned."""
    loaded: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return loaded


def panels() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every panel in the order they are seen, rows among them, and the title of its row; also those folded away."""
    row = ""
    for panel in dashboard()["panels"]:
        row = panel["title"] if panel["type"] == "row" else row
        yield row, panel
        yield from ((row, folded) for folded in panel.get("panels", []))


def queries() -> Iterator[Query]:
    """Every panel's queries."""
    for row, panel in panels():
        for target in panel.get("targets", []):
            yield Query(row, panel["title"], filled(target["expr"]))


def filled(expr: str) -> str:
    """A query with every variable at "all"."""
    return re.sub(r"\$\w+", lambda match: VARIABLES[match[0]], expr)

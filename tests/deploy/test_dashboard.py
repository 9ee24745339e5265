"""The dashboard as Grafana will read it."""

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.dashboards import DASHBOARD, VARIABLES, dashboard, panels

PROVISIONING = DASHBOARD.parents[1] / "provisioning"
CORE = {"row", "stat", "timeseries", "heatmap", "table"}  # panels that come with Grafana


def shown() -> list[dict[str, Any]]:
    return [panel for _, panel in panels() if panel["type"] != "row"]


def source_uid() -> str:
    (source,) = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    uid: str = source["uid"]
    return uid


def test_everything_comes_from_the_source_that_is_provisioned() -> None:
    used = [owner["datasource"] for owner in (*shown(), *dashboard()["annotations"]["list"])]
    used += [target["datasource"] for panel in shown() for target in panel["targets"]]
    used += [variable["datasource"] for variable in dashboard()["templating"]["list"]]

    assert {(source["type"], source["uid"]) for source in used} == {("prometheus", source_uid())}


def test_no_plugin_has_to_be_installed() -> None:
    assert {panel["type"] for _, panel in panels()} == CORE


def test_every_panel_has_a_title_a_query_and_a_number_of_its_own() -> None:
    numbers = Counter(panel["id"] for _, panel in panels())
    titles = Counter(panel["title"] for _, panel in panels())

    assert set(numbers.values()) == set(titles.values()) == {1}
    for panel in shown():
        assert panel["targets"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references), panel["title"]


def test_panels_do_not_cover_each_other() -> None:
    def cells(panel: dict[str, Any]) -> set[tuple[int, int]]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        return set(itertools.product(columns, range(place["y"], place["y"] + place["h"])))

    covered = Counter(cell for _, panel in panels() for cell in cells(panel))

    assert max(covered.values()) == 1
    assert {x for x, _ in covered} == set(range(24))


def test_variables_are_those_that_queries_use() -> None:
    declared = {f"${variable['name']}" for variable in dashboard()["templating"]["list"]}

    assert declared | {"$__rate_interval"} == VARIABLES.keys()
    for variable in dashboard()["templating"]["list"]:
        assert variable["allValue"] == ".*", "all: also what has no such label"


def test_compose_mounts_what_is_provisioned(repository: Path) -> None:
    (provider,) = yaml.safe_load((PROVISIONING / "dashboards" / "candor.yml").read_text())["providers"]
    grafana = yaml.safe_load((repository / "docker-compose.yml").read_text())["services"]["grafana"]
    mounts = dict(mount.split(":")[:2] for mount in grafana["volumes"])

    assert mounts["./deploy/grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    assert (
        grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
        == f"{provider['options']['path']}/candor.json"
    )

"""Rules, alerts and queries: read by Prometheus's own tool, and about metrics that candor has."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.telemetry import make_metrics
from tests.deploy.dashboards import queries
from tests.service.bundle_factory import make_bundle
from tests.service.process import ready_client, serving

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
RULES = sorted((FOLDER / "rules").glob("*.yml"))


@pytest.fixture(scope="session")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("needs promtool, which Prometheus ships with (Debian: apt-get install prometheus)")
    return found


def rules() -> list[dict[str, Any]]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> set[str]:
    return {rule["alert"] for rule in rules() if "alert" in rule}


def run(*command: str | Path, given: str | None = None) -> str:
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_configuration_and_the_rules(promtool: str) -> None:
    assert len(RULES) == 2
    for name in ("prometheus.yml", "tls.yml"):
        run(promtool, "check", "config", "--syntax-only", FOLDER / name)
    run(promtool, "check", "rules", "--lint=all", *RULES)


def test_each_alert_fires_where_it_should_and_not_elsewhere(promtool: str) -> None:
    run(promtool, "test", "rules", FOLDER / "tests" / "alerts.yml")


def test_no_alert_is_without_both_tests() -> None:
    cases = yaml.safe_load((FOLDER / "tests" / "alerts.yml").read_text())["tests"]
    expected = [test for case in cases for test in case.get("alert_rule_test", [])]

    assert {test["alertname"] for test in expected if test["exp_alerts"]} == alerts()
    assert {test["alertname"] for test in expected if not test["exp_alerts"]} == alerts()


def test_every_alert_says_what_it_is_how_bad_and_where_to_read_on(repository: Path) -> None:
    anchors = {
        heading.lower() for heading in re.findall(r"^#+ (\w+)$", (repository / "docs/deploy.md").read_text(), re.M)
    }

    for rule in rules():
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]
            assert rule["annotations"].keys() == {"summary", "description", "runbook"}, rule["alert"]
            assert rule["annotations"]["runbook"] == f"docs/deploy.md#{rule['alert'].lower()}"
            assert rule["alert"].lower() in anchors


def test_every_query_of_the_dashboard_can_be_read(promtool: str, tmp_path: Path) -> None:
    found = [{"record": f"query:{number}", "expr": query.expr} for number, query in enumerate(queries())]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": found}]}))

    assert f"{len(found)} rules found" in run(promtool, "check", "rules", path)
    assert len(found) > 40


def test_rules_and_dashboard_ask_for_metrics_that_are_there() -> None:
    there = {sample.name for family in make_metrics().registry.collect() for sample in family.samples}
    families = {family.name for family in make_metrics().registry.collect()}
    there |= {name + suffix for name in families for suffix in ("", "_total", "_bucket", "_sum", "_count")}
    expressions = [rule["expr"] for rule in rules()] + [query.expr for query in queries()]

    asked = {name for expr in expressions for name in re.findall(r"\b(?:candor|process)_\w+", expr)}
    assert asked - there == set()
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    assert {name for expr in expressions for name in re.findall(r"\bcandor(?::\w+)+", expr)} == recorded


def test_a_server_writes_metrics_that_prometheus_approves_of(promtool: str, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with serving(bundle, tmp_path / "gallery") as server, ready_client(server) as client:
        text = client.get("/metrics").text

    run(promtool, "check", "metrics", given=text)


def test_a_server_with_tls_is_watched_in_the_same_way() -> None:
    plain, tls = (yaml.safe_load((FOLDER / name).read_text()) for name in ("prometheus.yml", "tls.yml"))
    candor = tls["scrape_configs"][0]

    assert (candor["scheme"], candor["authorization"]) == ("https", {"credentials_file": "/run/secrets/metrics-key"})
    for changed in (plain["scrape_configs"][0], candor):
        for setting in ("scheme", "tls_config", "authorization"):
            changed.pop(setting, None)
    assert tls == plain

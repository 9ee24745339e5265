import json
from pathlib import Path

import numpy as np

from benchmarks import monitoring
from benchmarks.monitoring import Run, alarms, drift_alarms
from uncertainty.drift import Audit


def test_the_simulated_alarm_is_that_of_the_audit() -> None:
    run, alpha = Run("", 3.0, 3.0, 0), 0.1
    found = alarms(alpha, run, 4, 300, seed=5)
    rng = np.random.default_rng(5)
    wrong = np.array([rng.random(4) < 3 * alpha for _ in range(300)])  # (300, 4)
    for column in range(4):
        audit, first = Audit(alpha, monitoring.DELTA), np.inf
        for number, each in enumerate(wrong[:, column], start=1):
            audit = audit.seen(float(each))
            if audit.alarm and np.isinf(first):
                first = number
        assert found[column] == first
    assert np.isfinite(found).any()


def test_healthy_runs_seldom_raise_an_alarm_and_others_soon_do() -> None:
    healthy = alarms(0.1, Run("", 1.0, 1.0, 0), 300, 2000, seed=1)
    late = alarms(0.1, Run("", 0.5, 3.0, 1000), 100, 2000, seed=2)
    assert np.isfinite(healthy).mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)
    assert np.isfinite(late).all()
    assert 0 < np.median(late) - 1000 < 400
    assert drift_alarms(900, 50, seed=3) <= 0.06


def test_it_writes_both_tables(tmp_path: Path) -> None:
    out = tmp_path / "monitoring.json"
    monitoring.main(["--repetitions", "20", "--audits", "400", "--out", str(out)])
    found = json.loads(out.read_text())
    assert [each["alpha"] for each in found["audited"]] == [0.05] * 4 + [0.1] * 4
    assert "| at alpha all the time |" in out.with_suffix(".md").read_text()

"""How often a policy in good health raises an alarm, and how soon one that is not does: audits and drift, simulated.

python -m benchmarks.monitoring --out benchmarks/results/monitoring.json
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from uncertainty.drift import HORIZON, STAKES, drift, reference_of

DELTA: Final = 0.05
ALPHAS: Final = (0.05, 0.1)
LATE: Final = 10_000  # healthy audits before something changes
WINDOW: Final = 500
LOOKS: Final = 40
REFERENCES: Final = (900, 3000)  # certification queries
LEVEL: Final = 0.01 / 4  # of one of four inputs


@dataclass(frozen=True)
class Run:
    """Risk of the audited answers, as multiples of alpha: `before` for so many audits, `after` from then on."""

    name: str
    before: float
    after: float
    change_at: int


RUNS: Final = (
    Run("at alpha all the time", 1.0, 1.0, 0),
    Run("at half of alpha all the time", 0.5, 0.5, 0),
    Run("twice alpha from the start", 2.0, 2.0, 0),
    Run(f"half of alpha, then twice alpha after {LATE:,} audits", 0.5, 2.0, LATE),
)


def alarms(alpha: float, run: Run, repetitions: int, audits: int, seed: int) -> NDArray[np.float64]:
    """(repetitions,): the audit, from 1, at which `uncertainty.drift.Audit` raises its alarm; infinite for none."""
    rng = np.random.default_rng(seed)
    stakes = np.asarray(STAKES) / alpha
    gain = {wrong: np.log1p(stakes * (float(wrong) - alpha)) for wrong in (False, True)}
    log_e = np.zeros((repetitions, len(STAKES)))
    log_m = np.full((repetitions, len(STAKES)), -np.inf)
    found = np.full(repetitions, np.inf)
    for audit in range(1, audits + 1):
        risk = alpha * (run.before if audit <= run.change_at else run.after)
        wrong = rng.random(repetitions) < risk
        gains = np.where(wrong[:, None], gain[True], gain[False])
        log_e += gains
        log_m = np.logaddexp(log_m, 0.0) + gains
        raised = (_mean_exp(log_e) >= 2 / DELTA) | (_mean_exp(log_m) >= 2 * HORIZON / DELTA)
        found[raised & np.isinf(found)] = audit
    return found


def drift_alarms(reference: int, repetitions: int, seed: int) -> float:
    """The share of runs of `LOOKS` windows, of queries as certified, of which any drifts."""
    rng = np.random.default_rng(seed)
    return float(np.mean([_drifts(reference_of(rng.normal(size=reference)), rng) for _ in range(repetitions)]))


def _drifts(reference: Any, rng: np.random.Generator) -> bool:
    for look in range(1, LOOKS + 1):
        places = np.searchsorted(reference.edges, rng.normal(size=WINDOW), side="left")
        if drift(reference, np.bincount(places, minlength=len(reference.share)).tolist(), look, LEVEL).drifted:
            return True
    return False


def _mean_exp(logs: NDArray[np.float64]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.exp(np.minimum(logs, 700.0)).mean(axis=1)
    return mean


def as_markdown(result: Mapping[str, Any]) -> str:
    """Both tables."""
    lines = [
        "# Watching policies, simulated",
        "",
        f"{result['repetitions']:,} runs of {result['audits']:,} audits each, delta {DELTA}.",
        "",
        "| alpha | risk of what is audited | runs that raise an alarm | standard error | before the change "
        "| median audits from the change to the alarm |",
        "|---:|---|---:|---:|---:|---:|",
    ]
    lines += [_audited_row(each) for each in result["audited"]]
    lines += [
        "",
        f"Drift of one of four inputs, {LOOKS} windows of {WINDOW} queries as certified,",
        f"{result['drift_repetitions']:,} runs (promised: {LEVEL}):",
        "",
        "| certification queries | runs that raise an alarm |",
        "|---:|---:|",
    ]
    lines += [f"| {each['reference']:,} | {each['raised']:.4f} |" for each in result["drift"]]
    return "\n".join(lines) + "\n"


def _audited_row(each: Mapping[str, Any]) -> str:
    median = "-" if each["median"] is None else f"{each['median']:.0f}"
    return (
        f"| {each['alpha']} | {each['name']} | {each['raised']:.4f} | {each['standard_error']:.4f} "
        f"| {each['raised_before']:.4f} | {median} |"
    )


def _audited(alpha: float, run: Run, repetitions: int, audits: int) -> dict[str, Any]:
    found = alarms(alpha, run, repetitions, audits, seed=round(1000 * alpha))
    raised, late = np.isfinite(found), found > run.change_at
    delays = found[raised & late] - run.change_at
    share = float(raised.mean())
    return {
        "alpha": alpha,
        **asdict(run),
        "raised": share,
        "standard_error": math.sqrt(share * (1 - share) / repetitions),
        "raised_before": float((raised & ~late).mean()),
        "median": float(np.median(delays)) if delays.size and run.after > 1 else None,
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Simulate, and write the figures."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repetitions", type=int, default=2000)
    arguments.add_argument("--audits", type=int, default=HORIZON)
    arguments.add_argument("--out", type=Path, required=True)
    options = arguments.parse_args(argv)
    result = {
        "repetitions": options.repetitions,
        "audits": options.audits,
        "drift_repetitions": options.repetitions,
        "audited": [_audited(alpha, run, options.repetitions, options.audits) for alpha in ALPHAS for run in RUNS],
        "drift": [
            {"reference": count, "raised": drift_alarms(count, options.repetitions, count)} for count in REFERENCES
        ],
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(as_markdown(result))


if __name__ == "__main__":
    main()

"""Whether certified thresholds keep their promise, and what they give away for it: queries drawn again and again.

    python -m benchmarks.certification --out benchmarks/results/certification.json

Each curve says how often an answer of each score is wrong, so that the risk of a threshold is known, and so is the
oracle: the largest threshold whose risk is within alpha.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from uncertainty.certification import certify_threshold

Curve = Callable[[NDArray[np.float64], float], NDArray[np.float64]]
"""Scores in [0, 1], evenly spread, and alpha, to the probability that an answer of each score is wrong."""

CURVES: Final[Mapping[str, Curve]] = {
    "smooth": lambda score, alpha: 4 * alpha * score**2,
    "flat at alpha": lambda score, alpha: np.where(score < 0.7, alpha, 0.5),
    "kinked": lambda score, alpha: np.where(score < 0.5, alpha / 4, alpha / 4 + 1.5 * (score - 0.5)),
    "overconfident tail": lambda score, alpha: np.where(score < 0.03, 0.5, alpha / 4 + alpha * score**4),
    "infeasible": lambda score, alpha: np.full_like(score, 1.5 * alpha),
}
GRID: Final = np.arange(1, 101) / 100
FINE: Final = (np.arange(100_000) + 0.5) / 100_000  # the scores that a curve's true risk is computed on


@dataclass(frozen=True)
class Found:
    """Of `repetitions` draws of `labels` queries: how often the promise was broken, and the coverage that was had.

    `coverage` is the mean over draws, none certified counting as 0; `oracle` is what full knowledge would have.
    """

    curve: str
    alpha: float
    delta: float
    labels: int
    repetitions: int
    violations: float
    standard_error: float
    certified: float
    coverage: float
    oracle: float

    @property
    def kept(self) -> bool:
        """Whether violations are within delta, but for three standard errors."""
        return self.violations <= self.delta + 3 * self.standard_error


def simulate(curve: str, alpha: float, delta: float, labels: int, repetitions: int, seed: int = 0) -> Found:
    """Certify from that many draws of labelled queries, and compare with what is true."""
    wrong_at = CURVES[curve]
    risk = np.cumsum(wrong_at(FINE, alpha)) / np.arange(1, FINE.size + 1)
    within = np.flatnonzero(risk <= alpha + 1e-12)
    oracle = float(FINE[within[-1]]) if within.size else 0.0
    rng = np.random.default_rng(seed)
    thresholds = []
    for _ in range(repetitions):
        score = rng.random(labels)
        wrong = rng.random(labels) < wrong_at(score, alpha)
        thresholds.append(certify_threshold(score, wrong, alpha, delta, GRID).threshold or 0.0)
    chosen = np.asarray(thresholds)
    true = risk[np.clip(np.round(chosen * FINE.size).astype(int) - 1, 0, FINE.size - 1)]
    violations = float(((chosen > 0) & (true > alpha + 1e-9)).mean())
    error = math.sqrt(delta * (1 - delta) / repetitions)
    certified, coverage = float((chosen > 0).mean()), float(chosen.mean())
    return Found(curve, alpha, delta, labels, repetitions, violations, error, certified, coverage, oracle)


def as_markdown(found: list[Found]) -> str:
    """One row for each curve, alpha and number of labels."""
    lines = [
        "| risk curve | alpha | labels | promise broken | certified | coverage | of the oracle's |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for each in found:
        share = f"{each.coverage / each.oracle:.2f}" if each.oracle else "-"
        lines.append(
            f"| {each.curve} | {each.alpha:g} | {each.labels:,} | {each.violations:.4f} | {each.certified:.3f} "
            f"| {each.coverage:.3f} | {share} |"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    """Run every curve, and write what was found."""
    arguments = argparse.ArgumentParser(prog="python -m benchmarks.certification", description=__doc__)
    arguments.add_argument("--repetitions", type=int, default=2000, help="draws of labelled queries of each kind")
    arguments.add_argument("--labels", type=int, nargs="+", default=[500, 1000, 3000])
    arguments.add_argument("--alpha", type=float, nargs="+", default=[0.05, 0.1])
    arguments.add_argument("--delta", type=float, default=0.05)
    arguments.add_argument("--out", type=Path, required=True, help="the JSON file; a table goes beside it")
    options = arguments.parse_args(argv)
    found = [
        simulate(curve, alpha, options.delta, labels, options.repetitions)
        for curve in CURVES
        for alpha in options.alpha
        for labels in options.labels
    ]
    result: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.certification", *argv]),
        "found": [asdict(each) | {"kept": each.kept} for each in found],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(as_markdown(found) + "\n")
    print(as_markdown(found))
    if broken := [each.curve for each in found if not each.kept]:
        sys.exit(f"the promise is broken more often than {options.delta:g}: {', '.join(sorted(set(broken)))}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""How sure a match is, in one number from all that retrieval sees of it.

A logistic regression whose slopes have the sign that each input must have: more uncertainty never makes a match surer,
a closer match never less sure. Fitted on labelled queries that have no other use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from uncertainty.checks import Booleans, Floats, require_binary, require_paired, require_rows

RISING: Final = ("uncertainty", "novelty", "result_uncertainty")
FALLING: Final = ("top_score", "margin", "agreement")
INPUTS: Final = (*RISING, *FALLING)
"""What a match may be judged by: those that make it less sure as they rise, and those that make it surer.

`uncertainty` and `novelty` of the query, `result_uncertainty` of the best match; `top_score`, its cosine; `margin`,
that less the best cosine of another label or group; `agreement`, the share of the nearest that have its label.
"""

RIDGE: Final = 1e-3
STEPS: Final = 100
TOLERANCE: Final = 1e-9


@dataclass(frozen=True)
class MatchConfidence:
    """A fitted score: log-odds that the best match is wrong, `intercept + sum(slope * (input - centre) / scale)`.

    All tuples are in the order of `inputs`.
    """

    inputs: tuple[str, ...]
    centre: tuple[float, ...]
    scale: tuple[float, ...]
    slope: tuple[float, ...]
    intercept: float

    def score(self, evidence: Mapping[str, Floats]) -> NDArray[np.float64]:
        """(n,) of each input -> (n,) log-odds that a match is wrong, higher is less sure.

        Raises:
            ValueError: where an input is missing, not finite, or of another length.
        """
        rows = _rows(evidence, self.inputs)
        scaled = (rows - np.asarray(self.centre)) / np.asarray(self.scale)
        total: NDArray[np.float64] = self.intercept + scaled @ np.asarray(self.slope)
        return total


def fit_match_confidence(evidence: Mapping[str, Floats], wrong: Booleans) -> MatchConfidence:
    """Fit the score on labelled queries.

    Args:
        evidence: any of `INPUTS`, each (n,).
        wrong: (n,), whether the best match is wrong; both must occur.

    Raises:
        ValueError: for no input or an unknown one, and unless all are finite and of one length.
    """
    if unknown := sorted(set(evidence) - set(INPUTS)):
        raise ValueError(f"there is no input {', '.join(unknown)}; there are {', '.join(INPUTS)}")
    inputs = tuple(name for name in INPUTS if name in evidence)
    rows = _rows(evidence, inputs)
    require_paired(wrong=wrong)
    require_binary("wrong", wrong)
    if wrong.size != rows.shape[0]:
        raise ValueError(f"wrong has {wrong.size} values for {rows.shape[0]} queries")
    centre, spread = rows.mean(axis=0), rows.std(axis=0)
    scale = np.where(spread > 0, spread, 1.0)  # an input that is constant says nothing
    sign = np.asarray([1.0 if name in RISING else -1.0 for name in inputs])
    slope, intercept = fit_rising_logistic((rows - centre) / scale * sign, wrong)
    return MatchConfidence(inputs, _floats(centre), _floats(scale), _floats(slope * sign), intercept)


def fit_rising_logistic(rows: Floats, positive: Booleans) -> tuple[NDArray[np.float64], float]:
    """Logistic regression with slopes of at least 0: (n, d) rows -> ((d,) slopes, intercept).

    Newton steps on the slopes that are free to move, projected, with a light ridge on the slopes.

    Source: Bertsekas, "Projected Newton methods for optimization problems with simple constraints" (SICON, 1982).
    """
    design = np.column_stack([np.asarray(rows, dtype=np.float64), np.ones(rows.shape[0])])  # (n, d + 1)
    target = positive.astype(np.float64)
    ridge = np.append(np.full(rows.shape[1], RIDGE), 0.0)
    least = np.append(np.zeros(rows.shape[1]), -np.inf)
    share = target.mean()
    weights = np.append(np.zeros(rows.shape[1]), np.log(share / (1.0 - share)))
    for _ in range(STEPS):
        probability = _sigmoid(design @ weights)
        gradient = design.T @ (probability - target) / target.size + ridge * weights
        free = (weights > least) | (gradient < 0)
        if np.abs(gradient[free]).max(initial=0.0) < TOLERANCE:
            break
        curvature = (design * (probability * (1 - probability))[:, None]).T @ design / target.size + np.diag(ridge)
        step = np.zeros_like(weights)
        step[free] = np.linalg.solve(curvature[np.ix_(free, free)] + 1e-12 * np.eye(free.sum()), gradient[free])
        weights = _descend(design, target, ridge, least, weights, step, gradient)
    return weights[:-1], float(weights[-1])


def _descend(
    design: NDArray[np.float64],
    target: NDArray[np.float64],
    ridge: NDArray[np.float64],
    least: NDArray[np.float64],
    weights: NDArray[np.float64],
    step: NDArray[np.float64],
    gradient: NDArray[np.float64],
) -> NDArray[np.float64]:
    """The longest of the step, its half, its quarter ... that lowers the loss enough, kept within bounds."""

    def loss(at: NDArray[np.float64]) -> float:
        margin = design @ at
        return float((np.logaddexp(0.0, margin) - target * margin).mean() + 0.5 * (ridge * at**2).sum())

    before, length = loss(weights), 1.0
    while length > 1e-10:
        moved = np.maximum(least, weights - length * step)
        if loss(moved) <= before - 1e-4 * float(gradient @ (weights - moved)):
            return moved
        length /= 2
    return weights


def _rows(evidence: Mapping[str, Floats], inputs: Sequence[str]) -> NDArray[np.float64]:
    """(n, d) of the inputs, in their order."""
    if missing := [name for name in inputs if name not in evidence]:
        raise ValueError(f"the evidence lacks {', '.join(missing)}")
    if not inputs:
        raise ValueError(f"the evidence is empty: give some of {', '.join(INPUTS)}")
    columns = {name: np.asarray(evidence[name], dtype=np.float64) for name in inputs}
    require_rows(columns[inputs[0]].size, **columns)
    return np.column_stack([columns[name] for name in inputs])


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0.0, -values))


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(values.tolist())

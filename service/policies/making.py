"""Making a policy of labelled queries: fit the score on some, certify every promise on the others."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.evidence import Grouping
from service.policies.policy import Policy, Quality, SelectiveRisk, columns_of
from service.policies.promise import Certified, Labelled, Target
from service.policies.state import GalleryState
from uncertainty.certification import certify_bounded_loss, certify_threshold, one_of_each
from uncertainty.confidence import INPUTS, RISING, MatchConfidence, fit_match_confidence
from uncertainty.conformal import AdaptiveK, fit_adaptive_k
from uncertainty.drift import Reference, reference_of
from uncertainty.metrics import r_auroc, selective_risk
from uncertainty.probability import Probability, fit_probability, reliability

GRID: Final = 100  # thresholds tried: quantiles of the score over the development queries
WATCHED: Final = ("score", "uncertainty", "top_score", "margin")  # whose drift is watched
CURVE: Final = 100  # points of a curve of selective risk, evenly spaced in coverage
LEAST_DEVELOPMENT: Final = 50
LEAST_CERTIFICATION: Final = 50


class PolicyError(ValueError):
    """Labelled queries of which no policy can be made; the message says why."""


def make_policy(
    name: str,
    targets: Sequence[Target],
    development: Sequence[Labelled],
    certification: Sequence[Labelled],
    *,
    bundle_hash: str,
    grouping: Grouping,
    gallery: GalleryState,
    created: str,
) -> Policy:
    """Fit the score on the development queries, then certify every target on the others.

    Raises:
        PolicyError: for too few queries, none in common of their inputs, development queries that are all right or
            all wrong, or labels of fewer matches than a target is about.
    """
    for kind, queries, least in (
        ("development", development, LEAST_DEVELOPMENT),
        ("certification", certification, LEAST_CERTIFICATION),
    ):
        if len(queries) < least:
            raise PolicyError(f"{len(queries)} {kind} queries, and at least {least} are needed")
    inputs = [name for name in INPUTS if all(name in query.evidence for query in (*development, *certification))]
    if not inputs:
        raise PolicyError(f"the queries have no input in common: give each some of {', '.join(INPUTS)}")
    wrong = np.array([not query.correct for query in development])
    if wrong.all() or not wrong.any():
        raise PolicyError("the development queries must hold right and wrong matches, to learn them apart")
    fitted = fit_match_confidence(columns_of([query.evidence for query in development], inputs), wrong)
    score = fitted.score(columns_of([query.evidence for query in development], inputs))
    probability = fit_probability(score, wrong)
    grid = np.quantile(score, np.arange(1, GRID + 1) / GRID, method="higher")
    certified = columns_of([query.evidence for query in certification], inputs)
    return Policy(
        name=name,
        created=created,
        bundle_hash=bundle_hash,
        grouping=grouping,
        gallery=gallery,
        confidence=fitted,
        probability=probability,
        certified=tuple(_certify(fitted.score(certified), certification, target, grid) for target in targets),
        references=_references(fitted.score(certified), certified),
        quality=_quality(fitted, probability, certified, certification),
    )


def _certify(
    score: NDArray[np.float64], queries: Sequence[Labelled], target: Target, grid: NDArray[np.float64]
) -> Certified:
    groups = _groups(queries)
    if target.k == "adaptive":
        return Certified(
            target, sets=_fit_sets([queries[place] for place in one_of_each(groups, len(queries), 0)], target)
        )
    try:
        loss = np.array([target.loss(query.relevant) for query in queries])
    except ValueError as error:
        raise PolicyError(f"a certification query lacks labels: {error}") from error
    if target.k == 1:
        return Certified(target, certify_threshold(score, loss > 0, target.alpha, target.delta, grid, groups))
    return Certified(target, certify_bounded_loss(score, loss, target.alpha, target.delta, grid, groups))


def _fit_sets(queries: Sequence[Labelled], target: Target) -> AdaptiveK:
    if any("uncertainty" not in query.evidence for query in queries):
        raise PolicyError("k adaptive needs the uncertainty of every certification query: ask with images")
    uncertainty = np.array([query.evidence["uncertainty"] for query in queries])
    return fit_adaptive_k(uncertainty, np.array([query.first_relevant for query in queries]), target.alpha)


def _groups(queries: Sequence[Labelled]) -> NDArray[np.intp]:
    names = [query.group if query.group is not None else f"\0{number}" for number, query in enumerate(queries)]
    groups: NDArray[np.intp] = np.unique(names, return_inverse=True)[1]
    return groups


def _references(score: NDArray[np.float64], columns: Mapping[str, NDArray[np.float64]]) -> dict[str, Reference]:
    watched = {"score": score, **columns}
    return {name: reference_of(watched[name]) for name in WATCHED if name in watched}


def _quality(
    fitted: MatchConfidence,
    probability: Probability,
    columns: Mapping[str, NDArray[np.float64]],
    queries: Sequence[Labelled],
) -> Quality:
    score, correct = fitted.score(columns), np.array([query.correct for query in queries])
    curve = reliability(probability.of(score), correct)
    ranked = None
    if correct.any() and not correct.all():
        ranked = {"score": r_auroc(score, correct)} | {
            name: r_auroc(values if name in RISING else -values, correct) for name, values in columns.items()
        }
    return Quality(
        queries=len(queries),
        base_risk=float(1.0 - correct.mean()),
        r_auroc=ranked,
        ece=curve.ece,
        predicted=tuple(curve.predicted.tolist()),
        observed=tuple(curve.observed.tolist()),
        count=tuple(curve.count.tolist()),
        selective_risk=_selective_risks(score, columns, correct),
    )


def _selective_risks(
    score: NDArray[np.float64], columns: Mapping[str, NDArray[np.float64]], correct: NDArray[np.bool_]
) -> dict[str, SelectiveRisk]:
    scores = {"score": score} | {name: columns[name] for name in ("uncertainty",) if name in columns}
    return {name: _selective_risk(values, correct) for name, values in scores.items()}


def _selective_risk(score: NDArray[np.float64], correct: NDArray[np.bool_]) -> SelectiveRisk:
    """The curve of selective risk at `CURVE` of its points at most, the last of them always."""
    curve = selective_risk(score, 1.0 - correct)
    places = np.unique(np.searchsorted(curve.coverage, np.arange(1, CURVE + 1) / CURVE - 1e-9))
    columns = (curve.threshold, curve.coverage, curve.risk)
    return SelectiveRisk(*(tuple(column[places].tolist()) for column in columns))

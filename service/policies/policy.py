"""A policy: how a match's confidence is computed, which thresholds on it are certified, and what for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from service.evidence import Grouping
from service.policies.state import GalleryState
from uncertainty.certification import Certificate, certify_threshold
from uncertainty.confidence import INPUTS, RISING, MatchConfidence, fit_match_confidence
from uncertainty.drift import Reference, reference_of
from uncertainty.metrics import r_auroc
from uncertainty.probability import Probability, fit_probability, reliability

GRID: Final = 100  # thresholds tried: quantiles of the score over the development queries
WATCHED: Final = ("score", "uncertainty", "top_score", "margin")  # whose drift is watched
LEAST_DEVELOPMENT: Final = 50
LEAST_CERTIFICATION: Final = 50

Reason = Literal["uncertain_query", "no_close_match", "ambiguous_match", "novel_query", "uncertain_match"]
REASONS: Final[Mapping[str, Reason]] = {
    "uncertainty": "uncertain_query",
    "novelty": "novel_query",
    "result_uncertainty": "uncertain_match",
    "top_score": "no_close_match",
    "margin": "ambiguous_match",
    "agreement": "ambiguous_match",
}


@dataclass(frozen=True)
class Target:
    """A promise: at most a share `alpha` of accepted matches is wrong, which fails with probability `delta` at most."""

    alpha: float
    delta: float


@dataclass(frozen=True)
class Labelled:
    """A labelled query: the evidence that its search gave, whether the best match was right, its near-duplicates."""

    evidence: Mapping[str, float]
    correct: bool
    group: str | None = None


@dataclass(frozen=True)
class Quality:
    """How good the score and the probability are on the certification queries.

    `base_risk` is the share of wrong matches among all; `r_auroc` of the score and of each of its inputs, None where
    one outcome is missing; `predicted` and `observed` are the reliability curve, `ece` its expected calibration error.
    """

    queries: int
    base_risk: float
    r_auroc: dict[str, float] | None
    ece: float
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    count: tuple[int, ...]


@dataclass(frozen=True)
class Policy:
    """Everything needed to follow a policy, and to know whether it still holds."""

    name: str
    created: str
    bundle_hash: str
    grouping: Grouping
    gallery: GalleryState
    confidence: MatchConfidence
    probability: Probability
    certificates: tuple[Certificate, ...]
    references: dict[str, Reference]
    quality: Quality

    def certificate(self, target: Target) -> Certificate | None:
        """The certificate of a pair that was certified; None for any other."""
        wanted = (target.alpha, target.delta)
        return next((each for each in self.certificates if (each.alpha, each.delta) == wanted), None)

    def missing(self, evidence: Mapping[str, float]) -> list[str]:
        """Inputs of the score that a query's evidence lacks."""
        return [name for name in self.confidence.inputs if name not in evidence]

    def judge(self, evidence: Mapping[str, float]) -> "Judgement":
        """The score of a match, and what it means."""
        score = float(self.confidence.score(_columns([evidence], self.confidence.inputs))[0])
        return Judgement(score, float(self.probability.of(np.asarray([score]))[0]), self._main_doubt(evidence))

    def _main_doubt(self, evidence: Mapping[str, float]) -> Reason:
        """The input that speaks most against the match."""
        fitted = self.confidence
        columns = zip(fitted.inputs, fitted.slope, fitted.centre, fitted.scale, strict=True)
        doubts = {name: slope * (evidence[name] - centre) / scale for name, slope, centre, scale in columns}
        return REASONS[max(doubts, key=lambda name: doubts[name])]


@dataclass(frozen=True)
class Judgement:
    """A match's score, higher is less sure; how probably it is right; and what to blame where it is not sure."""

    score: float
    p_correct: float
    doubt: Reason


class PolicyError(ValueError):
    """Labelled queries of which no policy can be made; the message says why."""


POLICY: Final = TypeAdapter(Policy)


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
        PolicyError: for too few queries, none in common of their inputs, or development queries that are all right or
            all wrong.
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
    fitted = fit_match_confidence(_columns([query.evidence for query in development], inputs), wrong)
    score = fitted.score(_columns([query.evidence for query in development], inputs))
    probability = fit_probability(score, wrong)
    grid = np.quantile(score, np.arange(1, GRID + 1) / GRID, method="higher")
    certified = _columns([query.evidence for query in certification], inputs)
    return Policy(
        name=name,
        created=created,
        bundle_hash=bundle_hash,
        grouping=grouping,
        gallery=gallery,
        confidence=fitted,
        probability=probability,
        certificates=_certify(fitted.score(certified), certification, targets, grid),
        references=_references(fitted.score(certified), certified),
        quality=_quality(fitted, probability, certified, certification),
    )


def _certify(
    score: NDArray[np.float64], queries: Sequence[Labelled], targets: Sequence[Target], grid: NDArray[np.float64]
) -> tuple[Certificate, ...]:
    wrong = np.array([not query.correct for query in queries])
    names = [query.group if query.group is not None else f"\0{number}" for number, query in enumerate(queries)]
    groups = np.unique(names, return_inverse=True)[1]
    return tuple(certify_threshold(score, wrong, each.alpha, each.delta, grid, groups) for each in targets)


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
    )


def _columns(evidence: Sequence[Mapping[str, float]], inputs: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    return {name: np.array([each[name] for each in evidence], dtype=np.float64) for name in inputs}

"""A policy: how a match's confidence is computed, what is promised of it, and what that was certified against."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from service.evidence import Grouping
from service.policies.promise import Certified
from service.policies.state import GalleryState
from uncertainty.confidence import MatchConfidence
from uncertainty.drift import Reference
from uncertainty.probability import Probability

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
class SelectiveRisk:
    """Accepting up to `threshold` accepts the share `coverage` of the queries, and of these `risk` have a wrong match.

    All (t,), thresholds ascending.
    """

    threshold: tuple[float, ...]
    coverage: tuple[float, ...]
    risk: tuple[float, ...]


@dataclass(frozen=True)
class Quality:
    """How good the score and the probability are on the certification queries.

    `base_risk` is the share of wrong matches among all; `r_auroc` of the score and of each of its inputs, None where
    one outcome is missing; `predicted` and `observed` are the reliability curve, `ece` its expected calibration error;
    `selective_risk` by the score, and by the query's uncertainty alone where that is known.
    """

    queries: int
    base_risk: float
    r_auroc: dict[str, float] | None
    ece: float
    predicted: tuple[float, ...]
    observed: tuple[float, ...]
    count: tuple[int, ...]
    selective_risk: dict[str, SelectiveRisk] = field(default_factory=dict)


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
    certified: tuple[Certified, ...]
    references: dict[str, Reference]
    quality: Quality

    def missing(self, evidence: Mapping[str, float]) -> list[str]:
        """Inputs of the score that a query's evidence lacks."""
        return [name for name in self.confidence.inputs if name not in evidence]

    def judge(self, evidence: Mapping[str, float]) -> "Judgement":
        """The score of a match, and what it means."""
        score = float(self.confidence.score(columns_of([evidence], self.confidence.inputs))[0])
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


POLICY: Final = TypeAdapter(Policy)


def columns_of(evidence: Sequence[Mapping[str, float]], inputs: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """(n,) of each input, in the order of the queries."""
    return {name: np.array([each[name] for each in evidence], dtype=np.float64) for name in inputs}

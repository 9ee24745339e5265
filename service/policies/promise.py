"""What a policy promises, the labelled queries that prove it, and what keeps it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from uncertainty.certification import Certificate
from uncertainty.conformal import AdaptiveK

K = int | Literal["adaptive"]


@dataclass(frozen=True)
class Target:
    """A promise about the first `k` matches.

    k = 1: at most a share `alpha` of accepted best matches is wrong. More: the mean of 1 - precision@k is at most alpha
    over accepted queries. Both fail with probability `delta` at most. `adaptive`: as many matches as hold a relevant
    one with probability 1 - alpha, on average over certifications, and in each fifth of the queries by uncertainty;
    nothing is rejected for it, and `delta` is only how often audits may raise a false alarm.
    """

    alpha: float
    delta: float
    k: K = 1

    def loss(self, relevant: Sequence[bool]) -> float:
        """What this promise is about, of one query: 0.0 is all right, 1.0 all wrong.

        Args:
            relevant: whether each match is right, best first: `k` of them at least.

        Raises:
            ValueError: for fewer.
        """
        if self.k == "adaptive":
            return float(not any(relevant))
        if len(relevant) < self.k:
            raise ValueError(f"alpha {self.alpha:g} is about {self.k} matches: say of each whether it is relevant")
        return 1.0 - sum(relevant[: self.k]) / self.k

    def __str__(self) -> str:
        text = f"alpha {self.alpha:g} with delta {self.delta:g}"
        return text if self.k == 1 else f"{text} and k {self.k}"


@dataclass(frozen=True)
class Labelled:
    """A labelled query: the evidence that its search gave, which matches were right, and its near-duplicates.

    `relevant` is of the matches, best first: the best one at least, more for promises about more.
    """

    evidence: Mapping[str, float]
    relevant: tuple[bool, ...]
    group: str | None = None

    @property
    def correct(self) -> bool:
        """Whether the best match is right."""
        return self.relevant[0]

    @property
    def first_relevant(self) -> float:
        """The rank of the first relevant match, from 1; infinite where none is."""
        return next((rank for rank, right in enumerate(self.relevant, start=1) if right), math.inf)


@dataclass(frozen=True)
class Certified:
    """What keeps a promise: the threshold of `certificate`, or the lengths of `sets`; one of them is there."""

    target: Target
    certificate: Certificate | None = None
    sets: AdaptiveK | None = None

    @property
    def feasible(self) -> bool:
        """Whether it can be kept at all."""
        if self.certificate is not None:
            return self.certificate.feasible
        return self.sets is not None and any(k is not None for k in self.sets.k)

"""Queries split again and again into development, certification and test: what is promised, and what comes true."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.policies.asking import Asked
from service.evidence import Grouping
from service.policies.making import make_policy
from service.policies.policy import Policy
from service.policies.promise import Labelled, Target
from service.policies.state import GalleryState
from uncertainty.metrics import r_auroc

TARGETS: Final = (
    Target(0.10, 0.05),
    Target(0.05, 0.05),
    Target(0.20, 0.05),
    Target(0.30, 0.05, 5),
    Target(0.20, 0.05, "adaptive"),
)
FOLLOWED: Final = (TARGETS[0], TARGETS[2])  # the first of these that can be certified is followed
SHARES: Final = (0.15, 0.5)  # of development and certification; the rest is the test
DRAWS: Final = 200  # of certification queries with replacement, for each gallery


@dataclass(frozen=True)
class Split:
    """Places of queries."""

    development: NDArray[np.intp]
    certification: NDArray[np.intp]
    test: NDArray[np.intp]


def split(count: int, seed: int) -> Split:
    """Three parts, at random."""
    order = np.random.default_rng(seed).permutation(count)
    first, second = round(SHARES[0] * count), round(sum(SHARES) * count)
    return Split(order[:first], order[first:second], order[second:])


def to_follow(asked: Sequence[Asked], tries: int = 20) -> tuple[Split, Target]:
    """The first split in which one of `FOLLOWED` can be certified, the first of them before the second, and which.

    Raises:
        LookupError: where none can in so many.
    """
    parts = [split(len(asked), number) for number in range(tries)]
    policies = [policy_of(asked, each.development, each.certification) for each in parts]
    for target in FOLLOWED:
        for each, policy in zip(parts, policies, strict=True):
            if any(certified.feasible for certified in policy.certified if certified.target == target):
                return each, target
    raise LookupError(f"none of {', '.join(map(str, FOLLOWED))} could be certified in {tries} splits")


def policy_of(asked: Sequence[Asked], development: NDArray[np.intp], certification: NDArray[np.intp]) -> Policy:
    """The policy that the server makes of the same labelled queries."""
    return make_policy(
        "p",
        TARGETS,
        [labelled(asked[place]) for place in development],
        [labelled(asked[place]) for place in certification],
        bundle_hash="",
        grouping=Grouping("label"),
        gallery=GalleryState(0, ()),
        created="",
    )


def labelled(asked: Asked) -> Labelled:
    """A query with its labels."""
    return Labelled(asked.evidence, asked.relevant)


def outcome(asked: Sequence[Asked], parts: Split) -> dict[str, Any]:
    """What a split promises, and what its test queries show of it."""
    policy = policy_of(asked, parts.development, parts.certification)
    test = [asked[place] for place in parts.test]
    score = np.array([policy.judge(each.evidence).score for each in test])
    correct = np.array([each.relevant[0] for each in test])
    uncertainty = np.array([each.evidence["uncertainty"] for each in test])
    top = np.array([each.evidence["top_score"] for each in test])
    return {
        "targets": [_kept(certified, score, test) for certified in policy.certified],
        "base_risk": float(1 - correct.mean()),
        "ece": policy.quality.ece,
        "r_auroc": {
            "score": r_auroc(score, correct),
            "uncertainty": r_auroc(uncertainty, correct),
            "1 - cosine": r_auroc(-top, correct),
        },
    }


def redrawn(asked: Sequence[Asked], seed: int) -> list[dict[str, Any]]:
    """Certify `DRAWS` times on queries drawn with replacement, of which all together are the truth.

    That is the promise to the letter: queries drawn independently, and the risk known of the very ones drawn from.
    """
    parts = split(len(asked), seed)
    rng, rest = np.random.default_rng(seed), np.concatenate([parts.certification, parts.test])
    found = []
    for _ in range(DRAWS):
        drawn = rng.choice(rest, parts.certification.size)
        found.append(outcome(asked, Split(parts.development, drawn, rest)))
    return found


def _kept(certified: Any, score: NDArray[np.float64], test: Sequence[Asked]) -> dict[str, Any]:
    target: Target = certified.target
    named = {"alpha": target.alpha, "delta": target.delta, "k": target.k, "feasible": certified.feasible}
    if certified.sets is not None:
        return named | _of_sets(certified.sets, target, test)
    threshold = certified.certificate.threshold
    accepted = np.zeros(len(test), bool) if threshold is None else score <= threshold
    losses = np.array([target.loss(each.relevant) for each in test])
    risk = float(losses[accepted].mean()) if accepted.any() else None
    return named | {"coverage": float(accepted.mean()), "risk": risk, "accepted": int(accepted.sum())}


def _of_sets(sets: Any, target: Target, test: Sequence[Asked]) -> dict[str, Any]:
    """Of each fifth by uncertainty the share of sets without a right match, and their length."""
    place = np.searchsorted(sets.edges, [each.evidence["uncertainty"] for each in test], side="left")
    missed: list[float | None] = []
    for part, k in enumerate(sets.k):
        inside = [test[position] for position in np.flatnonzero(place == part).tolist()]
        losses = [] if k is None else [target.loss(each.relevant[:k]) for each in inside]
        missed.append(float(np.mean(losses)) if losses else None)
    return {"k_by_part": list(sets.k), "missed_by_part": missed}

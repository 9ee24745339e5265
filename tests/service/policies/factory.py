"""Labelled queries and policies made of them, for tests."""

import numpy as np

from service.evidence import Grouping
from service.policies.making import make_policy
from service.policies.policy import Policy
from service.policies.promise import Certified, Labelled, Target
from service.policies.state import GalleryState

TARGET = Target(0.1, 0.1)
STATE = GalleryState(3, (1, 2, 3))


def labelled(count: int, seed: int = 0, risk: float = 1.0, matches: int = 1) -> list[Labelled]:
    """Queries whose matches are wrong the more often the more uncertain they are and the farther the best one lies."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        uncertainty, top = float(rng.random()), float(rng.uniform(0.2, 1.0))
        odds = 6 * (uncertainty - 0.5) - 8 * (top - 0.5) - 0.5
        wrong = rng.random(matches) < risk / (1 + np.exp(-odds))
        evidence = {"uncertainty": uncertainty, "top_score": top, "margin": top / 4, "result_uncertainty": 0.5}
        found.append(Labelled(evidence, tuple((~wrong).tolist())))
    return found


def policy(name: str = "shop", created: str = "2026-01-01", targets: tuple[Target, ...] = (TARGET,)) -> Policy:
    return make_policy(
        name,
        targets,
        labelled(400, 0),
        labelled(1500, 1),
        bundle_hash="sha256:b",
        grouping=Grouping("label"),
        gallery=STATE,
        created=created,
    )


def kept(policy: Policy, target: Target) -> Certified:
    """What keeps one of a policy's promises."""
    return next(each for each in policy.certified if each.target == target)

"""Labelled queries and policies made of them, for tests."""

import numpy as np

from service.evidence import Grouping
from service.policies.policy import Labelled, Policy, Target, make_policy
from service.policies.state import GalleryState

TARGET = Target(0.1, 0.1)
STATE = GalleryState(3, (1, 2, 3))


def labelled(count: int, seed: int = 0, risk: float = 1.0) -> list[Labelled]:
    """Queries whose match is wrong the more often the more uncertain they are and the farther it lies."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        uncertainty, top = float(rng.random()), float(rng.uniform(0.2, 1.0))
        odds = 6 * (uncertainty - 0.5) - 8 * (top - 0.5) - 0.5
        wrong = rng.random() < risk / (1 + np.exp(-odds))
        evidence = {"uncertainty": uncertainty, "top_score": top, "margin": top / 4, "result_uncertainty": 0.5}
        found.append(Labelled(evidence, bool(not wrong)))
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

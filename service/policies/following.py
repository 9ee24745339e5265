"""Answering a query by a policy: accept the best match or abstain, and say what is promised."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.errors import InvalidOption
from service.policies.desk import Policies, Standing
from service.policies.policy import Judgement, Policy, Reason, Target
from service.policies.store import Answer


@dataclass(frozen=True)
class Followed:
    """What a policy says of a search; no judgement where nothing was found."""

    policy: Policy
    target: Target
    standing: Standing
    evidence: Mapping[str, float] | None
    judgement: Judgement | None
    accepted: bool

    @property
    def reason(self) -> Reason:
        """Why it abstains, where it does."""
        return self.judgement.doubt if self.judgement else "no_close_match"

    @property
    def guarantee(self) -> dict[str, Any]:
        """What is promised of accepted matches."""
        return {
            "status": self.standing.status,
            "policy": self.policy.name,
            "alpha": self.target.alpha,
            "delta": self.target.delta,
            "reasons": list(self.standing.reasons),
        }


def resolve_target(policy: Policy, alpha: float | None, delta: float | None) -> Target:
    """The pair that a request means: the one it names, or the policy's only one.

    Raises:
        InvalidOption: for a pair that was not certified, or none where there are several.
    """
    pairs = [(each.alpha, each.delta) for each in policy.certificates]
    fitting = [pair for pair in pairs if alpha in (None, pair[0]) and delta in (None, pair[1])]
    if len(fitting) != 1:
        listed = ", ".join(f"alpha {pair[0]:g} with delta {pair[1]:g}" for pair in pairs)
        raise InvalidOption(f"policy {policy.name!r} was made for {listed}: name one of them")
    target = Target(*fitting[0])
    certificate = policy.certificate(target)
    if certificate is None or not certificate.feasible:
        needed = certificate.labels_needed if certificate else None
        more = f"about {needed} labelled queries would be needed" if needed else "no number of labels would do"
        raise InvalidOption(f"alpha {target.alpha:g} with delta {target.delta:g} could not be certified: {more}")
    return target


def follow(policy: Policy, target: Target, standing: Standing, evidence: Mapping[str, float] | None) -> Followed:
    """Accept where the score is within the certified threshold.

    Raises:
        InvalidOption: where the query lacks an input of the score.
    """
    if evidence is None:
        return Followed(policy, target, standing, None, None, accepted=False)
    if missing := policy.missing(evidence):
        raise InvalidOption(
            f"policy {policy.name!r} judges by {', '.join(policy.confidence.inputs)}, and this query has no "
            f"{', '.join(missing)}: ask with an image, or make a policy of queries like this one"
        )
    judgement = policy.judge(evidence)
    certificate = policy.certificate(target)
    accepted = (
        certificate is not None and certificate.threshold is not None and judgement.score <= certificate.threshold
    )
    return Followed(policy, target, standing, evidence, judgement, accepted)


def remember(followed: Followed, request_id: str, desk: Policies) -> None:
    """Keep the answer for feedback, and its query for drift."""
    answer = Answer(
        request_id, followed.policy.name, followed.policy.created, followed.target, followed.accepted, time.time()
    )
    values = dict(followed.evidence or {})
    if followed.judgement is not None:
        values["score"] = followed.judgement.score
    desk.note(answer, values)

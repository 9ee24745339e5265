"""Answering a query by a policy: how many matches, whether to accept them or abstain, and what is promised."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from service.errors import InvalidOption
from service.policies.desk import Policies, Standing
from service.policies.policy import Judgement, Policy, Reason
from service.policies.promise import Certified, K, Target
from service.policies.store import Answer

Kind = Literal["best_match", "precision", "set"]


@dataclass(frozen=True)
class Asked:
    """A policy, and the one of its promises that a request wants kept."""

    policy: Policy
    certified: Certified

    @property
    def target(self) -> Target:
        """The promise."""
        return self.certified.target

    def matches_for(self, uncertainty: float | None) -> int | None:
        """How many matches the promise is about, for a query of that uncertainty; None where no number would do.

        Raises:
            InvalidOption: where that depends on the uncertainty, and there is none.
        """
        if self.target.k != "adaptive":
            return self.target.k
        if uncertainty is None:
            raise InvalidOption("a vector has no uncertainty, which says how many matches it needs: ask with an image")
        assert self.certified.sets is not None
        return self.certified.sets.k_of(uncertainty)


@dataclass(frozen=True)
class Followed:
    """What a policy says of a search; no judgement where nothing was found.

    `k` is the number of matches that the promise is about, None where no number would do.
    """

    asked: Asked
    k: int | None
    standing: Standing
    evidence: Mapping[str, float] | None
    judgement: Judgement | None
    accepted: bool

    @property
    def reason(self) -> Reason:
        """Why it abstains, where it does."""
        if self.evidence is not None and self.k is None:
            return "uncertain_query"
        return self.judgement.doubt if self.judgement else "no_close_match"

    @property
    def guarantee(self) -> dict[str, Any]:
        """What is promised of accepted matches."""
        target = self.asked.target
        return {
            "status": self.standing.status,
            "policy": self.asked.policy.name,
            "kind": _kind(target.k),
            "k": self.k,
            "alpha": target.alpha,
            "delta": None if target.k == "adaptive" else target.delta,
            "reasons": list(self.standing.reasons),
        }


def resolve(policy: Policy, alpha: float | None, delta: float | None, k: K | None) -> Asked:
    """The promise that a request means: the one it names, or the policy's only one.

    Raises:
        InvalidOption: for one that was not certified, or none where there are several.
    """
    wanted = {"alpha": alpha, "delta": delta, "k": k}
    given = {name: value for name, value in wanted.items() if value is not None}
    fitting = [each for each in policy.certified if all(getattr(each.target, n) == v for n, v in given.items())]
    if len(fitting) != 1:
        listed = ", or ".join(str(each.target) for each in policy.certified)
        raise InvalidOption(f"policy {policy.name!r} was made for {listed}: name one of them")
    if not fitting[0].feasible:
        certificate = fitting[0].certificate
        needed = certificate.labels_needed if certificate else None
        more = f"about {needed} labelled queries would be needed" if needed else "no number of labels would do"
        raise InvalidOption(f"{fitting[0].target} could not be certified: {more}")
    return Asked(policy, fitting[0])


def follow(asked: Asked, k: int | None, standing: Standing, evidence: Mapping[str, float] | None) -> Followed:
    """Accept where the score is within the certified threshold, or where there is a number of matches that will do.

    Args:
        asked: the promise.
        k: of `asked.matches_for`.
        standing: whether it holds.
        evidence: of the search; None where nothing was found.

    Raises:
        InvalidOption: where the query lacks an input of the score.
    """
    if evidence is None:
        return Followed(asked, k, standing, None, None, accepted=False)
    if missing := asked.policy.missing(evidence):
        raise InvalidOption(
            f"policy {asked.policy.name!r} judges by {', '.join(asked.policy.confidence.inputs)}, and this query has "
            f"no {', '.join(missing)}: ask with an image, or make a policy of queries like this one"
        )
    judgement = asked.policy.judge(evidence)
    certificate = asked.certified.certificate
    if certificate is None:
        accepted = k is not None
    else:
        accepted = certificate.threshold is not None and judgement.score <= certificate.threshold
    return Followed(asked, k, standing, evidence, judgement, accepted)


def remember(followed: Followed, request_id: str, desk: Policies) -> None:
    """Keep the answer for feedback, and its query for drift."""
    policy = followed.asked.policy
    answer = Answer(request_id, policy.name, policy.created, followed.asked.target, followed.accepted, time.time())
    values = dict(followed.evidence or {})
    if followed.judgement is not None:
        values["score"] = followed.judgement.score
    desk.note(answer, values)


def _kind(k: K) -> Kind:
    if k == "adaptive":
        return "set"
    return "best_match" if k == 1 else "precision"

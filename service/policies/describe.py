"""What is said of a policy, over HTTP."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from service.policies.desk import Standing
from service.policies.policy import Policy
from service.policies.promise import Certified, Target
from service.policies.store import Audited, Watched
from uncertainty.certification import Certificate
from uncertainty.conformal import AdaptiveK


def as_dict(
    policy: Policy, standing: Standing, audits: Mapping[Target, Audited], watched: Mapping[str, Watched]
) -> dict[str, Any]:
    """What is said of a policy."""
    return {
        "name": policy.name,
        "created": policy.created,
        "status": standing.status,
        "status_reasons": list(standing.reasons),
        "bundle_hash": policy.bundle_hash,
        "gallery": {"items": policy.gallery.items, "hash": policy.gallery.hash},
        "inputs": list(policy.confidence.inputs),
        "label_field": policy.grouping.label_field,
        "group_field": policy.grouping.group_field,
        "targets": [_target(each, audits[each.target]) for each in policy.certified],
        "quality": {
            "queries": policy.quality.queries,
            "base_risk": policy.quality.base_risk,
            "r_auroc": policy.quality.r_auroc,
            "ece": policy.quality.ece,
            "reliability": [
                {"predicted": predicted, "observed": observed, "queries": count}
                for predicted, observed, count in zip(
                    policy.quality.predicted, policy.quality.observed, policy.quality.count, strict=True
                )
            ],
            "selective_risk": {name: asdict(curve) for name, curve in policy.quality.selective_risk.items()},
        },
        "drift": {
            name: {
                "looks": each.looks,
                "psi": each.last.psi if each.last else None,
                "limit": each.last.limit if each.last else None,
                "alarmed_at": each.alarmed_at,
            }
            for name, each in watched.items()
        },
    }


def _target(certified: Certified, audited: Audited) -> dict[str, Any]:
    target = certified.target
    return {
        "alpha": target.alpha,
        "delta": target.delta,
        "k": target.k,
        "feasible": certified.feasible,
        "certificate": _certificate(certified.certificate) if certified.certificate else None,
        "sets": _sets(certified.sets) if certified.sets else None,
        "audits": {
            "count": audited.audit.count,
            "loss": audited.audit.loss,
            "e_value": audited.audit.e_value,
            "shiryaev_roberts": audited.audit.shiryaev_roberts,
            "alarmed_at": audited.alarmed_at,
        },
    }


def _certificate(certificate: Certificate) -> dict[str, Any]:
    return {
        "threshold": certificate.threshold,
        "coverage": certificate.coverage,
        "labels": certificate.labels,
        "accepted": certificate.accepted,
        "loss": certificate.loss,
        "labels_needed": certificate.labels_needed,
    }


def _sets(sets: AdaptiveK) -> list[dict[str, Any]]:
    """Of each part of the queries, from the surest: above which uncertainty it begins, and its number of matches."""
    return [{"above": edge, "k": k} for edge, k in zip((None, *sets.edges), sets.k, strict=True)]

"""What is said of a policy, over HTTP."""

from collections.abc import Mapping
from typing import Any

from service.policies.desk import Standing
from service.policies.policy import Policy, Target
from service.policies.store import Audited, Watched


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
        "targets": [_target(policy, target, audited) for target, audited in audits.items()],
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


def _target(policy: Policy, target: Target, audited: Audited) -> dict[str, Any]:
    certificate = policy.certificate(target)
    assert certificate is not None
    return {
        "alpha": target.alpha,
        "delta": target.delta,
        "feasible": certificate.feasible,
        "threshold": certificate.threshold,
        "coverage": certificate.coverage,
        "labels": certificate.labels,
        "accepted": certificate.accepted,
        "wrong": round(certificate.loss),
        "labels_needed": certificate.labels_needed,
        "audits": {
            "count": audited.audit.count,
            "wrong": audited.audit.loss,
            "e_value": audited.audit.e_value,
            "shiryaev_roberts": audited.audit.shiryaev_roberts,
            "alarmed_at": audited.alarmed_at,
        },
    }

"""A certified policy on a server, for pages that follow it."""

from dataclasses import asdict
from typing import Any

from httpx2 import Client

from tests.service.policies.factory import labelled

TARGET = {"alpha": 0.1, "delta": 0.1}


def make_policy(client: Client, *, scale: float = 1.0, name: str = "shop") -> list[dict[str, Any]]:
    """Certify a policy whose queries have uncertainties from 0 to `scale`; the certification queries."""
    development, certification = ([_scaled(asdict(each), scale) for each in labelled(n, n)] for n in (400, 1500))
    infeasible = {"alpha": 0.001, "delta": 0.01}
    content = {
        "name": name,
        "targets": [TARGET, infeasible],
        "development": development,
        "certification": certification,
    }
    response = client.post("/policies", json=content)
    assert response.status_code == 201, response.text
    return certification


def _scaled(query: dict[str, Any], scale: float) -> dict[str, Any]:
    evidence = query["evidence"] | {"uncertainty": scale * query["evidence"]["uncertainty"]}
    return {**query, "evidence": evidence}

"""The policies of a server: certified thresholds, and whether their answers were right."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from scripts.client import calls
from scripts.client.options import Labelled, Target
from scripts.client.results import Feedback, Policy

if TYPE_CHECKING:
    from scripts.client.asynchronous import AsyncClient
    from scripts.client.sync import Client


class Policies:
    """Certified thresholds."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def all(self) -> list[Policy]:
        """Every policy, and whether it still holds."""
        return self._client.ask(calls.policies())

    def get(self, name: str) -> Policy:
        """One of them; ApiError `unknown_policy` where there is none."""
        return self._client.ask(calls.policy(name))

    def create(
        self,
        name: str,
        targets: Sequence[Target],
        development: Sequence[Labelled],
        certification: Sequence[Labelled],
    ) -> Policy:
        """Make a policy of labelled queries, in place of the one of that name; never twice by itself."""
        return self._client.ask(calls.create_policy(name, targets, development, certification))

    def delete(self, name: str) -> int:
        """Delete a policy and its audits; never twice by itself."""
        return self._client.ask(calls.delete_policy(name))

    def feedback(
        self, request_id: str, *, correct: bool | None = None, relevant: Sequence[bool] | None = None
    ) -> Feedback:
        """Say whether the answer of that `Retrieval.request_id` was right, or which of its matches were."""
        return self._client.ask(calls.feedback(request_id, correct, relevant))


class AsyncPolicies:
    """As `Client.policies`."""

    def __init__(self, client: "AsyncClient") -> None:
        self._client = client

    async def all(self) -> list[Policy]:
        """As `Policies.all`."""
        return await self._client.ask(calls.policies())

    async def get(self, name: str) -> Policy:
        """As `Policies.get`."""
        return await self._client.ask(calls.policy(name))

    async def create(
        self,
        name: str,
        targets: Sequence[Target],
        development: Sequence[Labelled],
        certification: Sequence[Labelled],
    ) -> Policy:
        """As `Policies.create`."""
        return await self._client.ask(calls.create_policy(name, targets, development, certification))

    async def delete(self, name: str) -> int:
        """As `Policies.delete`."""
        return await self._client.ask(calls.delete_policy(name))

    async def feedback(
        self, request_id: str, *, correct: bool | None = None, relevant: Sequence[bool] | None = None
    ) -> Feedback:
        """As `Policies.feedback`."""
        return await self._client.ask(calls.feedback(request_id, correct, relevant))

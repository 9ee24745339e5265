"""The policies of a running server: which there are, whether each still holds, and what is learnt of them meanwhile."""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeVar, get_args

from service.errors import NotFound
from service.gallery.base import Gallery
from service.policies.policy import Policy
from service.policies.promise import Target
from service.policies.state import GalleryState, Sketcher
from service.policies.store import Answer, Audited, PolicyStore, Watched
from service.telemetry import BundleMetrics, Logger

TICK_S: Final = 1.0  # between two looks at what other processes wrote, and two writes of what was answered
COUNT_EVERY_S: Final = 10.0
SKETCH_EVERY_S: Final = 600.0  # also where the number of items is the same
REST_PER_LOOK: Final = 20.0  # how many times as long as a look at the gallery took to wait before the next
MOST_BUFFERED: Final = 10_000  # answers between two writes; beyond that the oldest are not kept for feedback

Status = Literal["valid", "stale", "alarm"]
STATUSES: Final[tuple[Status, ...]] = get_args(Status)
Result = TypeVar("Result")


class UnknownPolicy(NotFound):
    """No policy of that name."""

    type = "unknown_policy"
    title = "There is no such policy"


@dataclass(frozen=True)
class Standing:
    """Whether a policy's promise holds, and what speaks against it, in words."""

    status: Status
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class _Known:
    """A policy and what is known of it."""

    policy: Policy
    audits: Mapping[Target, Audited]
    watched: Mapping[str, Watched]


class Policies:
    """Owns the store; one for each process."""

    def __init__(
        self,
        store: PolicyStore,
        gallery: Gallery,
        bundle_hash: str,
        metrics: BundleMetrics,
        logger: Logger,
        *,
        max_change: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._gallery = gallery
        self._bundle_hash = bundle_hash
        self._metrics = metrics
        self._logger = logger
        self._max_change = max_change
        self._clock = clock
        self._known: dict[str, _Known] = {}
        self._answers: list[Answer] = []
        self._values: dict[str, list[Mapping[str, float]]] = defaultdict(list)
        self._state: GalleryState | None = None
        self._looked = 0.0
        self._said: dict[str, Status] = {}
        self._version: int | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read what is kept, and look after it from now on."""
        await self._refresh()
        if self._known:
            await self.look_at_gallery()
        self._task = asyncio.create_task(self._loop())

    async def close(self) -> None:
        """Write what was answered, and let go."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._write()
        await asyncio.to_thread(self._store.close)

    def all(self) -> list[Policy]:
        """Every policy, by name."""
        return [known.policy for known in self._known.values()]

    def get(self, name: str) -> Policy:
        """A policy.

        Raises:
            UnknownPolicy: where there is none of that name.
        """
        return self._of(name).policy

    def standing(self, name: str) -> Standing:
        """Whether a policy's promise holds now."""
        known = self._of(name)
        stale = self._why_stale(known.policy)
        alarms = [
            f"{audited.audit.loss:g} of {audited.audit.count} audited answers were wrong; alpha is {target.alpha:g}"
            for target, audited in known.audits.items()
            if audited.alarmed_at is not None
        ]
        alarms += [f"{name} has drifted" for name, watched in known.watched.items() if watched.alarmed_at is not None]
        status: Status = "alarm" if alarms else "stale" if stale else "valid"
        return Standing(status, (*alarms, *stale))

    def audits(self, name: str) -> Mapping[Target, Audited]:
        """What feedback came to, for each target."""
        return self._of(name).audits

    def watched(self, name: str) -> Mapping[str, Watched]:
        """What was found of drift, for each input."""
        return self._of(name).watched

    async def put(self, policy: Policy) -> None:
        """Keep a policy, in place of one of that name."""
        await asyncio.to_thread(self._store.put, policy)
        await self._refresh()

    async def delete(self, name: str) -> None:
        """Delete a policy.

        Raises:
            UnknownPolicy: where there is none of that name.
        """
        if not await asyncio.to_thread(self._store.delete, name):
            raise _unknown(name)
        await self._refresh()

    def note(self, answer: Answer, values: Mapping[str, float]) -> None:
        """Take in an answer given under a policy, and the values of its query that are watched."""
        self._answers.append(answer)
        del self._answers[:-MOST_BUFFERED]
        self._values[answer.policy].append(values)

    async def answer(self, request_id: str) -> Answer:
        """An answer that was given; errors as `PolicyStore.answer`."""
        await self._write()
        return await asyncio.to_thread(self._store.answer, request_id)

    async def judge_answer(self, request_id: str, loss: float) -> tuple[Answer, Audited | None]:
        """Take in feedback; errors as `PolicyStore.judge_answer`."""
        await self._write()
        judged = await asyncio.to_thread(self._store.judge_answer, request_id, loss, self._clock())
        await self._refresh()
        return judged

    async def look_at_gallery(self) -> GalleryState:
        """Which items there are now."""
        sketcher = Sketcher()
        async for items in self._gallery.scan():
            await asyncio.to_thread(sketcher.add, items)
        self._state, self._looked = sketcher.state(), time.monotonic()
        self.publish()
        return self._state

    async def _loop(self) -> None:
        due = time.monotonic() + COUNT_EVERY_S
        while True:
            await asyncio.sleep(TICK_S)
            try:
                wrote, version = await self._write(), await asyncio.to_thread(self._store.version)
                if wrote or version != self._version:
                    self._version = version
                    await self._refresh()
                if self._known and time.monotonic() >= due:
                    started = time.monotonic()
                    await self._look_if_changed()
                    due = time.monotonic() + max(COUNT_EVERY_S, REST_PER_LOOK * (time.monotonic() - started))
            except Exception as error:
                self._logger.error("policies could not be looked after", exc_info=error)

    async def _look_if_changed(self) -> None:
        """Look at the gallery where its number of items says that it has changed, and now and then."""
        fresh = time.monotonic() - self._looked < SKETCH_EVERY_S
        if self._state is None or not fresh or await self._gallery.count() != self._state.items:
            await self.look_at_gallery()

    async def _write(self) -> bool:
        """Whether there was something to write."""
        answers, values = self._answers, self._values
        if not answers and not values:
            return False
        self._answers, self._values = [], defaultdict(list)
        try:
            await asyncio.to_thread(self._store.record, answers, values, self._clock())
        except Exception:
            self._answers[:0] = answers  # for the next try
            for name, queries in values.items():
                self._values[name][:0] = queries
                del self._values[name][:-MOST_BUFFERED]
            raise
        return True

    async def _refresh(self) -> None:
        self._known = await asyncio.to_thread(self._read)
        self.publish()

    def publish(self) -> None:
        """Set each policy's gauge, and warn of one whose promise no longer holds."""
        self._lower(self._said.keys() - self._known.keys())
        for name in self._known:
            standing = self.standing(name)
            for status in STATUSES:
                self._metrics.policy_status.labels(name, status).set(status == standing.status)
            if standing.status not in ("valid", self._said.get(name)):
                self._logger.warning(
                    "a policy's promise may not hold", policy=name, status=standing.status, reasons=standing.reasons
                )
            self._said[name] = standing.status

    def withdraw(self) -> None:
        """Let no gauge speak of these policies: they are of a bundle that is served no more."""
        self._lower(set(self._said))

    def _lower(self, names: Iterable[str]) -> None:
        for name in names:
            for status in STATUSES:
                self._metrics.policy_status.labels(name, status).set(False)
            del self._said[name]

    def _read(self) -> dict[str, _Known]:
        return {
            name: _Known(
                policy,
                {target: self._store.audited(name, target) for target in (each.target for each in policy.certified)},
                self._store.watched(name),
            )
            for name, policy in self._store.policies().items()
        }

    def _why_stale(self, policy: Policy) -> list[str]:
        if policy.bundle_hash != self._bundle_hash:
            return ["it was certified with another bundle"]
        if self._state is None:
            return []
        changed = self._state.changed_since(policy.gallery)
        if changed <= self._max_change:
            return []
        return [
            f"{100 * changed:.0f} % of the gallery has changed since: {policy.gallery.items} items then, "
            f"{self._state.items} now"
        ]

    def _of(self, name: str) -> _Known:
        known = self._known.get(name)
        if known is None:
            raise _unknown(name)
        return known


def _unknown(name: str) -> UnknownPolicy:
    return UnknownPolicy(f"there is no policy {name!r}; GET /policies lists those there are")

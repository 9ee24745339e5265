"""Bringing in what has changed on disk or on the hub, while requests go on being answered.

What is new is loaded, checked and warmed beside what is served, and then takes its place for the requests after that,
all of it at once.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from models.bundle import BundleError
from service.errors import ReloadFailed
from service.gallery.base import GalleryError
from service.generation import Generation
from service.lifecycle import Lifecycle, draining
from service.loading import Loader
from service.policies.store import PolicyStoreError
from service.session import SessionError

REFUSALS: Final = (
    BundleError,
    SessionError,
    GalleryError,
    PolicyStoreError,
)  # for the operator to mend: their messages say how


@dataclass(frozen=True)
class Reloaded:
    """What was served before a reload, and what is served since."""

    before: Generation
    after: Generation

    @property
    def changed(self) -> list[str]:
        """Names of the bundles that are not what they were, new ones, and those that are gone."""
        before, after = self.before.by_name, self.after.by_name
        return [name for name in {**after, **before} if before.get(name) is not after.get(name)]


class Reloader:
    """Reloads one app, one reload at a time: one that is asked for meanwhile comes after it.

    `ask_all`, where there are several workers, asks each of them, this one included.
    """

    def __init__(self, lifecycle: Lifecycle, loader: Loader, ask_all: Callable[[], None] | None = None) -> None:
        self.ask_all = ask_all
        self._lifecycle = lifecycle
        self._loader = loader
        self._turn = asyncio.Lock()
        self._tasks: set[asyncio.Task[Reloaded]] = set()

    def start(self) -> "asyncio.Task[Reloaded]":
        """A reload, which runs to its end also where nobody waits for it; errors as `_reload`."""
        task = asyncio.create_task(self._reload())
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def close(self) -> None:
        """Give up what runs."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _reload(self) -> Reloaded:
        """Load what there is now, and serve with it.

        Raises:
            ReloadFailed: where it cannot be served; nothing has changed then.
            Unavailable: where loading failed at the start, or the server drains.
        """
        async with self._turn:
            await self._lifecycle.loaded.wait()
            before = self._lifecycle.require(self._lifecycle.generation)
            if self._lifecycle.draining:
                raise draining()
            after = await self._load(before)
            reloaded = Reloaded(before, after)
            if reloaded.changed:
                self._lifecycle.succeed(after)
            self._loader.metrics.reloads.labels("ok").inc()
            self._loader.logger.info("reloaded", changed=reloaded.changed)
            return reloaded

    async def _load(self, before: Generation) -> Generation:
        try:
            return await self._loader.load(before)
        except Exception as error:
            self._loader.metrics.reloads.labels("failed").inc()
            if isinstance(error, REFUSALS):
                self._loader.logger.error("reload failed; what was served is served on", error=str(error))
                raise ReloadFailed(f"what was served is served on: {error}") from error
            self._loader.logger.error("reload failed; what was served is served on", exc_info=error)
            raise ReloadFailed("what was served is served on; the server's log has the details") from error

    def _forget(self, task: "asyncio.Task[Reloaded]") -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # was logged, and whoever waits gets it as well

"""One generation after another: a request keeps the one that was current when it came, to its end.

What an older generation has alone is taken apart once no request uses it any more.
"""

import asyncio
import gc

from service.generation import Generation, Services
from service.telemetry import Logger


class Succession:
    """The current generation, and those before it that requests still use; on an event loop."""

    def __init__(self, logger: Logger) -> None:
        self.current: Generation | None = None
        self._users: dict[Generation, int] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._logger = logger

    def enter(self) -> Generation | None:
        """The current generation, kept whole until `leave`."""
        if self.current is not None:
            self._users[self.current] += 1
        return self.current

    def leave(self, generation: Generation | None) -> None:
        """A request that entered under a generation has been answered."""
        if generation is not None and generation in self._users:  # not so for one that was cut off at the end
            self._users[generation] -= 1
            self._retire(generation)

    def succeed(self, generation: Generation) -> None:
        """Make a generation current."""
        before, self.current = self.current, generation
        self._users[generation] = 0
        for services in generation.by_name.values():
            services.announce()
        if before is not None:
            self._retire(before)

    async def close(self) -> None:
        """Take everything apart, used or not."""
        self.current = None
        for generation in list(self._users):
            self._users[generation] = 0
            self._retire(generation)
        while self._closing:
            await asyncio.gather(*self._closing)

    def _retire(self, generation: Generation) -> None:
        """Forget one that is neither current nor used, and take apart what was its alone."""
        if self._users[generation] or generation is self.current:
            return
        del self._users[generation]
        alive = {services for other in self._users for services in other.by_name.values()}
        for services in generation.by_name.values():
            if services not in alive:
                task = asyncio.create_task(self._close(services))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def _close(self, services: Services) -> None:
        try:
            await services.close()
        except Exception as error:
            self._logger.error("what is served no more could not be closed", bundle=services.name, exc_info=error)
        services.withdraw()
        if self.current is None:
            return
        if successor := self.current.by_name.get(services.name):
            successor.announce()
        self._logger.info("bundle closed", bundle=services.name, hash=services.bundle.hash)
        del services
        gc.collect()  # its session, and a GPU's memory with it, would lie in a cycle for long

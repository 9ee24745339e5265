"""Where the server is in its life: loading, ready, draining, or failed; and what a request is served with."""

import asyncio
from typing import Final

from fastapi import Request

from service.errors import InvalidOption, Unavailable, retry_after
from service.generation import Generation, Services
from service.succession import Succession
from service.telemetry import Logger, Metrics

__all__ = ["Generation", "Lifecycle", "Services", "draining", "generation_of", "lifecycle_of", "services_of"]

LOADING_RETRY_S: Final = 2.0
DRAINING_RETRY_S: Final = 5.0


class Lifecycle:
    """The state of one app, on its event loop; there is something to serve with from the end of loading to the end."""

    def __init__(self, logger: Logger) -> None:
        self.failure: Exception | None = None
        self.loaded = asyncio.Event()  # or failed to
        self.draining = False
        self.in_flight = 0
        self._succession = Succession(logger)

    @property
    def generation(self) -> Generation | None:
        """What requests that come now are served with; None until loaded."""
        return self._succession.current

    @property
    def services(self) -> Services | None:
        """The default bundle's; None until loaded."""
        return self.generation.default if self.generation else None

    def succeed(self, generation: Generation) -> None:
        """Serve requests that come from now on with a generation, and let the one before it go when it may."""
        self._succession.succeed(generation)

    def enter(self) -> Generation | None:
        """A request has come: what it is served with, kept for it until it leaves."""
        self.in_flight += 1
        return self._succession.enter()

    def leave(self, generation: Generation | None) -> None:
        """It has been answered."""
        self.in_flight -= 1
        self._succession.leave(generation)

    async def close(self) -> None:
        """Take apart all that is served, once no request is left or none may be waited for."""
        await self._succession.close()

    def require(self, generation: Generation | None) -> Generation:
        """The generation itself.

        Raises:
            Unavailable: where there was none yet, or loading failed.
        """
        if generation is None:
            if self.failure is not None:
                raise Unavailable(f"loading failed: {self.failure}", headers=retry_after(DRAINING_RETRY_S))
            raise Unavailable("the server is loading its bundles and galleries", headers=retry_after(LOADING_RETRY_S))
        return generation

    def require_services(self) -> Services:
        """The default bundle's, of now; errors as `require`."""
        return self.require(self.generation).default

    def check_alive(self) -> None:
        """Return if this process can do its work, now or once loaded and not yet drained.

        Raises:
            Unavailable: where only a new process would help.
        """
        if self.failure is not None:
            self.require(self.generation)
        for services in self.generation.by_name.values() if self.generation else ():
            _check_pipeline(services)

    def check_ready(self) -> None:
        """Return if requests are welcome.

        Raises:
            Unavailable: while loading, draining or unwell.
        """
        if self.draining:
            raise draining()
        self.require(self.generation)
        self.check_alive()

    def publish(self, metrics: Metrics) -> None:
        """Set the gauges of this moment."""
        served = list(self.generation.by_name.values()) if self.generation else []
        metrics.ready.set(bool(served) and not self.draining and all(each.pipeline.alive for each in served))
        metrics.in_flight.set(self.in_flight)
        for services in served:
            services.metrics.queue.set(services.pipeline.admission.images)


def _check_pipeline(services: Services) -> None:
    pipeline, limit_s = services.pipeline, services.settings.request_timeout_s
    if not pipeline.alive:
        raise Unavailable("the inference loop has stopped", headers=retry_after(DRAINING_RETRY_S))
    if pipeline.busy_s() > limit_s:
        raise Unavailable(f"one inference runs for more than {limit_s:g} s", headers=retry_after(DRAINING_RETRY_S))


def draining() -> Unavailable:
    """The answer to a request that comes after SIGTERM."""
    return Unavailable("the server is shutting down; send this to another one", headers=retry_after(DRAINING_RETRY_S))


def lifecycle_of(request: Request) -> Lifecycle:
    """The app's lifecycle."""
    lifecycle: Lifecycle = request.app.state.lifecycle
    return lifecycle


def served(request: Request) -> list[Services]:
    """What every served bundle is served with, the default one first.

    Raises:
        Unavailable: while loading.
    """
    return list(generation_of(request).by_name.values())


def generation_of(request: Request) -> Generation:
    """What a request is served with, from its first byte to its answer's last.

    Raises:
        Unavailable: while loading, or where that failed.
    """
    return lifecycle_of(request).require(request.scope["state"]["generation"])


def services_of(request: Request, bundle: str | None = None) -> Services:
    """What an endpoint works with: of the bundle of that name, or of the one that the query names, or the default.

    Raises:
        Unavailable: while loading, or where that failed.
        UnknownBundle: where none of that name is served.
        InvalidOption: where the query names two.
    """
    generation = generation_of(request)
    if bundle is None and request.scope["query_string"]:
        named = request.query_params.getlist("bundle")
        if len(named) > 1:
            raise InvalidOption("a query parameter is given twice")
        bundle = named[0] if named else None
    services = generation.of(bundle)
    request.scope["state"]["bundle"] = services.name  # for the log and the trace
    return services

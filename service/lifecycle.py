"""Where the server is in its life: loading, ready, draining, or failed; and what it serves with once loaded."""

import asyncio
from dataclasses import dataclass
from typing import Final

from fastapi import Request

from models.bundle import Bundle
from service.errors import Unavailable, UnknownBundle, retry_after
from service.evidence import Grouping
from service.gallery.base import Gallery
from service.pipeline import Pipeline
from service.policies.desk import Policies
from service.session import Session
from service.settings import Settings
from service.telemetry import Logger, Metrics

LOADING_RETRY_S: Final = 2.0
DRAINING_RETRY_S: Final = 5.0


@dataclass(frozen=True)
class Services:
    """Everything an endpoint works with, complete and checked."""

    settings: Settings
    bundle: Bundle
    session: Session
    pipeline: Pipeline
    gallery: Gallery
    policies: Policies
    grouping: Grouping
    metrics: Metrics
    logger: Logger

    @property
    def name(self) -> str:
        """What requests call the bundle."""
        return self.bundle.manifest.name


class Lifecycle:
    """The state of one app, on its event loop; `services` is there from the end of loading to the end."""

    def __init__(self) -> None:
        self.services: Services | None = None
        self.failure: Exception | None = None
        self.loaded = asyncio.Event()  # or failed to
        self.draining = False
        self.in_flight = 0

    def require_services(self) -> Services:
        """What to serve with.

        Raises:
            Unavailable: while loading, or where that failed.
        """
        if self.services is None:
            if self.failure is not None:
                raise Unavailable(f"loading failed: {self.failure}", headers=retry_after(DRAINING_RETRY_S))
            raise Unavailable("the server is loading its bundle and gallery", headers=retry_after(LOADING_RETRY_S))
        return self.services

    def check_alive(self) -> None:
        """Return if this process can do its work, now or once loaded and not yet drained.

        Raises:
            Unavailable: where only a new process would help.
        """
        if self.failure is not None:
            self.require_services()
        if self.services is None:
            return
        pipeline, limit_s = self.services.pipeline, self.services.settings.request_timeout_s
        if not pipeline.alive:
            raise Unavailable("the inference loop has stopped", headers=retry_after(DRAINING_RETRY_S))
        if pipeline.busy_s() > limit_s:
            raise Unavailable(f"one inference runs for more than {limit_s:g} s", headers=retry_after(DRAINING_RETRY_S))

    def check_ready(self) -> None:
        """Return if requests are welcome.

        Raises:
            Unavailable: while loading, draining or unwell.
        """
        if self.draining:
            raise draining()
        self.require_services()
        self.check_alive()

    def publish(self, metrics: Metrics) -> None:
        """Set the gauges of this moment."""
        services = self.services
        metrics.ready.set(services is not None and not self.draining and services.pipeline.alive)
        metrics.in_flight.set(self.in_flight)
        metrics.queue.set(services.pipeline.admission.images if services else 0)


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
    return [services_of(request)]


def services_of(request: Request, bundle: str | None = None) -> Services:
    """What an endpoint works with: of the bundle of that name, or of the only one.

    Raises:
        Unavailable: while loading.
        UnknownBundle: where none of that name is served.
    """
    services = lifecycle_of(request).require_services()
    served = services.bundle.manifest.name
    if bundle is not None and bundle != served:
        raise UnknownBundle(f"no bundle {bundle!r} is served here: there is {served!r}")
    return services

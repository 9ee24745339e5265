"""The application: state is built here, handed down, and taken apart in the reverse order."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Final

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute

from models.bundle import Bundle, BundleError, load_bundle
from service.access import Access
from service.errors import leave_errors_to_front
from service.evidence import Grouping
from service.front import Front
from service.gallery import open_gallery
from service.gallery.base import Gallery, GalleryError, GalleryUnavailable
from service.lifecycle import Lifecycle, Services
from service.openapi import DescribedAPI, describe
from service.pipeline import Pipeline
from service.policies.desk import Policies
from service.policies.store import PolicyStore, PolicyStoreError
from service.routes import embed, gallery, health, policies, retrieve
from service.session import Session, SessionError, open_session
from service.settings import Settings, policies_path
from service.telemetry import Logger, Metrics, make_metrics, name_model, name_tuning, stderr_logger
from service.tracing import open_tracing

REACH_AGAIN_S: Final = 2.0
NO_FRAMEWORK_TELEMETRY: Final[Any] = {"tracing": False, "metrics": False, "logs": False}  # it tells paths and queries
REFUSALS: Final = (
    BundleError,
    SessionError,
    GalleryError,
    PolicyStoreError,
)  # for the operator to mend: their messages say how


async def _open_gallery(bundle: Bundle, settings: Settings) -> Gallery:
    return await open_gallery(
        settings.gallery,
        dimension=bundle.manifest.dimension,
        bundle_hash=bundle.hash,
        options=settings.engine_options,
    )


@dataclass(frozen=True)
class Openers:
    """How the two heavy parts are opened; tests put fakes here."""

    session: Callable[[Bundle, Settings], Session] = open_session
    gallery: Callable[[Bundle, Settings], Awaitable[Gallery]] = _open_gallery


def create_app(
    settings: Settings, *, openers: Openers | None = None, logger: Logger | None = None, load_first: bool = False
) -> FastAPI:
    """An app that loads in the background once started: until then it answers, with 503; or loads before it starts."""
    lifecycle, metrics, log = Lifecycle(), make_metrics(), logger or stderr_logger(settings)
    tracing = open_tracing(settings, os.environ)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        stop = asyncio.Event()
        life = asyncio.create_task(_live(lifecycle, settings, openers or Openers(), metrics, log, stop))
        try:
            if load_first:
                await lifecycle.loaded.wait()
            yield
        finally:
            stop.set()
            await life
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    app = DescribedAPI(
        lifespan=lifespan, redirect_slashes=False, redoc_url=None, telemetry=NO_FRAMEWORK_TELEMETRY, **describe()
    )
    app.state.lifecycle = lifecycle
    app.state.metrics = metrics
    leave_errors_to_front(app)
    for routes in (embed, retrieve, gallery, policies, health):
        app.include_router(routes.router)
    direct = [route for routes in (embed, retrieve) for route in routes.router.routes if isinstance(route, APIRoute)]
    access, trace = Access(settings, log), tracing.record if tracing else None
    app.add_middleware(
        Front, direct=direct, access=access, lifecycle=lifecycle, metrics=metrics, logger=log, trace=trace
    )
    if settings.allowed_origins:  # outermost: a browser asks for leave without the key that it will then send
        app.add_middleware(CORSMiddleware, **_cross_origin(settings))
    return app


def _cross_origin(settings: Settings) -> dict[str, Any]:
    """What a browser lets the pages of those origins do."""
    return {
        "allow_origins": settings.allowed_origins,
        "allow_methods": ["GET", "POST", "PUT", "DELETE"],
        "allow_headers": ["*"],
        "expose_headers": ["X-Request-ID", "Retry-After"],
    }


async def _live(
    lifecycle: Lifecycle, settings: Settings, openers: Openers, metrics: Metrics, logger: Logger, stop: asyncio.Event
) -> None:
    """Load, serve until told to stop, close; a failure to load is left where probes and `main` find it."""
    try:
        async with AsyncExitStack() as stack:
            lifecycle.services = await _load(stack, settings, openers, metrics, logger, stop)
            _log_ready(lifecycle.services)
            lifecycle.loaded.set()
            await stop.wait()
    except Exception as error:
        lifecycle.failure = error
        if not isinstance(error, REFUSALS):
            logger.error("failed to load", exc_info=error)
    finally:
        lifecycle.loaded.set()


async def _load(
    stack: AsyncExitStack, settings: Settings, openers: Openers, metrics: Metrics, logger: Logger, stop: asyncio.Event
) -> Services:
    bundle = await asyncio.to_thread(load_bundle, settings.bundle)
    session = await asyncio.to_thread(openers.session, bundle, settings)
    store = await _open_when_reachable(partial(openers.gallery, bundle, settings), stop, logger)
    stack.push_async_callback(store.close)
    pipeline = Pipeline(bundle, session, settings, metrics, logger)
    stack.push_async_callback(pipeline.close)
    name_model(metrics, bundle, session.device)
    name_tuning(metrics, session.tuning)
    kept = await _open_policies(settings, store, bundle, metrics, logger)
    stack.push_async_callback(kept.close)
    grouping = Grouping(settings.label_field, settings.group_field)
    return Services(settings, bundle, session, pipeline, store, kept, grouping, metrics, logger)


async def _open_when_reachable(open_: Callable[[], Awaitable[Gallery]], stop: asyncio.Event, logger: Logger) -> Gallery:
    """The gallery; an engine that cannot be reached yet is tried again until told to stop."""
    while True:
        try:
            return await open_()
        except GalleryUnavailable as error:
            logger.warning("waiting for the gallery", error=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REACH_AGAIN_S):
                    await stop.wait()
            if stop.is_set():
                raise


async def _open_policies(
    settings: Settings, store: Gallery, bundle: Bundle, metrics: Metrics, logger: Logger
) -> Policies:
    kept = Policies(
        PolicyStore(policies_path(settings)), store, bundle.hash, metrics, logger, max_change=settings.policy_max_change
    )
    await kept.start()
    return kept


def _log_ready(services: Services) -> None:
    session, tuning = services.session, services.session.tuning
    for point in tuning.points:
        services.logger.debug("tuning", **asdict(point))
    services.logger.info(
        "ready",
        bundle=services.bundle.manifest.name,
        device=session.device,
        threads=tuning.threads,
        lanes=tuning.lanes,
        max_batch=tuning.max_batch,
    )

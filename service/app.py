"""The application: state is built here, handed down, and taken apart in the reverse order."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute

from models.bundle import Bundle
from service.access import Access
from service.errors import leave_errors_to_front
from service.front import Front
from service.gallery.base import Gallery, GalleryUnavailable
from service.lifecycle import Lifecycle
from service.loading import Loader, Openers
from service.openapi import DescribedAPI, describe
from service.places import GalleryPlace
from service.reload import REFUSALS, Reloader
from service.routes import (
    admin,
    embed,
    gallery,
    health,
    kserve,
    kserve_models,
    openai,
    openai_models,
    policies,
    retrieve,
)
from service.settings import Settings
from service.telemetry import Logger, make_metrics, stderr_logger
from service.tracing import open_tracing

REACH_AGAIN_S: Final = 2.0
ROUTES: Final = (embed, retrieve, openai, gallery, policies, openai_models, kserve, kserve_models, health, admin)
NO_FRAMEWORK_TELEMETRY: Final[Any] = {"tracing": False, "metrics": False, "logs": False}  # it tells paths and queries


def create_app(
    settings: Settings,
    *,
    openers: Openers | None = None,
    logger: Logger | None = None,
    load_first: bool = False,
    ask_all: Callable[[], None] | None = None,
) -> FastAPI:
    """An app that loads in the background once started: until then it answers, with 503; or loads before it starts.

    `ask_all`, where several workers serve, asks each of them to reload.
    """
    log = logger or stderr_logger(settings)
    lifecycle, metrics = Lifecycle(log), make_metrics()
    metrics.queue_limit.set(settings.queue_per_worker)
    loader = Loader(settings, openers or Openers(), metrics, log)
    reloader = Reloader(lifecycle, loader, ask_all)
    tracing = open_tracing(settings, os.environ)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        stop = asyncio.Event()
        life = asyncio.create_task(_live(lifecycle, loader, reloader, stop))
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
    app.state.reloader = reloader
    routers = [routes.router for routes in ROUTES]
    for router in routers:
        app.include_router(router)
    leave_errors_to_front(app, _routes_of(routers))
    direct = _routes_of([embed.router, retrieve.router, openai.router])
    access, trace = Access(settings, log), tracing.record if tracing else None
    app.add_middleware(
        Front, direct=direct, access=access, lifecycle=lifecycle, metrics=metrics, logger=log, trace=trace
    )
    if settings.allowed_origins:  # outermost: a browser asks for leave without the key that it will then send
        app.add_middleware(CORSMiddleware, **_cross_origin(settings))
    return app


def _routes_of(routers: Iterable[APIRouter]) -> list[APIRoute]:
    return [route for router in routers for route in router.routes if isinstance(route, APIRoute)]


def _cross_origin(settings: Settings) -> dict[str, Any]:
    """What a browser lets the pages of those origins do."""
    return {
        "allow_origins": settings.allowed_origins,
        "allow_methods": ["GET", "POST", "PUT", "DELETE"],
        "allow_headers": ["*"],
        "expose_headers": ["X-Request-ID", "Retry-After"],
    }


async def _live(lifecycle: Lifecycle, loader: Loader, reloader: Reloader, stop: asyncio.Event) -> None:
    """Load, serve until told to stop, close; a failure to load is left where probes and `main` find it."""
    try:
        await _load(lifecycle, loader, stop)
        lifecycle.loaded.set()
        await stop.wait()
    except Exception as error:
        lifecycle.failure = error
        if not isinstance(error, REFUSALS):
            loader.logger.error("failed to load", exc_info=error)
    finally:
        lifecycle.loaded.set()
        await reloader.close()
        await lifecycle.close()


async def _load(lifecycle: Lifecycle, loader: Loader, stop: asyncio.Event) -> None:
    generation = await _patient(loader, stop).load()
    lifecycle.succeed(generation)
    loader.logger.info("ready", bundle=generation.default.name, bundles=list(generation.by_name))


def _patient(loader: Loader, stop: asyncio.Event) -> Loader:
    """A loader that waits for galleries."""

    async def open_gallery(bundle: Bundle, place: GalleryPlace) -> Gallery:
        return await _open_when_reachable(partial(loader.openers.gallery, bundle, place), stop, loader.logger)

    return replace(loader, openers=replace(loader.openers, gallery=open_gallery))


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

"""Fixtures of the server's tests: the tiny bundle, and an app that runs in this process."""

import io
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient

from models.bundle import Bundle, load_bundle
from service.app import create_app
from service.generation import Services
from service.loading import Openers
from service.places import GalleryPlace
from service.session import Session, open_session
from service.settings import Settings
from service.telemetry import make_logger
from tests.service.bundle_factory import make_bundle
from tests.service.fakes import FakeGallery
from tests.service.waiting import until


@dataclass(frozen=True)
class Running:
    """An app in this process, a client to it, and what it logged."""

    app: FastAPI
    client: AsyncClient
    gallery: FakeGallery
    log: io.StringIO

    @property
    def services(self) -> Services:
        services: Services = self.app.state.lifecycle.require_services()
        return services


Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of whoever runs the tests are not the tests'."""
    for name in list(os.environ):
        if name.startswith("CANDOR_") and name != "CANDOR_TEST_DATA":
            monkeypatch.delenv(name)
    monkeypatch.setenv("CANDOR_AUTOTUNE", "false")  # which takes seconds, and depends on the machine


@pytest.fixture
def start(bundle_path: Path, tmp_path: Path) -> Start:
    """Start an app with these settings; `wrap` may replace its session."""

    @asynccontextmanager
    async def start(
        wrap: Callable[[Session], Session] = lambda session: session, *, ready: bool = True, **overrides: Any
    ) -> AsyncIterator[Running]:
        settings = Settings(
            **{
                "bundle": bundle_path,
                "device": "cpu",
                "log_format": "json",
                "policies": tmp_path / "p.sqlite",
                **overrides,
            }
        )
        gallery, log = FakeGallery(), io.StringIO()

        async def open_fake(bundle: Bundle, place: GalleryPlace) -> FakeGallery:
            return gallery

        openers = Openers(session=lambda bundle, settings: wrap(open_session(bundle, settings)), gallery=open_fake)
        app = create_app(settings, openers=openers, logger=make_logger(settings, log))
        client = AsyncClient(transport=ASGITransport(app), base_url="http://localhost")
        async with app.router.lifespan_context(app), client:
            if ready:
                await until(lambda: app.state.lifecycle.services is not None)
            yield Running(app, client, gallery, log)

    return start


@pytest.fixture
async def running(start: Start) -> AsyncIterator[Running]:
    async with start() as running:
        yield running

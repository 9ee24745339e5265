"""A real Chromium in front of a real server process, and what every visit is held to."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Client
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.page.visit import Visit
from tests.service.bundle_factory import make_bundle
from tests.service.process import Server, ready_client, serving

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
SWITCHES = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # no network but the server
)
PATIENCE_MS = 60_000  # a hang fails the test; never a measure of speed

Open = Callable[..., Visit]


def find_chromium() -> str | None:
    """The Chromium that is installed, if any."""
    return next((path for name in CHROMIUM if (path := shutil.which(name))), None)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    executable = find_chromium()
    if executable is None:
        pytest.skip(f"needs a Chromium: none of {', '.join(CHROMIUM)} is on the PATH (apt-get install chromium)")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="package")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(scope="package")
def server(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    gallery = tmp_path_factory.mktemp("page") / "gallery"
    with serving(bundle_path, gallery, CANDOR_AUTOTUNE="false", CANDOR_LABEL_FIELD="label") as server:
        server.event("ready")
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client to the server, whose gallery and policies are empty."""
    with ready_client(server) as client:
        items = client.get("/gallery", params={"limit": 1000}).json()["items"]
        client.post("/gallery/delete", json={"ids": [item["id"] for item in items]})
        for policy in client.get("/policies").json()["policies"]:
            client.delete(f"/policies/{policy['name']}")
        yield client


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Open the page of a server in a browser profile of its own; what every visit is held to is checked at the end."""
    visits: list[Visit] = []

    def open_page(url: str, view: str = "images", *, ready: bool = True, **context: Any) -> Visit:
        page = browser.new_context(**context).new_page()
        page.set_default_timeout(PATIENCE_MS)
        visit = Visit(page, url)
        visits.append(visit)
        page.goto(f"{url}/#{view}")
        if ready:
            expect(page.locator("#version")).to_contain_text("candor")
        return visit

    yield open_page
    for visit in visits:
        visit.check()
        visit.page.context.close()


@pytest.fixture
def visit(open_page: Open, server: Server, client: Client) -> Visit:
    """The page of the common server, its gallery empty."""
    return open_page(server.url)


@pytest.fixture
def page(visit: Visit) -> Page:
    return visit.page

"""Galleries that live as long as one test, on every engine that runs here."""

from collections.abc import AsyncIterator, Iterator

import pytest

from service.gallery.checked import CheckedGallery
from tests.service.gallery.places import PLACES, Place


@pytest.fixture(scope="session", params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Where galleries of one engine can be opened; each test that asks for it runs on every engine."""
    with PLACES[request.param](tmp_path_factory.mktemp(request.param)) as opened:
        yield opened


@pytest.fixture
def location(place: Place) -> Iterator[str]:
    """Of the test's own gallery."""
    fresh = place.fresh()
    yield fresh
    place.drop(fresh)


@pytest.fixture
async def gallery(place: Place, location: str) -> AsyncIterator[CheckedGallery]:
    """An empty gallery whose upkeep happens only when a test calls `maintain`, if the engine can wait for that."""
    opened = await place.open(location)
    yield opened
    await opened.close()

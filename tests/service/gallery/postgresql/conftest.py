"""A PostgreSQL for the tests of that engine alone."""

from collections.abc import AsyncIterator, Iterator

import pytest

from service.gallery.checked import CheckedGallery
from tests.service.gallery.servers.postgresql import PostgresPlace, postgresql


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresPlace]:
    """Schemas of a server that only these tests use."""
    with postgresql(tmp_path_factory.mktemp("postgresql")) as opened:
        assert isinstance(opened, PostgresPlace)
        yield opened


@pytest.fixture
def location(place: PostgresPlace) -> str:
    """Of the test's own gallery."""
    return place.fresh()


@pytest.fixture
async def gallery(place: PostgresPlace, location: str) -> AsyncIterator[CheckedGallery]:
    """An empty gallery whose upkeep happens only when a test calls `maintain`."""
    opened = await place.open(location)
    yield opened
    await opened.close()

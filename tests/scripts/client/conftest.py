"""A real server for all tests of the client, and both clients to it."""

import inspect
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from scripts.client import AsyncClient, Client
from tests.service import process
from tests.service.bundle_factory import make_bundle

BOTH = pytest.mark.parametrize("kind", [Client, AsyncClient], ids=["sync", "async"])


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[process.Server]:
    """A server whose items carry their label in `label`."""
    folder = tmp_path_factory.mktemp("server")
    settings = {"CANDOR_AUTOTUNE": "false", "CANDOR_LABEL_FIELD": "label", "CANDOR_MAX_IMAGES_PER_REQUEST": "8"}
    with process.serving(make_bundle(folder / "bundle"), folder / "gallery", **settings) as server:
        server.event("ready")
        yield server


@pytest.fixture
def emptied(server: process.Server) -> process.Server:
    """The server, with an empty gallery."""
    with Client(server.url) as client:
        client.gallery.delete(*(item.id for item in client.gallery.items()))
    return server


@pytest.fixture(params=[Client, AsyncClient], ids=["sync", "async"])
async def client(request: pytest.FixtureRequest, emptied: process.Server) -> AsyncIterator[Any]:
    """Either client to an empty gallery; `value` and `values` read what both return."""
    made = request.param(emptied.url)
    yield made
    await closed(made)


async def value(returned: Any) -> Any:
    """What a method of either client returns."""
    return await returned if inspect.isawaitable(returned) else returned


async def values(returned: Any) -> list[Any]:
    """What a method of either client returns one by one."""
    return [each async for each in returned] if hasattr(returned, "__aiter__") else list(returned)


async def closed(client: Client | AsyncClient) -> None:
    """Close either client."""
    if isinstance(client, Client):
        client.close()
    else:
        await client.aclose()

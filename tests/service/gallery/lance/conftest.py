"""Galleries in LanceDB that live as long as one test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.gallery.checked import CheckedGallery
from tests.service.gallery.lance.opened import open_lance
from tests.service.gallery.places import BY_HAND


@pytest.fixture
async def gallery(tmp_path: Path) -> AsyncIterator[CheckedGallery]:
    """An empty gallery whose upkeep happens only when a test calls `maintain`."""
    opened = await open_lance(str(tmp_path / "gallery"), BY_HAND)
    yield opened
    await opened.close()

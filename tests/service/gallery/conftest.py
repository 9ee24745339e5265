"""Galleries that live as long as one test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.gallery.lance import LanceGallery, LanceOptions, open_lance_gallery
from service.gallery.maintenance import Upkeep
from tests.service.gallery.oracle import BUNDLE, DIMENSION

BY_HAND = LanceOptions(upkeep=Upkeep(index_from_rows=1000, optimize_every=1_000_000, keep_versions_s=0.05))


@pytest.fixture
async def gallery(tmp_path: Path) -> AsyncIterator[LanceGallery]:
    """An empty gallery whose upkeep happens only when a test calls `maintain`."""
    opened = await open_lance_gallery(
        str(tmp_path / "gallery"), dimension=DIMENSION, bundle_hash=BUNDLE, options=BY_HAND
    )
    yield opened
    await opened.close()

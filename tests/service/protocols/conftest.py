"""One server for the tours of every client."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.process import serving


@pytest.fixture(scope="package")
def url(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose batches are of one image, so that equal images have equal numbers, to the bit."""
    settings = {"CANDOR_AUTOTUNE": "false", "CANDOR_MAX_BATCH": "1"}
    with serving(bundle_path, tmp_path_factory.mktemp("protocols") / "gallery", **settings) as server:
        server.event("ready")
        yield server.url

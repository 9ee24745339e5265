"""Fixtures for every test."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images: `CANDOR_TEST_DATA`, or `../shared/data`; the test is skipped where there is none."""
    folder = Path(os.environ.get("CANDOR_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs real images: {folder} is missing (set CANDOR_TEST_DATA)")
    return folder

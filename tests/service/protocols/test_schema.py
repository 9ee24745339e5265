"""The whole description of the API against a real server: nothing undocumented, nothing broken, no 5xx."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.bundle import DEFAULT_BUNDLE
from tests.service.callers import give_key
from tests.service.process import Server, serving
from tests.service.protocols.fuzz import SETTINGS, fuzz, prepare


@pytest.fixture(scope="module")
def key(folder: Path) -> str:
    return give_key(folder / "keys.txt")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("schema")


@pytest.fixture(scope="module")
def server(folder: Path, key: str) -> Iterator[Server]:
    """One that asks for a key."""
    with serving(DEFAULT_BUNDLE, folder / "gallery", **SETTINGS, CANDOR_API_KEYS=str(folder / "keys.txt")) as server:
        server.event("ready")
        prepare(server.url, key)
        yield server


@pytest.mark.parametrize(
    ("with_key", "examples", "phases"),
    [(True, 3, "examples,coverage,fuzzing,stateful"), (False, 1, "examples,fuzzing")],
    ids=["with_key", "without"],
)
def test_a_server_does_what_its_description_says(
    server: Server, tmp_path: Path, key: str, with_key: bool, examples: int, phases: str
) -> None:
    run = fuzz(server.url, tmp_path, examples=examples, seed=1, phases=phases, key=key if with_key else None)

    assert run.returncode == 0, run.stdout
    selected = re.search(r"Selected: (\d+)/\1\n +Tested: \1\n", run.stdout)
    assert selected, run.stdout
    assert int(selected[1]) >= 32
    assert '"level":"error"' not in server.errors

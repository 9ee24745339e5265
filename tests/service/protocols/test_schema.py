"""The whole description of the API against a real server: nothing undocumented, nothing broken, no 5xx."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.bundle import DEFAULT_BUNDLE
from tests.service.process import Server, serving
from tests.service.protocols.fuzz import SETTINGS, fuzz, prepare

KEY = "correct-horse"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that asks for a key."""
    folder = tmp_path_factory.mktemp("schema")
    with serving(DEFAULT_BUNDLE, folder / "gallery", **SETTINGS, CANDOR_API_KEY=KEY) as server:
        server.event("ready")
        prepare(server.url, KEY)
        yield server


@pytest.mark.parametrize(
    ("key", "examples", "phases"),
    [(KEY, 3, "examples,coverage,fuzzing,stateful"), (None, 1, "examples,fuzzing")],
    ids=["with_key", "without"],
)
def test_a_server_does_what_its_description_says(
    server: Server, tmp_path: Path, key: str | None, examples: int, phases: str
) -> None:
    run = fuzz(server.url, tmp_path, examples=examples, seed=1, phases=phases, key=key)

    assert run.returncode == 0, run.stdout
    selected = re.search(r"Selected: (\d+)/\1\n +Tested: \1\n", run.stdout)
    assert selected, run.stdout
    assert int(selected[1]) >= 32
    assert '"level":"error"' not in server.errors

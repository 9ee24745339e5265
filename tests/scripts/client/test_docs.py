"""docs/client.md does what it says: its Python and its commands, in order, against a real server."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.service import process
from tests.service.images import jpeg
from tests.service.process import PATIENCE_S

ADDRESS = "http://127.0.0.1:8000"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the page's commands are given: beside a folder of photos."""
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    for number in (1, 2):
        (tmp_path / "photos" / "cat" / f"{number}.jpg").write_bytes(jpeg(number))
    return tmp_path


def blocks(repository: Path, language: str) -> list[str]:
    text = (repository / "docs" / "client.md").read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found
    return found


def test_its_python_runs(repository: Path, folder: Path, emptied: process.Server) -> None:
    program = "\n".join(blocks(repository, "python")).replace(ADDRESS, emptied.url)
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder,
        env={"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].endswith("False (48,)")
    assert lines[2] == "photos/gone.jpg unreadable photos/gone.jpg: No such file or directory"
    assert "('cat/2', " in lines[3]
    assert lines[4].startswith("3 [")
    assert lines[-2:] == ["['cat/1', 'cat/2']", "404 unknown_id"]


def test_its_commands_run(repository: Path, folder: Path, emptied: process.Server) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "PYTHONPATH": str(repository), "CANDOR_SERVER": emptied.url}
    (block,) = blocks(repository, "sh")
    export, *commands = block.splitlines()
    assert export == f"export CANDOR_SERVER={ADDRESS}"
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "candor"
        result = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
        assert result.returncode == 0, (command, result.stderr)
    assert pq.read_table(folder / "embeddings.parquet").column("id").to_pylist() == [
        "photos/cat/1.jpg",
        "photos/cat/2.jpg",
    ]

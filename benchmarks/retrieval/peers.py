"""The peers, each in a process and an environment of its own; one that cannot be had is named with its reason."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.server_process import REPOSITORY

REQUIREMENTS = Path(__file__).with_name("requirements-peers.txt")
ENVIRONMENT = REPOSITORY / "runs" / "bench" / "envs" / "retrieval"
PATIENCE_S = 3600.0


def measure_peer(name: str, corpus_folder: Path, seconds: float, rounds: int, out: Path) -> dict[str, Any]:
    """What a peer's process writes, or `{"name": ..., "unavailable": why}`."""
    try:
        python = peer_environment()
        arguments = [name, str(corpus_folder.resolve()), str(seconds), str(rounds), str(out.resolve())]
        _run([str(python), "-m", "benchmarks.retrieval.peer", *arguments])
        result: dict[str, Any] = json.loads(out.read_text())
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        return {"name": name, "unavailable": str(error)}
    return result


def peer_environment(folder: Path = ENVIRONMENT, requirements: Path = REQUIREMENTS) -> Path:
    """The Python of an environment with exactly what the requirements list, made where it is not there yet.

    Raises:
        RuntimeError: where it cannot be made.
    """
    python, made_of = folder / "bin" / "python", folder / "requirements.txt"
    if not made_of.exists() or made_of.read_text() != requirements.read_text():
        _run([sys.executable, "-m", "venv", "--clear", str(folder)])
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)])
        made_of.write_text(requirements.read_text())
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise RuntimeError(lines[-1])

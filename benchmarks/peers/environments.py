"""A throw-away environment for each peer, with the versions pinned beside this file."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.server_process import REPOSITORY

REQUIREMENTS = Path(__file__).resolve().parent / "requirements"
INSTALL_PATIENCE_S = 900.0


class NotInstalled(Exception):
    """An environment that cannot be made; the message says why."""


def programs_of(name: str, folder: Path) -> Path:
    """The folder of a peer's Python and programs; installed first, unless it has these very pins.

    Raises:
        NotInstalled: where uv is missing or fails.
    """
    environment, marker = folder / name, folder / name / ".pins"
    pins = pins_of(name)
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    if not marker.is_file() or marker.read_text() != digest:
        print(f"installing {name}", file=sys.stderr, flush=True)
        shutil.rmtree(environment, ignore_errors=True)
        uv = _uv()
        _run(uv, "venv", "--quiet", "--python", sys.executable, str(environment))
        _run(uv, "pip", "sync", "--quiet", "--python", str(environment), str(pins))
        marker.write_text(digest)
    return environment / "bin"


def pins_of(name: str) -> Path:
    """The requirements file of a peer."""
    return REQUIREMENTS / f"{name}.txt"


def pinned_versions(name: str) -> dict[str, str]:
    """Every distribution in a peer's environment."""
    lines = [line.partition(" ")[0] for line in pins_of(name).read_text().splitlines()]
    return dict(line.split("==") for line in lines if "==" in line)


def _uv() -> str:
    uv = shutil.which("uv") or shutil.which(str(REPOSITORY / ".venv" / "uv" / "bin" / "uv"))
    if uv is None:
        raise NotInstalled("uv is not here: any target of `make` that needs an environment brings it")
    return uv


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_PATIENCE_S)
    except subprocess.CalledProcessError as error:
        raise NotInstalled(f"{command[1]} failed: {error.stderr.strip()[-1000:]}") from error
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"{command[1]} took more than {INSTALL_PATIENCE_S:g} s") from error

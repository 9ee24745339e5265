"""A reader who types what a page says, in a shell, beside a running server."""

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from tests.docs.pages import Step
from tests.offline import CLASSES, picture, pictures, write_folder
from tests.service.images import encode

PATIENCE_S: Final = 540.0  # a hang fails the test rather than the run
ADDRESS: Final = re.compile(r"(localhost|127\.0\.0\.1):8000\b")
SERVING: Final = re.compile(r"^(?:[A-Z_]+=\S+ )*candor serve\b")
BESIDE: Final = ("models", "scripts", "benchmarks", "Makefile")  # of the clone that the reader is in

PRELUDE: Final = """
set -euo pipefail
curl() { command curl --fail-with-body "$@"; }
leave() { if [ -n "${SERVER:-}" ]; then kill "$SERVER"; wait "$SERVER" || true; SERVER=; fi; }
serving() {
  leave
  env "$@" 2>>server.log & SERVER=$!
  until command curl -sf "localhost:$CANDOR_PORT/readyz" >/dev/null; do
    kill -0 "$SERVER" || { cat server.log; exit 1; }
    sleep 0.2
  done
}
trap leave EXIT
"""


def prepare(folder: Path, repository: Path) -> None:
    """The files that the pages speak of: pictures of their names, folders of them, labelled queries."""
    for name in BESIDE:
        (folder / name).symlink_to(repository / name)
    drawn = picture(5, np.random.default_rng(0), clearest=1.0, faintest=0.9)
    zebra = drawn.resize((320, 288), Image.Resampling.BICUBIC)
    for name, image in {
        "zebra": zebra,
        "zebra-cropped": zebra.crop((20, 20, 300, 268)),
        "zebra-blurred": zebra.filter(ImageFilter.GaussianBlur(8)),
        "photo": picture(1, np.random.default_rng(0)),
        "a": picture(2, np.random.default_rng(0)),
        "b": picture(3, np.random.default_rng(0)),
    }.items():
        (folder / f"{name}.jpg").write_bytes(encode(image, "JPEG", quality=90))
    write_folder(folder / "photos", *pictures(16, seed=1))
    write_folder(folder / "queries", *pictures(60, seed=2, faintest=0.0))
    for name in ("photos", "queries"):
        paths = sorted((folder / name).rglob("*.png"))
        rows = [f"{path.relative_to(folder)},{path.parent.name}" for path in paths]
        (folder / f"{name}.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    assert {path.name for path in (folder / "photos").iterdir()} == set(CLASSES)


def follow(steps: Sequence[Step], folder: Path) -> None:
    """Type every step, one after the other; the first that fails ends it.

    Raises:
        AssertionError: with all that was printed, the last step's line above it.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    script = [PRELUDE, "serving candor serve"]
    for number, step in enumerate(steps):
        text = ADDRESS.sub(rf"\g<1>:{port}", step.text)
        script.append(f"echo {shlex.quote(f'--- line {step.line}: {text}')}")
        if step.kind == "python":
            (folder / f"program-{number}.py").write_text(text)
            script.append(f"python program-{number}.py")
        else:
            script.append(f"serving {text}" if SERVING.match(text) else text)
    (folder / "page.sh").write_text("\n".join(script) + "\n")
    ended = subprocess.run(
        ["bash", "page.sh"],
        cwd=folder,
        env=_environment(port),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout


def _environment(port: str) -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CANDOR_")}
    environment |= {"CANDOR_PORT": port, "CANDOR_SERVER": f"http://127.0.0.1:{port}"}
    environment |= {"CANDOR_AUTOTUNE": "false", "CANDOR_DEVICE": "cpu"}
    return environment | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

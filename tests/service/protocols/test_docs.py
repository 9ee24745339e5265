"""The code in docs/protocols.md runs as it stands, but for the server's address and the bundle's name."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service import bundle_factory
from tests.service.images import jpeg
from tests.service.process import PATIENCE_S

PRINTS = (
    rf"^{bundle_factory.DIMENSION} [\d.]+ [\d.]+ False$",
    rf"^\(1, {bundle_factory.DIMENSION}\) \[[\d.]+\] \[False\]\n\[[\d. ]+\]$",
)


def script(repository: Path, block: int, url: str) -> str:
    text = (repository / "docs" / "protocols.md").read_text()
    code: list[str] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(code) == len(PRINTS)
    return code[block].replace("127.0.0.1:8000", url.removeprefix("http://")).replace('"default"', '"tiny"')


@pytest.mark.parametrize("block", range(len(PRINTS)))
def test_the_code_in_the_docs_runs(repository: Path, url: str, tmp_path: Path, block: int) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg(1))
    command = [sys.executable, "-c", script(repository, block, url)]

    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False)

    assert run.returncode == 0, run.stderr
    assert re.search(PRINTS[block], run.stdout), run.stdout

"""What a built candor is to those who import it: typed, and light until it is asked for more."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import candor
import scripts.client

PROGRAM = """
import candor
from candor import AsyncClient, Client

def search(url: str) -> list[str]:
    with Client(url, bundle="a", timeout_s=3.0, verify=False) as client:
        embedded = client.embed("a.png", max_percentile=0.9)
        reveal_type(embedded)
        reveal_type(client.embed(["a.png", b""]))
        reveal_type([outcome for _, outcome in client.embed_many(["a.png"])])
        if embedded.embedding is None:
            return []
        return [match.id for match in client.retrieve(vector=embedded.embedding, limit=3).matches]

async def count(url: str) -> int:
    async with AsyncClient(url) as client:
        reveal_type(await client.gallery.get("a"))
        return await client.gallery.count({"label": "cat"})

try:
    search("http://127.0.0.1:8000")
except candor.ApiError as error:
    print(error.status, error.type, error.retry_after_s)
"""
WRONG = """
import candor

client = candor.Client(8000)
client.embed("a.png", max_percentil=0.9)
client.retrieve(3)
candor.NoSuchName
candor.Client("http://x").gallery.put("a", payload=[1])
"""
TYPES = [
    "scripts.client.results.Embedded",
    "list[scripts.client.results.Embedded | scripts.client.errors.ApiError | scripts.client.errors.Unreadable]",
    "list[scripts.client.results.Embedded | scripts.client.errors.ApiError | scripts.client.errors.Unreadable]",
    "scripts.client.results.Item",
]


@pytest.fixture(scope="module")
def python(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with the wheel that is built of this repository, and with what candor depends on."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=repository,
        check=True,
        capture_output=True,
    )
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin" / "python"


def checked(python: Path, folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(program)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", str(python), "program.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_program_that_uses_the_client_is_checked_strictly(python: Path, tmp_path: Path) -> None:
    result = checked(python, tmp_path, PROGRAM)
    revealed = [line.split('"')[1] for line in result.stdout.splitlines() if "Revealed type" in line]
    assert (result.returncode, revealed) == (0, TYPES), result.stdout


def test_a_program_that_is_wrong_is_told_so(python: Path, tmp_path: Path) -> None:
    result = checked(python, tmp_path, WRONG)
    lines = sorted({int(line.split(":")[1]) for line in result.stdout.splitlines() if ": error: " in line})
    assert lines == [4, 5, 6, 7, 8], result.stdout


def test_importing_the_client_loads_no_model_and_no_gallery(python: Path, tmp_path: Path) -> None:
    program = (
        "import sys, candor\n"
        "assert not {'httpx2', 'pydantic', 'numpy'} & sys.modules.keys()\n"
        "candor.Client('http://127.0.0.1:9').close()\n"
        "heavy = {'torch', 'onnxruntime', 'lancedb', 'pyarrow', 'fastapi', 'service', 'matplotlib'}\n"
        "print(sorted(heavy & sys.modules.keys()), candor.__file__)\n"
    )
    result = subprocess.run([python, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    loaded, _, place = result.stdout.strip().partition(" ")
    assert loaded == "[]"
    assert Path(place).is_relative_to(python.parents[1])


def test_what_the_module_offers_is_what_the_client_offers() -> None:
    assert set(candor.__all__) == set(scripts.client.__all__)
    for name in candor.__all__:
        assert getattr(candor, name) is getattr(scripts.client, name)
    with pytest.raises(AttributeError, match="has no attribute 'NoSuchName'"):
        getattr(candor, "NoSuchName")  # noqa: B009

"""The container image: what is taken out of it is not missed, and what is in it is what the pins say."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

IMAGE = Path(__file__).resolve().parents[2] / "deploy" / "image"
NOT_SERVED = (
    "torch*",
    "nvidia*",
    "triton*",
    "functorch*",
    "timm*",
    "scipy*",
    "matplotlib*",
    "sklearn*",
    "kubernetes_validate*",
)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this environment, less what only training and tests need."""
    if sys.platform != "linux" or shutil.which("strip") is None:
        pytest.skip("images are made on Linux, with strip (Debian: apt-get install binutils)")
    folder = tmp_path_factory.mktemp("environment") / "candor"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python3*/site-packages"))
    ignored = shutil.ignore_patterns(*NOT_SERVED, "__pycache__")
    shutil.copytree(sysconfig.get_path("purelib"), site, dirs_exist_ok=True, ignore=ignored, copy_function=_link)
    return folder


def _link(source: str, target: str) -> None:
    """A second name for a file, as far as that goes; `prune.py` takes names away and writes new files."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def test_a_server_misses_nothing_that_is_pruned(environment: Path, repository: Path) -> None:
    pruned = subprocess.run(
        [sys.executable, IMAGE / "prune.py", environment], capture_output=True, text=True, timeout=120
    )
    assert pruned.returncode == 0, pruned.stderr

    smoke = subprocess.run(
        [environment / "bin" / "python", IMAGE / "smoke.py"], capture_output=True, text=True, timeout=300
    )
    assert smoke.returncode == 0, smoke.stderr
    assert smoke.stdout.splitlines()[-1].startswith("ok: ")


def test_pruning_says_what_it_does_not_find(tmp_path: Path) -> None:
    (tmp_path / "lib" / "python3.12" / "site-packages").mkdir(parents=True)

    done = subprocess.run([sys.executable, IMAGE / "prune.py", tmp_path], capture_output=True, text=True)

    assert done.returncode == 1
    assert "take it off the list" in done.stderr


def test_the_dockerfile_has_a_way_for_each_runtime_that_compose_builds(repository: Path) -> None:
    dockerfile = (repository / "Dockerfile").read_text()
    services = yaml.safe_load((repository / "docker-compose.yml").read_text())["services"]
    built = {service["build"]["args"]["RUNTIME"] for service in services.values() if "build" in service}

    assert built == {"cpu", "milvus", "gpu"}
    for runtime in built:
        assert {f"pins-{runtime}", f"root-{runtime}"} <= set(
            re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE)
        )


def test_what_the_build_copies_reaches_it(repository: Path) -> None:
    ignore = (repository / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (repository / "Dockerfile").read_text(), re.MULTILINE)

    for source in " ".join(copied).split():
        assert (repository / source).exists()
        assert {f"!{source}", f"!{source.split('/')[0]}", f"!{'/'.join(source.split('/')[:2])}"} & set(ignore), source

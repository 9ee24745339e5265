"""What a clone promises before any code runs: pins, targets, containers."""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

REQUIREMENTS = ("build", "image-cpu", "serve-cpu", "serve-gpu", "train", "dev", "sbom")
PIN = re.compile(r"^([a-z0-9-]+)==([^ ;]+)(.*?)(?=^[a-z0-9-]+==|\Z)", re.MULTILINE | re.DOTALL)


def pins(repository: Path, name: str) -> dict[str, str]:
    text = (repository / "requirements" / f"{name}.txt").read_text()
    return {match[1]: match[2] for match in PIN.finditer(text)}


@pytest.fixture(scope="session")
def compose(repository: Path) -> dict[str, Any]:
    loaded = yaml.safe_load((repository / "docker-compose.yml").read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_pin_carries_a_hash(repository: Path, name: str) -> None:
    text = (repository / "requirements" / f"{name}.txt").read_text()
    unpinned = [line for line in text.splitlines() if re.match(r"[A-Za-z0-9]", line) and "==" not in line]

    assert unpinned == []
    assert len(pins(repository, name)) >= 5
    for match in PIN.finditer(text):
        assert "--hash=sha256:" in match[3], match[1]


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_pins_name_no_host_and_no_folder_of_a_machine(repository: Path, name: str) -> None:
    text = (repository / "requirements" / f"{name}.txt").read_text()

    assert "://" not in text
    assert not re.search(r"^--|index-url|find-links|file:|(^|\s)/", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["serve-cpu", "serve-gpu"])
def test_the_service_installs_nothing_it_trains_with(repository: Path, name: str) -> None:
    installed = pins(repository, name)

    assert not installed.keys() & {"torch", "torchvision", "timm", "onnx", "onnxscript", "scipy", "matplotlib"}
    assert ("onnxruntime" in installed) == (name == "serve-cpu")
    assert ("onnxruntime-gpu" in installed) == (name == "serve-gpu")


@pytest.mark.parametrize("name", ["image-cpu", "serve-cpu", "train"])
def test_what_is_tested_is_what_is_installed(repository: Path, name: str) -> None:
    tested = pins(repository, "dev")

    assert pins(repository, name).items() <= tested.items()


def test_both_services_run_the_same_versions(repository: Path) -> None:
    cpu, gpu = pins(repository, "serve-cpu"), pins(repository, "serve-gpu")

    assert {name: cpu[name] for name in cpu.keys() & gpu.keys()} == {
        name: gpu[name] for name in cpu.keys() & gpu.keys()
    }


def test_every_declared_dependency_is_pinned(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    declared = project["dependencies"] + project["optional-dependencies"]["cpu"]

    assert {re.split(r"[\[><=;]", requirement)[0] for requirement in declared} <= pins(repository, "serve-cpu").keys()


def test_every_make_target_says_what_it_does(repository: Path) -> None:
    makefile = (repository / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None

    shown = subprocess.run(["make", "help"], cwd=repository, capture_output=True, text=True, check=True).stdout

    documented = dict(re.findall(r"^([a-z]+) +(\S.*)$", shown, re.MULTILINE))
    assert documented.keys() == set(phony[1].split())
    assert documented.keys() >= {"serve", "test", "check", "reproduce", "bench", "requirements", "image", "clean"}


def test_ci_and_the_hooks_run_the_targets_that_people_run(repository: Path) -> None:
    ci = (repository / ".ci" / "run").read_text()
    hooks = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]

    entries = {hook["entry"] for hook in hooks}
    assert entries == {"make check", "make test"}
    assert entries <= set(ci.splitlines())


def test_compose_keeps_the_gallery_in_a_volume_that_outlives_the_container(compose: dict[str, Any]) -> None:
    mounts = [mount.split(":") for mount in compose["services"]["candor"]["volumes"]]

    assert mounts == [["gallery", "/data/gallery"]]
    assert "gallery" in compose["volumes"]


def test_compose_restarts_the_service_and_lets_it_drain(compose: dict[str, Any]) -> None:
    service = compose["services"]["candor"]

    assert service["restart"] == "unless-stopped"
    assert re.fullmatch(r"\d+s", service["stop_grace_period"])


def test_compose_and_image_ask_the_service_itself_whether_it_is_ready(
    repository: Path, compose: dict[str, Any]
) -> None:
    dockerfile = (repository / "Dockerfile").read_text()
    asked = compose["services"]["candor"]["healthcheck"]["test"][1:]

    assert f"CMD {json.dumps(asked)}" in dockerfile
    assert "/readyz" in (repository / "deploy" / "image" / Path(asked[-1]).name).read_text()


def test_the_image_runs_as_nobody_special_and_drains_on_sigterm(repository: Path) -> None:
    dockerfile = (repository / "Dockerfile").read_text()

    assert re.search(r"^USER 10001", dockerfile, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", dockerfile, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["candor", "serve"\]$', dockerfile, re.MULTILINE)

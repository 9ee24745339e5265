"""docker-compose.yml: read by the specification's schema, and closed where it should be."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).resolve().parents[2] / "docker-compose.yml"
PROFILES = {"cpu", "gpu", "postgres", "milvus", "dev"}
WRITES_BESIDE_ITSELF = {"milvus"}  # said so in the file


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return loaded


SERVICES: dict[str, Any] = compose()["services"]
OURS = {name for name in SERVICES if name.startswith("candor")}


@pytest.mark.parametrize("name", ["docker-compose.yml", "deploy/compose/network.yml"])
def test_the_file_is_as_the_specification_of_compose_says(repository: Path, name: str) -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    done = subprocess.run(
        [checker, "--builtin-schema", "vendor.compose-spec", name], cwd=repository, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout


def test_without_a_profile_the_server_and_what_watches_it_start(repository: Path) -> None:
    default = re.findall(r"^COMPOSE_PROFILES=(\w+)$", (repository / ".env").read_text(), re.MULTILINE)
    started = {name for name, service in SERVICES.items() if {*service.get("profiles", default)} & {*default}}

    assert default == ["cpu"]
    assert started == {"candor", "prometheus", "grafana", "secrets"}


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_each_profile_serves_once_under_the_name_that_prometheus_knows(profile: str) -> None:
    (name,) = [name for name in OURS if profile in SERVICES[name]["profiles"]]

    assert SERVICES[name]["networks"]["default"]["aliases"] == ["candor"]
    assert {given for service in SERVICES.values() for given in service.get("profiles", [])} == PROFILES


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_service_can_do_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]

    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only", False) is (name not in WRITES_BESIDE_ITSELF)
    assert {"memory", "pids"} <= service["deploy"]["resources"]["limits"].keys()
    assert not service.keys() & {"privileged", "cap_add", "pid", "ipc", "env_file"}


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"secrets", "dcgm-exporter"}))
def test_a_service_that_stays_restarts_and_says_whether_it_is_well(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - OURS))
def test_images_of_others_are_pinned_to_a_release(name: str) -> None:
    tag = SERVICES[name]["image"].rpartition(":")[2]

    assert re.search(r"\d+\.\d+\.\d+|\d{4}-\d{2}-\d{2}", tag), tag


def test_nothing_is_published_beyond_this_machine() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]

    assert len(published) == len(OURS) + 2
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert all(SERVICES[name]["environment"]["CANDOR_ALLOW_ANONYMOUS"] == "true" for name in OURS)


def test_what_is_written_lies_in_volumes_that_outlive_their_container() -> None:
    mounts = [mount.split(":") for service in SERVICES.values() for mount in service.get("volumes", [])]
    named = {source for source, *_ in mounts if not source.startswith(".")}

    assert named == compose()["volumes"].keys()
    for source, _, *options in mounts:
        if source.startswith("."):
            assert options == ["ro"], source
            assert (FILE.parent / source).exists()


def test_no_secret_is_in_the_file() -> None:
    given = {
        variable: value
        for service in SERVICES.values()
        for variable, value in (service.get("environment") or {}).items()
    }
    secret = {name: value for name, value in given.items() if re.search(r"PASSWORD|SECRET", name)}

    assert len(secret) == 4
    assert all(value == "/secrets/password" for value in secret.values())


def test_secrets_are_made_once(tmp_path: Path) -> None:
    script, one, two = FILE.parent / "deploy" / "make-secrets.sh", tmp_path / "one", tmp_path / "two"
    two.write_text("mine")

    subprocess.run(["sh", script, one, two], check=True)
    made = one.read_text()
    subprocess.run(["sh", script, one, two], check=True)

    assert re.fullmatch(r"[0-9a-f]{48}", made)
    assert (one.read_text(), two.read_text()) == (made, "mine")

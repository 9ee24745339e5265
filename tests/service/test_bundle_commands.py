"""`candor bundle show|verify|push` as people run them: on folders, on the hub's cache, and on a hub."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.bundle import load_bundle
from tests.hub import TOKEN, Hub, lay_out, running_hub
from tests.service.bundle_factory import make_bundle
from tests.service.process import PATIENCE_S, REPOSITORY, ready_client, serving

NAME = "acme/tiny"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "import candor; candor.main()", "bundle", *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "HF_HUB_OFFLINE": "0", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with running_hub() as hub:
        yield hub


def test_show_tells_people_what_a_bundle_is(bundle_path: Path) -> None:
    shown = run("show", str(bundle_path))

    assert shown.returncode == 0, shown.stderr
    for line in (
        "name: tiny",
        f"hash: {load_bundle(bundle_path).hash}",
        "dimension: 48",
        "  data set: made up, 101 images",
        "  uncertainty: least 0, median 10, 90 % 18, most 20",
        "  licence: none",
    ):
        assert line in shown.stdout.splitlines()


def test_show_gives_the_whole_manifest_as_json(bundle_path: Path) -> None:
    shown = json.loads(run("show", str(bundle_path), "--json").stdout)
    manifest = json.loads((bundle_path / "bundle.json").read_text())

    assert shown["reference"] == manifest["reference"]
    assert shown["training"] == {**manifest["training"], "details": {}}
    assert manifest.keys() < shown.keys()
    assert (shown["hash"], shown["hub"]) == (load_bundle(bundle_path).hash, None)


def test_verify_tells_each_thing_that_holds(bundle_path: Path) -> None:
    verified = run("verify", str(bundle_path))

    assert verified.returncode == 0, verified.stderr
    assert len(verified.stdout.splitlines()) == 4
    assert all(line.startswith("ok  ") for line in verified.stdout.splitlines())


@pytest.mark.parametrize("name", ["default", "default-fp32"])
def test_the_shipped_bundles_are_verified(repository: Path, name: str) -> None:
    assert run("verify", str(repository / "models" / "bundles" / name)).returncode == 0


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"format_version": 2}, "breaks the schema"),
        ({"graph_sha256": "0" * 64}, "is not the graph"),
        ({"dimension": 47}, "the manifest says 47"),
        ({"outputs": ["embedding"]}, "the manifest says ['embedding']"),
        ({"metrics": {"parity": {"max_embedding_error": 0.5}}}, "records a parity"),
    ],
)
def test_verify_ends_with_the_finding(tmp_path: Path, changes: Any, finding: str) -> None:
    verified = run("verify", str(make_bundle(tmp_path / "broken", **changes)))

    assert verified.returncode == 1
    assert finding in verified.stderr
    assert "Traceback" not in verified.stderr


def test_verify_finds_an_embedding_that_is_not_of_unit_length(tmp_path: Path) -> None:
    verified = run("verify", str(make_bundle(tmp_path / "long", sign=2)))

    assert verified.returncode == 1
    assert "unit L2 norm" in verified.stderr


def test_a_bundle_of_the_hub_is_downloaded_once_and_served_without_it(
    hub: Hub, bundle_path: Path, tmp_path: Path
) -> None:
    commit = hub.add(NAME, bundle_path)
    environment = hub.environment(tmp_path / "home")
    shown = json.loads(run("show", NAME, "--json", **environment).stdout)
    hub.add(NAME, make_bundle(tmp_path / "newer", scale=2.0))
    offline = {**environment, "HF_HUB_OFFLINE": "1"}
    with serving(NAME, "none", **offline) as server, ready_client(server) as client:
        model = client.get("/model").json()
        loaded = server.event("bundle loaded")

    assert shown["hub"] == {"repository": NAME, "revision": "main", "commit": commit}
    assert (model["hub"], model["bundle_hash"]) == (shown["hub"], load_bundle(bundle_path).hash)
    assert (loaded["hub"], loaded["commit"]) == (f"{NAME}@main", commit)


def test_a_new_commit_of_the_hub_is_served_after_a_reload(hub: Hub, bundle_path: Path, tmp_path: Path) -> None:
    hub.add("acme/moving", bundle_path, "stable")
    with (
        serving("mine=acme/moving@stable", "none", **hub.environment(tmp_path / "home")) as server,
        ready_client(server) as client,
    ):
        before = client.get("/model").json()
        newer = make_bundle(tmp_path / "newer", scale=2.0)
        commit = hub.add("acme/moving", newer, "stable")
        assert client.post("/admin/reload").status_code == 200
        after = client.get("/model").json()

    assert (before["bundle"], after["bundle"]) == ("mine", "mine")
    assert after["hub"] == {"repository": "acme/moving", "revision": "stable", "commit": commit}
    assert after["bundle_hash"] == load_bundle(newer).hash != before["bundle_hash"]


def test_the_cache_alone_serves_without_a_connection(bundle_path: Path, tmp_path: Path) -> None:
    commit = lay_out(tmp_path / "hub", NAME, bundle_path, "v1")
    environment = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    by_name = run("show", f"{NAME}@v1", "--json", **environment)
    by_commit = run("show", f"{NAME}@{commit}", "--json", **environment)
    missing = run("show", f"{NAME}@v2", **environment)
    elsewhere = run("show", "acme/other", **environment)

    assert json.loads(by_name.stdout)["hub"] == {"repository": NAME, "revision": "v1", "commit": commit}
    assert json.loads(by_commit.stdout)["hub"]["commit"] == commit
    for absent in (missing, elsewhere):
        assert absent.returncode == 1
        assert "is not in the cache of the hub, and the hub cannot be reached" in absent.stderr
        assert "Traceback" not in absent.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("acme/nothing", "the hub has no such repository"),
        ("acme/closed@v3", "no branch, tag or commit 'v3'"),
        ("acme/gated", "accept its terms on the hub, and set HF_TOKEN"),
        ("acme/private", "or set HF_TOKEN"),
    ],
)
def test_what_the_hub_does_not_give_is_explained(
    hub: Hub, bundle_path: Path, tmp_path: Path, name: str, message: str
) -> None:
    for each in ("closed", "gated", "private"):
        hub.add(f"acme/{each}", bundle_path)
    hub.repositories["acme/gated"].gated = hub.repositories["acme/private"].private = True
    shown = run("show", name, **hub.environment(tmp_path))

    assert shown.returncode == 1
    assert message in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_token_opens_what_is_private(hub: Hub, bundle_path: Path, tmp_path: Path) -> None:
    hub.add("acme/secret", bundle_path)
    hub.repositories["acme/secret"].private = True

    assert run("show", "acme/secret", **{**hub.environment(tmp_path), "HF_TOKEN": TOKEN}).returncode == 0


def test_a_hub_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    shown = run("show", NAME, HF_HOME=str(tmp_path), HF_ENDPOINT="http://127.0.0.1:9")

    assert shown.returncode == 1
    assert "the hub cannot be reached" in shown.stderr


def test_push_uploads_graph_manifest_and_card_in_one_commit(hub: Hub, bundle_path: Path, tmp_path: Path) -> None:
    environment = {**hub.environment(tmp_path), "HF_TOKEN": TOKEN}
    pushed = run("push", str(bundle_path), "acme/pushed", "--private", "--message", "First", **environment)
    again = run("push", str(bundle_path), "acme/pushed", "--revision", "v2", **environment)
    shown = run("show", "acme/pushed@v2", "--json", **environment)

    assert pushed.returncode == 0, pushed.stderr
    assert again.returncode == 0, again.stderr
    repository = hub.repositories["acme/pushed"]
    files = repository.commits[repository.branches["main"]]
    assert repository.private
    assert repository.messages == ["First", "Upload a bundle"]
    assert set(files) == {"bundle.json", "model.onnx", "README.md"}
    for name in ("bundle.json", "model.onnx"):
        assert files[name] == (bundle_path / name).read_bytes()
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: candor\n")
    assert "candor serve --bundle acme/pushed" in card
    assert load_bundle(bundle_path).hash in card
    assert str(bundle_path) not in card
    assert json.loads(shown.stdout)["hash"] == load_bundle(bundle_path).hash


def test_a_card_of_ones_own_is_kept(hub: Hub, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    (bundle / "README.md").write_text("# Ours\n")
    run("push", str(bundle), "acme/ours", **{**hub.environment(tmp_path), "HF_TOKEN": TOKEN})
    repository = hub.repositories["acme/ours"]

    assert repository.commits[repository.branches["main"]]["README.md"] == b"# Ours\n"


def test_push_refuses_what_is_broken_before_it_asks_the_hub(hub: Hub, tmp_path: Path) -> None:
    broken = make_bundle(tmp_path / "broken", dimension=47)
    pushed = run("push", str(broken), "acme/broken", **{**hub.environment(tmp_path), "HF_TOKEN": TOKEN})

    assert pushed.returncode == 1
    assert "acme/broken" not in hub.repositories


@pytest.mark.parametrize(
    ("repository", "token", "message"),
    [
        ("acme/refused", "hf_of_another", "HF_TOKEN"),
        ("acme/refused@v1", TOKEN, "--revision"),
        ("mine", TOKEN, "org/name"),
    ],
)
def test_push_explains_what_the_hub_refuses(
    hub: Hub, bundle_path: Path, tmp_path: Path, repository: str, token: str, message: str
) -> None:
    pushed = run("push", str(bundle_path), repository, **{**hub.environment(tmp_path), "HF_TOKEN": token})

    assert pushed.returncode == 1
    assert message in pushed.stderr
    assert "Traceback" not in pushed.stderr

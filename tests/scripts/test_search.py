"""`candor search`: matches, abstentions and errors of a real server, in words, in JSON and as exit codes."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from scripts import search
from scripts.client import ApiError, Client, Labelled, Target
from tests.scripts.client.scripted import Said, scripted
from tests.service import process
from tests.service.bundle_factory import make_bundle
from tests.service.images import flat, png
from tests.service.policies.factory import labelled
from tests.service.process import PATIENCE_S, REPOSITORY

INPUTS = ("top_score", "margin", "result_uncertainty")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with thirty items, of two colours, and a policy."""
    folder = tmp_path_factory.mktemp("server")
    settings = {"CANDOR_AUTOTUNE": "false", "CANDOR_LABEL_FIELD": "label"}
    with process.serving(make_bundle(folder / "bundle"), folder / "gallery", **settings) as server:
        server.event("ready")
        with Client(server.url) as client:
            for seed in range(30):
                client.gallery.put(f"i{seed}", png(seed), payload={"label": f"l{seed}", "even": seed % 2 == 0})
            development, certification = (
                [Labelled({name: query.evidence[name] for name in INPUTS}, relevant=query.relevant) for query in some]
                for some in (labelled(400, 0), labelled(1500, 1))
            )
            client.policies.create("shop", [Target(0.1, 0.1), Target(0.2, 0.1)], development, certification)
        yield server.url


@pytest.fixture
def query(tmp_path: Path) -> Path:
    (tmp_path / "query.png").write_bytes(png(3))
    return tmp_path / "query.png"


def run(*arguments: object) -> int:
    """The exit code of `candor search`."""
    try:
        search.main([str(each) for each in arguments])
    except SystemExit as left:
        return int(str(left.code))
    return 0


def test_matches_are_a_table(server: str, query: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(query, "--server", server, "--limit", 2) == 0
    shown = capsys.readouterr().out.splitlines()
    with Client(server) as client:
        found = client.retrieve(query, limit=2)
    assert shown[0] == f"2 matches (query at percentile {found.query.percentile:.3f})"
    assert shown[1].split() == ["id", "score", "percentile", "payload"]
    assert [line.split(maxsplit=3) for line in shown[2:]] == [
        [match.id, f"{match.score:.3f}", f"{match.percentile:.3f}", json.dumps(match.payload)]
        for match in found.matches
    ]
    assert shown[2].startswith("i3 ")


def test_json_is_the_whole_answer(server: str, query: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--id", "i3", "--server", server, "--filter", '{"even": true}', "--json") == 0
    told = json.loads(capsys.readouterr().out)
    with Client(server) as client:
        asked = json.loads(json.dumps(asdict(client.retrieve(id="i3", filter={"even": True}))))
    own = ("timing_ms", "request_id")
    assert {name: told[name] for name in told if name not in own} == {
        name: asked[name] for name in asked if name not in own
    }
    assert len(told["matches"]) == 10
    assert all(match["payload"]["even"] for match in told["matches"])


def test_an_abstention_is_explained_and_has_a_code_of_its_own(
    server: str, query: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flat.png").write_bytes(flat())
    assert run(tmp_path / "flat.png", "--server", server, "--max-percentile", 0.5) == 3
    assert capsys.readouterr().out == "abstained (query at percentile 1.000): candor is too unsure of the query image\n"
    assert run(query, "--server", server, "--filter", '{"label": "none"}', "--json") == 3
    assert json.loads(capsys.readouterr().out)["reasons"] == ["no_close_match"]


def test_a_policy_tells_its_promise(server: str, query: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(query, "--server", server, "--policy", "shop", "--alpha", 0.1, "--limit", 1) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[1].startswith("policy shop is valid: at most 10 % wrong, with a probability of 90 %; ")
    with pytest.raises(ApiError, match="name one of them"):
        run(query, "--server", server, "--policy", "shop")


def test_every_reason_has_words() -> None:
    from service.policies.policy import REASONS

    assert set(REASONS.values()) == search.WORDS.keys()


def test_arguments_that_cannot_be_used_are_usage_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--server", "http://x") == 2
    assert run("a.png", "--id", "b") == 2
    assert run("a.png", "--filter", "[1]") == 2
    assert run("a.png", "--filter", "{") == 2
    assert run("a.png", "--limit", "0") == 2
    assert run("a.png", "--k", "some") == 2
    assert "expected a JSON object" in capsys.readouterr().err


def test_the_console_says_in_a_line_what_went_wrong(server: str, tmp_path: Path) -> None:
    def said(*arguments: str, **environment: str) -> tuple[int, str]:
        command = [sys.executable, "-c", "import candor; candor.main()", "search", *arguments]
        env = {"PYTHONPATH": str(REPOSITORY), **environment}
        result = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, env=env, cwd=tmp_path)
        return result.returncode, result.stderr

    assert said("gone.png", CANDOR_SERVER=server) == (1, "candor search: gone.png: No such file or directory\n")
    code, error = said("--id", "nobody", "--server", server)
    assert (code, error) == (1, "candor search: POST /retrieve was answered 404: the gallery has no item 'nobody'\n")
    code, error = said("--id", "i3", "--server", "http://127.0.0.1:9")
    assert code == 1
    assert error.startswith("candor search: no answer from http://127.0.0.1:9: ")


def test_key_and_bundle_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("from the file\n")
    refused = Said(401, {"type": "unauthorized", "title": "t", "status": 401, "detail": "no such key"})
    ready = Said(content={"status": "ready"})
    with scripted(ready, refused, ready, refused) as server:
        monkeypatch.setenv("CANDOR_KEY", "from the environment")
        for arguments in ([], ["--api-key-file", str(tmp_path / "key"), "--bundle", "b"]):
            with pytest.raises(ApiError, match="no such key"):
                run("--id", "x", "--server", server.url, *arguments)
    keys = [heard.headers["authorization"] for heard in server.heard]
    assert keys == ["Bearer from the environment"] * 2 + ["Bearer from the file"] * 2
    assert [heard.line for heard in server.heard][1::2] == ["POST /retrieve", "POST /retrieve?bundle=b"]

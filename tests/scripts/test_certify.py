"""`candor certify`: against a real server, from labelled images to a policy that holds."""

import json
from argparse import ArgumentTypeError
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx2 import Client

from models.errors import UserError
from scripts import certify
from scripts.certify import Asked, Query, read_queries, split, target, value_at
from scripts.client import Target
from tests.service import process
from tests.service.bundle_factory import make_bundle
from tests.service.images import encode, picture, png

KNOWN, UNKNOWN = 150, 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose gallery has one picture of each of `KNOWN` labels."""
    folder = tmp_path_factory.mktemp("server")
    environment = {
        "CANDOR_BUNDLE": str(make_bundle(folder / "bundle")),
        "CANDOR_GALLERY": str(folder / "gallery"),
        "CANDOR_DEVICE": "cpu",
        "CANDOR_AUTOTUNE": "false",
        "CANDOR_LABEL_FIELD": "about.label",
    }
    running = process.Server([], environment)
    try:
        running.event("ready")
        with Client(base_url=running.url, timeout=60.0) as client:
            for seed in range(KNOWN):
                payload = json.dumps({"about": {"label": f"l{seed}"}})
                response = client.put(f"/gallery/{seed}", content=png(seed), params={"payload": payload})
                assert response.status_code == 200, response.text
        yield running.url
    finally:
        running.terminate()
        running.wait()


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of blown-up copies of the gallery's pictures, two of each, and pictures of labels it lacks."""
    folder = tmp_path_factory.mktemp("queries")
    lines = ["path,label,group"]
    for seed in range(KNOWN):
        for copy in range(2):
            (folder / f"{seed}-{copy}.png").write_bytes(encode(picture(seed).resize((60 + copy, 50))))
            lines.append(f"{seed}-{copy}.png,l{seed},g{seed}")
    for seed in range(KNOWN, KNOWN + UNKNOWN):
        (folder / f"{seed}.png").write_bytes(png(seed))
        lines.append(f"{seed}.png,other,")
    (folder / "queries.csv").write_text("\n".join(lines) + "\n")
    return folder / "queries.csv"


def test_labelled_images_become_a_policy_that_tells_right_from_wrong(
    server: str, queries: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    certify.main(
        [
            *("--server", server, "--queries", str(queries), "--name", "shop", "--label-field", "about.label"),
            *("--target", "0.1:0.1", "--target", "0.001:0.05"),
            *("--target", "0.7:0.1:2", "--target", "0.5:0.1:adaptive", "--depth", "20", "--out", str(out)),
        ]
    )

    policy = json.loads((out / "policy.json").read_text())
    feasible, infeasible, precision, sets = policy["targets"]
    assert feasible["feasible"]
    assert not infeasible["feasible"]
    assert feasible["certificate"]["loss"] / feasible["certificate"]["accepted"] <= 0.1
    assert feasible["certificate"]["coverage"] > 0.4
    assert precision["certificate"]["loss"] / precision["certificate"]["accepted"] >= 0.5  # one item of each label
    assert precision["feasible"]
    assert sets["sets"][0]["k"] == 1
    assert policy["quality"]["r_auroc"]["score"] > 0.95
    assert (policy["label_field"], policy["gallery"]["items"]) == ("about.label", KNOWN)

    evidence = [json.loads(line) for line in (out / "evidence.jsonl").read_text().splitlines()]
    assert len(evidence) == 2 * KNOWN + UNKNOWN
    assert all(each["relevant"][0] for each in evidence if each["label"] != "other")
    assert not any(any(each["relevant"]) for each in evidence if each["label"] == "other")
    assert "cannot be certified" in (out / "report.md").read_text()
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")
    assert "Policy shop" in capsys.readouterr().out

    with Client(base_url=server, timeout=60.0) as client:
        options: dict[str, str | float] = {"policy": "shop", "alpha": 0.1}
        right, wrong = (client.post("/retrieve", content=png(seed), params=options).json() for seed in (3, KNOWN + 100))
    assert (right["decision"], right["guarantee"]["status"]) == ("match", "valid")
    assert wrong["decision"] == "abstain"


def test_near_duplicates_stay_together_and_what_found_nothing_is_left_out() -> None:
    asked = [Asked(f"p{i}", "a", f"g{i // 3}", {"margin": 1.0}, [True]) for i in range(300)]
    asked += [Asked("lost", "a", None, None, [False]), Asked("alone", "a", None, {"margin": 0.0}, [False])]
    development, certification = split(asked, 0.3, seed=1)
    assert {each.group for each in development}.isdisjoint({each.group for each in certification if each.group})
    assert len(development) + len(certification) == 301
    assert 80 <= len(development) <= 100
    assert split(asked, 0.3, seed=1) == (development, certification)


def test_a_folder_of_labels_is_read_too(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.PNG").write_bytes(png(1))
        (tmp_path / label / "notes.txt").write_text("no image")
    assert read_queries(tmp_path) == [
        Query(tmp_path / "cat" / "1.PNG", "cat"),
        Query(tmp_path / "dog" / "1.PNG", "dog"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "columns path and label"), ("path,label\n", "no images"), ("path,label\nx.png,cat\n", "missing")],
)
def test_queries_that_cannot_be_used_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "queries.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_queries(tmp_path / "queries.csv")
    with pytest.raises(UserError, match="--queries"):
        read_queries(tmp_path / "nowhere.csv")


def test_small_parts() -> None:
    assert target("0.1:0.05") == Target(0.1, 0.05)
    assert target("0.1:0.05:3") == Target(0.1, 0.05, 3)
    assert target("0.1:0.05:adaptive") == Target(0.1, 0.05, "adaptive")
    for text in ("0.1", "0.1:0.05:some"):
        with pytest.raises(ArgumentTypeError, match="ALPHA:DELTA"):
            target(text)
    assert value_at({"a": {"b": 3}}, "a.b") == 3
    assert value_at({"a": 1}, "a.b") is None

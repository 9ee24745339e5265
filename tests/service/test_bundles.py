"""Several bundles in one server: asked for by name, each with a gallery of its own, or none."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from httpx2 import Client, Response

from models.bundle import load_bundle
from tests.service.bundle_factory import DIMENSION, make_bundle
from tests.service.images import png
from tests.service.process import ready_client, serving

PNG = {"content-type": "image/png"}
SMALL = 12  # the dimension of a grid of two


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("bundles")
    return {
        "tiny": make_bundle(home / "tiny"),
        "small": make_bundle(home / "small", name="called-otherwise", grid=2, scale=3.0),
    }


@pytest.fixture(scope="module")
def client(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    gallery = tmp_path_factory.mktemp("galleries") / "{bundle}" / "{hash}"
    arguments = ("--bundle", str(bundles["tiny"]), "--bundle", f"small={bundles['small']}")
    with serving(bundles["tiny"], gallery, *arguments) as server, ready_client(server) as client:
        yield client


def embed(client: Client, **params: str) -> Response:
    return client.post("/embed", content=png(1), headers=PNG, params=params)


def test_each_bundle_embeds_by_name_and_the_first_without_one(client: Client, bundles: dict[str, Path]) -> None:
    for params, name, dimension in (({}, "tiny", DIMENSION), ({"bundle": "small"}, "small", SMALL)):
        answer = embed(client, **params).json()
        assert (answer["bundle"], len(answer["results"][0]["embedding"])) == (name, dimension)
        assert answer["bundle_hash"] == load_bundle(bundles[name]).hash
    one, other = embed(client).json()["results"][0], embed(client, bundle="small").json()["results"][0]
    assert other["uncertainty"] == pytest.approx(3 * one["uncertainty"], rel=1e-3)


def test_each_bundle_finds_in_a_gallery_of_its_own(client: Client) -> None:
    for seed in range(3):
        assert client.put(f"/gallery/{seed}", content=png(seed), headers=PNG).status_code == 200
    stored = client.put(
        "/gallery/alone", content=png(7), headers=PNG, params={"bundle": "small", "payload": '{"a": 1}'}
    )
    assert stored.status_code == 200

    counts = {name: client.get("/gallery", params={"bundle": name}).json()["count"] for name in ("tiny", "small")}
    found = client.post("/retrieve", content=png(1), headers=PNG, params={"bundle": "small"}).json()["matches"]
    by_vector = client.post("/retrieve", json={"vector": np.ones(SMALL).tolist()}, params={"bundle": "small"}).json()
    wrong = client.post("/retrieve", json={"vector": np.ones(SMALL).tolist()})

    assert counts == {"tiny": 3, "small": 1}
    assert [match["id"] for match in found] == ["alone"]
    assert [match["payload"] for match in by_vector["matches"]] == [{"a": 1}]
    assert (wrong.status_code, wrong.json()["type"]) == (400, "invalid_vector")
    assert client.get("/gallery/alone").status_code == 404
    assert client.delete("/gallery/alone", params={"bundle": "small"}).status_code == 200


def test_policies_are_of_a_bundle(client: Client) -> None:
    assert client.get("/policies", params={"bundle": "small"}).json() == {"policies": []}
    assert client.get("/policies/none", params={"bundle": "small"}).json()["type"] == "unknown_policy"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/embed"),
        ("POST", "/retrieve"),
        ("GET", "/gallery"),
        ("GET", "/gallery/a"),
        ("PUT", "/gallery/a"),
        ("GET", "/policies"),
        ("POST", "/feedback"),
        ("GET", "/model"),
    ],
)
def test_a_name_that_is_not_served_is_not_found(client: Client, method: str, path: str) -> None:
    answer = client.request(method, path, params={"bundle": "large"})

    assert (answer.status_code, answer.json()["type"]) == (404, "unknown_bundle")
    assert "'tiny', 'small'" in answer.json()["detail"]


def test_two_names_are_refused(client: Client) -> None:
    answer = client.post("/embed?bundle=tiny&bundle=small", content=png(1), headers=PNG)

    assert (answer.status_code, answer.json()["type"]) == (400, "invalid_option")


def test_the_models_are_listed_and_each_is_described(client: Client, bundles: dict[str, Path]) -> None:
    listed = client.get("/models").json()

    assert listed["default"] == "tiny"
    assert [model["bundle"] for model in listed["models"]] == ["tiny", "small"]
    assert [model["dimension"] for model in listed["models"]] == [DIMENSION, SMALL]
    for model in listed["models"]:
        assert client.get("/model", params={"bundle": model["bundle"]}).json() == model
        assert model["hub"] is None
    assert client.get("/model").json()["bundle"] == "tiny"


def test_metrics_tell_the_bundles_apart(client: Client) -> None:
    embed(client, bundle="small")
    text = client.get("/metrics").text

    for name in ("tiny", "small"):
        assert re.search(rf'^candor_images_total{{bundle="{name}",outcome="ok"}} [1-9]', text, re.MULTILINE)
        assert re.search(rf'^candor_gallery_items{{bundle="{name}"}} ', text, re.MULTILINE)
        assert re.search(rf'^candor_model_info{{backbone="patches",bundle="{name}",', text, re.MULTILINE)
        assert re.search(rf'^candor_bundle_loaded_timestamp_seconds{{bundle="{name}"}} 1', text, re.MULTILINE)
    assert "candor_uncertainty_bucket" not in text


def test_a_bundle_without_a_gallery_embeds_and_says_that_it_has_none(bundles: dict[str, Path], tmp_path: Path) -> None:
    both = ("--bundle", str(bundles["tiny"]), "--bundle", f"small={bundles['small']}")
    with serving(bundles["tiny"], tmp_path / "gallery", *both) as server, ready_client(server) as client:
        assert embed(client, bundle="small").status_code == 200
        answers = [
            client.post("/retrieve", content=png(1), headers=PNG, params={"bundle": "small"}),
            client.post("/retrieve", json={"vector": [1.0] * SMALL}, params={"bundle": "small"}),
            client.put("/gallery/a", content=png(1), headers=PNG, params={"bundle": "small"}),
            client.get("/gallery", params={"bundle": "small"}),
            client.get("/policies", params={"bundle": "small"}),
        ]
        assert client.get("/model", params={"bundle": "small"}).json()["gallery"] is False
        assert client.put("/gallery/a", content=png(1), headers=PNG).status_code == 200
        metrics = client.get("/metrics").text

    assert [(answer.status_code, answer.json()["type"]) for answer in answers] == [(404, "no_gallery")] * 5
    assert 'candor_gallery_items{bundle="tiny"} 1.0' in metrics


def test_a_server_can_be_without_any_gallery(bundles: dict[str, Path], tmp_path: Path) -> None:
    with serving(bundles["tiny"], "none") as server, ready_client(server) as client:
        assert embed(client).status_code == 200
        assert client.get("/gallery").json()["type"] == "no_gallery"


def test_any_name_of_a_manifest_is_served_and_none_leads_out_of_a_folder(tmp_path: Path) -> None:
    odd, name = make_bundle(tmp_path / "odd", name="../my birds", grid=2), {"bundle": "../my birds"}
    with serving(odd, tmp_path / "galleries" / "{bundle}") as server, ready_client(server) as client:
        assert embed(client, **name).json()["bundle"] == "../my birds"
        assert client.put("/gallery/a", content=png(1), headers=PNG, params=name).status_code == 200
    assert {path.name for path in tmp_path.iterdir()} == {"odd", "galleries"}


@pytest.mark.parametrize(
    ("bundle", "gallery", "message"),
    [
        ("{tiny},tiny={small}", "none", "two bundles are called 'tiny'"),
        ("{tiny},small={small}", "{home},large={home}2", "has a gallery for 'large'"),
        ("{tiny},small={small}", "{home},small={home}", "would share a gallery"),
    ],
)
def test_names_and_places_that_contradict_each_other_stop_the_start(
    bundles: dict[str, Path], tmp_path: Path, bundle: str, gallery: str, message: str
) -> None:
    with serving(bundle.format(**bundles), gallery.format(home=tmp_path / "gallery")) as server:
        assert server.wait() == 1

    assert message in server.errors
    assert "Traceback" not in server.errors

"""Probes, metrics, logs, what is served, and the API's own description."""

import json
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from models.bundle import Bundle
from service.keys import digest_of
from service.schemas import ModelBody, ProblemBody
from tests.service.callers import bearing, give_key
from tests.service.conftest import Running, Start
from tests.service.images import flat, png

PNG = {"content-type": "image/png"}


async def samples(
    running: Running, headers: Mapping[str, str] | None = None
) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    response = await running.client.get("/metrics", headers=headers)
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


async def test_metrics_count_what_happened(start: Start, bundle: Bundle) -> None:
    async with start(max_batch=1) as running:
        client = running.client
        await client.post("/embed", content=png(1), headers=PNG)
        await client.post("/embed", content=b"nonsense", headers=PNG)
        await client.post("/embed", content=flat(), headers=PNG, params={"max_percentile": 0.5})
        await client.put("/gallery/a", content=png(1), headers=PNG)
        await client.post("/retrieve", content=png(1), headers=PNG)
        await client.post("/retrieve", content=flat(), headers=PNG, params={"max_query_percentile": 0.5})
        await client.post("/retrieve", content=flat(), headers=PNG, params={"score_threshold": 1})
        await client.get("/nowhere")
        await client.get("/elsewhere")
        found = await samples(running)

    def value(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    def of_tiny(name: str, **labels: str) -> float:
        return value(name, bundle="tiny", **labels)

    assert value("candor_requests_total", method="POST", route="/embed", status="200") == 2
    assert value("candor_requests_total", method="POST", route="/embed", status="415") == 1
    assert value("candor_requests_total", method="PUT", route="/gallery/{id:path}", status="200") == 1
    assert value("candor_requests_total", method="any", route="unmatched", status="404") == 2
    assert value("candor_request_seconds_count", method="POST", route="/embed") == 3
    for stage, count in {"decode": 6, "queue": 6, "inference": 6, "encode": 2}.items():
        assert of_tiny("candor_stage_seconds_count", stage=stage) == count
    assert of_tiny("candor_batch_size_count") == 6
    assert of_tiny("candor_images_total", outcome="ok") == 6
    assert of_tiny("candor_images_total", outcome="unsupported_format") == 1
    assert of_tiny("candor_abstentions_total", reason="uncertain_image") == 1
    assert of_tiny("candor_abstentions_total", reason="uncertain_query") == 1
    assert of_tiny("candor_abstentions_total", reason="no_close_match") == 1
    assert of_tiny("candor_uncertainty_percentile_count") == 6
    assert of_tiny("candor_uncertainty_percentile_bucket", le="0.99") == 3  # the three flat ones are at 1.0
    assert of_tiny("candor_novelty_percentile_count") == 6
    assert of_tiny("candor_gallery_items") == 1
    assert of_tiny("candor_queue_images") == 0
    assert value("candor_queue_limit_images") == 256
    assert value("candor_requests_in_flight") == 1  # the one that asks
    assert value("candor_ready") == 1
    assert of_tiny("candor_bundle_loaded_timestamp_seconds") > 1.7e9
    assert of_tiny("candor_tuning", what="max_batch") == 1
    assert of_tiny("candor_model_info", hash=bundle.hash, backbone="patches", device="cpu") == 1
    assert value("process_resident_memory_bytes") > 0


async def hammer(running: Running, file: Path, seed: int) -> None:
    """What strangers may think of, and what an admitted client may get wrong, other words with each seed."""
    random, key = Random(seed), bearing(give_key(file, f"caller-{seed}"))

    def word() -> str:
        return f"{random.getrandbits(40):x}"

    client, statuses = running.client, set()
    for path in (
        "/embed",
        "/retrieve",
        "/gallery",
        "/gallery/a",
        "/policies",
        "/feedback",
        "/metrics",
        "/docs",
        "/model",
    ):
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND", word().upper()):
            for headers in ({}, {word(): word()}, key, {**key, word(): word(), "x-request-id": word()}):
                for place in (path, f"{path}/{word()}", f"/{word()}{path}", f"{path}?{word()}={word()}"):
                    answer = await client.request(method, place, headers=headers, content=random.randbytes(9))
                    statuses.add(answer.status_code)
    for options in ({}, {"max_percentile": 0.0}, {"policy": word()}, {word(): word()}, {"on_abstain": "error"}):
        for image in (png(seed), png(seed)[:99], random.randbytes(99)):
            for path in ("/embed", "/retrieve", f"/gallery/{word()}"):
                method = "PUT" if path.startswith("/gallery") else "POST"
                await client.request(method, path, content=image, headers={**PNG, **key}, params=options)
    await client.post("/feedback", json={"request_id": word(), "correct": True}, headers=key)
    assert {200, 400, 401, 404, 405, 415} <= statuses


async def test_what_strangers_send_makes_no_new_series(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    key = bearing(give_key(file, "reader"))
    async with start(api_keys=file) as running:
        await hammer(running, file, 1)
        first = set(await samples(running, key))
        await hammer(running, file, 2)
        second = set(await samples(running, key))

    assert second == first
    labels = {value for _, pairs in first for _, value in pairs}
    assert not {label for label in labels if "caller" in label}


async def test_every_answer_has_the_requests_id(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    embeds = bearing(give_key(file, "embeds", "embed"))
    asked: list[tuple[int, str, str, dict[str, str]]] = [
        (200, "GET", "/docs", {}),
        (401, "POST", "/embed", {}),
        (403, "DELETE", "/gallery/a", embeds),
        (404, "GET", "/nowhere", embeds),
        (405, "PATCH", "/embed", embeds),
        (413, "POST", "/embed", {**embeds, "content-type": "image/png"}),
        (415, "POST", "/embed", {**embeds, "content-type": "text/plain"}),
        (503, "POST", "/retrieve", embeds),
    ]
    async with start(api_keys=file, max_image_bytes=4) as running:
        for number, (status, method, path, headers) in enumerate(asked):
            running.app.state.lifecycle.draining = status == 503
            sent = {**headers, "x-request-id": f"id-{number}"}
            answer = await running.client.request(method, path, headers=sent, content=b"12345")
            assert answer.status_code == status
            assert answer.headers["x-request-id"] == f"id-{number}"
            if status != 200:
                assert answer.json()["request_id"] == f"id-{number}"
    lines = [json.loads(line) for line in running.log.getvalue().splitlines()]
    logged = {line["request_id"]: line["status"] for line in lines if line["event"] == "request"}
    assert logged == {f"id-{number}": status for number, (status, *_) in enumerate(asked)}


async def test_two_apps_in_one_process_count_apart(start: Start) -> None:
    async with start() as one, start() as two:
        await one.client.get("/model")
        key = ("candor_requests_total", frozenset({"method": "GET", "route": "/model", "status": "200"}.items()))
        assert (await samples(one))[key] == 1
        assert key not in await samples(two)


async def test_each_request_is_one_json_line(running: Running) -> None:
    await running.client.get("/model", headers={"x-request-id": "abc"})
    await running.client.post("/embed", content=b"nonsense", headers={**PNG, "x-request-id": "def"})
    await running.client.get("/healthz")

    lines = [json.loads(line) for line in running.log.getvalue().splitlines()]
    good, bad = (line for line in lines if line["event"] == "request")
    assert (good["request_id"], good["method"], good["route"], good["status"]) == ("abc", "GET", "/model", 200)
    assert good["ms"] >= 0
    assert (bad["request_id"], bad["status"], bad["error"]) == ("def", 415, "unsupported_format")


async def test_the_model_says_what_is_served(start: Start, bundle: Bundle) -> None:
    async with start(max_percentile=0.9, max_batch=3) as running:
        body = ModelBody.model_validate((await running.client.get("/model")).json())

    assert (body.bundle, body.bundle_hash, body.dimension) == ("tiny", bundle.hash, 48)
    assert (body.device, body.max_batch) == ("cpu", 3)
    assert (body.threshold.percentile, body.threshold.source) == (0.9, "settings")
    assert body.limits["queue_images"] == 256


async def test_a_caller_is_logged_by_name_and_the_key_is_in_no_answer_and_no_log(start: Start, tmp_path: Path) -> None:
    key = give_key(tmp_path / "keys.txt", "search")
    async with start(api_keys=tmp_path / "keys.txt", log_level="debug") as running:
        answer = await running.client.get("/model", headers=bearing(key))
        assert key not in answer.text
    log = running.log.getvalue()
    assert '"key":"search"' in log
    assert key not in log
    assert digest_of(key.encode()).hex() not in log


@pytest.fixture
async def document(running: Running) -> Any:
    return (await running.client.get("/openapi.json")).json()


async def test_the_api_describes_every_endpoint(document: Any) -> None:
    operations = {
        (method, path): operation for path, item in document["paths"].items() for method, operation in item.items()
    }

    assert set(operations) == {
        ("post", "/embed"),
        ("post", "/retrieve"),
        ("get", "/gallery"),
        ("post", "/gallery"),
        ("post", "/gallery/delete"),
        ("put", "/gallery/{id}"),
        ("get", "/gallery/{id}"),
        ("delete", "/gallery/{id}"),
        ("get", "/policies"),
        ("post", "/policies"),
        ("get", "/policies/{name}"),
        ("delete", "/policies/{name}"),
        ("post", "/feedback"),
        ("post", "/v1/embeddings"),
        ("get", "/v1/models"),
        ("get", "/v1/models/{model}"),
        ("get", "/v2"),
        ("get", "/v2/health/live"),
        ("get", "/v2/health/ready"),
        ("post", "/v2/repository/index"),
        ("get", "/v2/models/{name}"),
        ("get", "/v2/models/{name}/config"),
        ("get", "/v2/models/{name}/ready"),
        ("post", "/v2/models/{name}/infer"),
        ("get", "/v2/models/{name}/versions/{version}"),
        ("get", "/v2/models/{name}/versions/{version}/config"),
        ("get", "/v2/models/{name}/versions/{version}/ready"),
        ("post", "/v2/models/{name}/versions/{version}/infer"),
        ("get", "/healthz"),
        ("get", "/readyz"),
        ("get", "/model"),
        ("get", "/models"),
        ("post", "/admin/reload"),
        ("get", "/metrics"),
    }
    for key, operation in operations.items():
        assert operation["description"], key
        assert operation["tags"], key


async def test_the_api_describes_bodies_options_and_errors(document: Any) -> None:
    embed = document["paths"]["/embed"]["post"]
    content = embed["requestBody"]["content"]

    assert set(content) == {"image/*", "application/octet-stream", "multipart/form-data", "application/json"}
    assert {parameter["name"] for parameter in embed["parameters"]} == {
        "max_uncertainty",
        "max_percentile",
        "on_abstain",
        "encoding",
        "bundle",
    }
    assert {"400", "401", "403", "404", "408", "413", "415", "422", "429", "503", "504"} < set(embed["responses"])


async def test_every_reference_in_the_api_resolves(document: Any) -> None:
    def references(node: Any) -> set[str]:
        if isinstance(node, dict):
            own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
            return own.union(*map(references, node.values()))
        return set().union(*map(references, node)) if isinstance(node, list) else set()

    for reference in references(document):
        head, *path = reference.split("/")
        assert head == "#"
        target = document
        for part in path:
            target = target[part]


async def test_problems_are_as_documented(running: Running) -> None:
    ProblemBody.model_validate((await running.client.get("/nowhere")).json())


async def test_the_documentation_page_is_there(running: Running) -> None:
    page = await running.client.get("/docs")

    assert page.status_code == 200
    assert "/openapi.json" in page.text

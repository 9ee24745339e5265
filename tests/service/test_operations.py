"""Probes, metrics, logs, what is served, and the API's own description."""

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from models.bundle import Bundle
from service.schemas import ModelBody, ProblemBody
from tests.service.conftest import Running, Start
from tests.service.images import flat, png

PNG = {"content-type": "image/png"}


async def samples(running: Running) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    response = await running.client.get("/metrics")
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

    assert value("candor_requests_total", method="POST", route="/embed", status="200") == 2
    assert value("candor_requests_total", method="POST", route="/embed", status="415") == 1
    assert value("candor_requests_total", method="PUT", route="/gallery/{id:path}", status="200") == 1
    assert value("candor_requests_total", method="any", route="unmatched", status="404") == 2
    assert value("candor_request_seconds_count", method="POST", route="/embed") == 3
    for stage, count in {"decode": 6, "queue": 6, "inference": 6, "encode": 2}.items():
        assert value("candor_stage_seconds_count", stage=stage) == count
    assert value("candor_batch_size_count") == 6
    assert value("candor_images_total", outcome="ok") == 6
    assert value("candor_images_total", outcome="unsupported_format") == 1
    assert value("candor_abstentions_total", reason="uncertain_image") == 1
    assert value("candor_abstentions_total", reason="uncertain_query") == 1
    assert value("candor_abstentions_total", reason="no_close_match") == 1
    assert value("candor_uncertainty_count") == 6
    assert value("candor_uncertainty_percentile_count") == 6
    assert value("candor_uncertainty_percentile_bucket", le="0.99") == 3  # the three flat ones are at 1.0
    assert value("candor_novelty_percentile_count") == 6
    assert value("candor_gallery_items") == 1
    assert value("candor_queue_images") == 0
    assert value("candor_requests_in_flight") == 1  # the one that asks
    assert value("candor_ready") == 1
    assert value("candor_model_info", bundle="tiny", hash=bundle.hash, backbone="patches", device="cpu") == 1
    assert value("process_resident_memory_bytes") > 0


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
    assert (good["request_id"], good["method"], good["path"], good["status"]) == ("abc", "GET", "/model", 200)
    assert good["ms"] >= 0
    assert (bad["request_id"], bad["status"], bad["error"]) == ("def", 415, "unsupported_format")


async def test_the_model_says_what_is_served(start: Start, bundle: Bundle) -> None:
    async with start(max_percentile=0.9, max_batch=3) as running:
        body = ModelBody.model_validate((await running.client.get("/model")).json())

    assert (body.bundle, body.bundle_hash, body.dimension) == ("tiny", bundle.hash, 48)
    assert (body.device, body.max_batch) == ("cpu", 3)
    assert (body.threshold.percentile, body.threshold.source) == (0.9, "settings")
    assert body.limits["queue_images"] == 256


async def test_the_key_is_in_no_answer_and_no_log(start: Start) -> None:
    async with start(api_key="correct-horse") as running:
        headers = {"authorization": "Bearer correct-horse"}
        answer = await running.client.get("/model", headers=headers)
        assert "horse" not in answer.text
    assert "horse" not in running.log.getvalue()


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
    }
    assert {"400", "401", "408", "413", "415", "422", "429", "503", "504"} < set(embed["responses"])


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

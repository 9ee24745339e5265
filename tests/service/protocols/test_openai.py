"""`/v1/embeddings` and `/v1/models`, through OpenAI's own client."""

import asyncio
import base64
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest

from models.bundle import Bundle
from service.openai_schemas import OpenAIEmbeddings, OpenAIError
from tests.service.callers import give_key
from tests.service.conftest import Running, Start
from tests.service.fakes import GatedSession
from tests.service.images import flat, jpeg, png
from tests.service.process import PATIENCE_S
from tests.service.waiting import until

PNG = {"content-type": "image/png"}


def uri(image: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"


def text(image: bytes) -> str:
    return base64.b64encode(image).decode()


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=PATIENCE_S) as client:
        yield client


def embed(url: str, image: bytes, **params: Any) -> dict[str, Any]:
    answer = httpx2.post(f"{url}/embed", content=image, headers=PNG, params=params, timeout=PATIENCE_S)
    (result,) = answer.json()["results"]
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize("encoding", ["float", "base64", openai.omit])
def test_the_clients_embeddings_are_those_of_embed_to_the_bit(url: str, client: openai.OpenAI, encoding: Any) -> None:
    images = [png(1), jpeg(2), flat()]

    answer = client.embeddings.create(
        model="tiny", input=[uri(images[0]), text(images[1]), uri(images[2])], encoding_format=encoding
    )

    assert (answer.object, answer.model) == ("list", "tiny")
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (3, 3)
    assert [each.index for each in answer.data] == [0, 1, 2]
    for each, image in zip(answer.data, images, strict=True):
        told, told_base64 = embed(url, image), embed(url, image, encoding="base64")
        extra = each.model_extra or {}
        if encoding == "base64":  # asked for by name, the client leaves it as it comes
            assert each.embedding == told_base64["embedding"]
        else:
            assert np.asarray(each.embedding, np.float32).tolist() == np.asarray(told["embedding"], np.float32).tolist()
        assert each.object == "embedding"
        assert extra == {name: told[name] for name in extra}
        assert set(extra) == {"uncertainty", "percentile", "novelty", "novelty_percentile", "abstained"}


def test_one_image_need_not_be_in_a_list(client: openai.OpenAI) -> None:
    alone = client.embeddings.create(model="tiny", input=uri(png(1)), user="someone", dimensions=48)
    in_list = client.embeddings.create(model="tiny", input=[uri(png(1))])

    assert alone.data == in_list.data


def test_candors_options_go_into_the_extra_body(client: openai.OpenAI) -> None:
    def create(**options: Any) -> openai.types.Embedding:
        return client.embeddings.create(model="tiny", input=uri(flat()), extra_body=options).data[0]

    assert (create().model_extra or {})["abstained"] is False
    flagged, omitted = create(max_percentile=0.5), create(max_uncertainty=19.0, on_abstain="omit")
    assert ((flagged.model_extra or {})["abstained"], len(flagged.embedding)) == (True, 48)
    assert (omitted.model_extra or {})["abstained"] is True
    assert omitted.to_dict()["embedding"] is None
    with pytest.raises(openai.BadRequestError) as refused:
        create(max_percentile=0.5, on_abstain="error")
    assert (refused.value.code, refused.value.param) == ("abstained", "input[0]")


async def test_the_asynchronous_client_answers_alike(url: str, client: openai.OpenAI) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", timeout=PATIENCE_S) as asynchronous:
        answers = await asyncio.gather(
            *(asynchronous.embeddings.create(model="tiny", input=uri(png(seed))) for seed in range(4))
        )
        models = [model.id async for model in await asynchronous.models.list()]

    assert models == ["tiny"]
    for seed, answer in enumerate(answers):
        assert answer.data == client.embeddings.create(model="tiny", input=uri(png(seed))).data


def test_the_served_bundles_are_the_models(client: openai.OpenAI) -> None:
    (listed,) = client.models.list()
    model = client.models.retrieve("tiny")

    assert listed == model
    assert (model.id, model.object, model.owned_by, model.created) == ("tiny", "model", "candor", 0)
    with pytest.raises(openai.NotFoundError) as refused:
        client.models.retrieve("gpt")
    assert refused.value.code == "unknown_bundle"


@pytest.mark.parametrize(
    ("fields", "code", "param", "says"),
    [
        ({"input": "a photo of a cat"}, "malformed_request", "input[0]", "images alone"),
        ({"input": "cats"}, "unsupported_format", "input[0]", "images alone"),
        ({"input": [1, 2, 3]}, "invalid_option", "input", "no tokens"),
        ({"input": [[1, 2], [3]]}, "invalid_option", "input", "no tokens"),
        ({"input": []}, "malformed_request", None, "no images"),
        ({"input": [uri(png(1)), uri(png(2)[:90])]}, "undecodable_image", "input[1]", "input[1]"),
        ({"input": "https://example.com/a.jpg"}, "malformed_request", "input[0]", "URLs are not fetched"),
        ({"input": uri(png(1)), "dimensions": 8}, "invalid_option", "dimensions", "48"),
        ({"input": uri(png(1)), "encoding_format": "hex"}, "invalid_option", "encoding_format", "base64"),
        ({"input": uri(png(1)), "extra_body": {"temperature": 1}}, "invalid_option", "temperature", "no such option"),
        ({"input": uri(png(1)), "extra_body": {"max_percentile": 2}}, "invalid_option", "max_percentile", "less than"),
    ],
)
def test_bad_requests_say_what_is_at_fault(
    client: openai.OpenAI, fields: Any, code: str, param: str | None, says: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(**{"model": "tiny", **fields})

    error = refused.value
    assert (error.type, error.code, error.param) == ("invalid_request_error", code, param)
    assert says in str(error)
    assert error.request_id
    OpenAIError.model_validate({"error": error.body})


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="no bundle 'gpt'") as refused:
        client.embeddings.create(model="gpt", input=uri(png(1)))
    assert refused.value.code == "unknown_bundle"


@pytest.mark.parametrize(
    ("status", "method", "path", "content_type"),
    [
        (404, "GET", "/v1/files", "application/json"),
        (405, "GET", "/v1/embeddings", "application/json"),
        (415, "POST", "/v1/embeddings", "image/png"),
        (400, "POST", "/v1/embeddings", "application/json"),
    ],
)
def test_every_error_below_v1_has_openais_shape(
    url: str, status: int, method: str, path: str, content_type: str
) -> None:
    answer = httpx2.request(method, url + path, content=b"{", headers={"content-type": content_type})

    assert answer.status_code == status
    OpenAIError.model_validate(answer.json())


def test_the_answer_keeps_to_the_documented_shape(url: str) -> None:
    body = {"model": "tiny", "input": [uri(png(1)), uri(flat())], "max_percentile": 0.5, "on_abstain": "omit"}

    OpenAIEmbeddings.model_validate(httpx2.post(f"{url}/v1/embeddings", json=body).json())


@asynccontextmanager
async def client_of(running: Running, **options: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client, to an app in this process."""
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(running.app))
    async with openai.AsyncOpenAI(
        **{"base_url": "http://localhost/v1", "api_key": "any", "http_client": http, **options}
    ) as client:
        yield client


async def test_a_full_queue_is_a_rate_limit_and_the_client_comes_back_when_told(start: Start) -> None:
    gates: list[GatedSession] = []

    def gate(session: Any) -> GatedSession:
        gates.append(GatedSession(session))
        return gates[0]

    async with start(gate, queue_images=1, max_images_per_request=1) as running, client_of(running) as client:

        async def create(image: bytes) -> Any:
            return await client.embeddings.with_raw_response.create(model="tiny", input=uri(image))

        first = asyncio.create_task(create(png(1)))
        await asyncio.to_thread(gates[0].entered.acquire)
        with pytest.raises(openai.RateLimitError) as refused:
            await client.with_options(max_retries=0).embeddings.create(model="tiny", input=uri(png(2)))
        second = asyncio.create_task(create(png(2)))
        await until(lambda: running.log.getvalue().count('"error":"overloaded"') == 2)
        gates[0].gate.set()
        answers = await asyncio.gather(first, second)

    assert (refused.value.code, refused.value.type) == ("overloaded", "rate_limit_error")
    assert int(refused.value.response.headers["retry-after"]) >= 1
    assert (answers[0].retries_taken, answers[1].retries_taken >= 1) == (0, True)
    assert all(len(answer.parse().data) == 1 for answer in answers)


async def test_draining_and_deadlines_are_errors_of_the_server(start: Start) -> None:
    gates: list[GatedSession] = []

    def gate(session: Any) -> GatedSession:
        gates.append(GatedSession(session))
        return gates[0]

    async with start(gate, request_timeout_s=0.1) as running, client_of(running, max_retries=0) as client:
        with pytest.raises(openai.InternalServerError) as late:
            await client.embeddings.create(model="tiny", input=uri(png(1)))
        gates[0].gate.set()
        running.app.state.lifecycle.draining = True
        with pytest.raises(openai.InternalServerError) as refused:
            await client.embeddings.create(model="tiny", input=uri(png(1)))

    assert (late.value.status_code, late.value.code, late.value.type) == (504, "deadline_exceeded", "server_error")
    assert (refused.value.status_code, refused.value.code) == (503, "unavailable")


async def test_a_wrong_key_is_an_authentication_error(start: Start, tmp_path: Path) -> None:
    key, limited = (give_key(tmp_path / "keys.txt", *caller) for caller in (("one",), ("two", "retrieve")))
    async with start(api_keys=tmp_path / "keys.txt") as running:
        async with client_of(running, api_key="wrong") as client:
            with pytest.raises(openai.AuthenticationError) as refused:
                await client.embeddings.create(model="tiny", input=uri(png(1)))
            assert refused.value.code == "unauthorized"
        async with client_of(running, api_key=limited) as client:
            with pytest.raises(openai.PermissionDeniedError, match="embed"):
                await client.embeddings.create(model="tiny", input=uri(png(1)))
        async with client_of(running, api_key=key) as client:
            assert (await client.embeddings.create(model="tiny", input=uri(png(1)))).model == "tiny"


async def test_metrics_count_images_and_abstentions(running: Running, bundle: Bundle) -> None:
    async with client_of(running) as client:
        await client.embeddings.create(
            model="tiny", input=[uri(png(1)), uri(flat())], extra_body={"max_percentile": 0.5}
        )
    metrics = (await running.client.get("/metrics")).text

    assert 'candor_images_total{bundle="tiny",outcome="ok"} 2.0' in metrics
    assert 'candor_abstentions_total{bundle="tiny",reason="uncertain_image"} 1.0' in metrics
    assert 'candor_requests_total{method="POST",route="/v1/embeddings",status="200"} 1.0' in metrics

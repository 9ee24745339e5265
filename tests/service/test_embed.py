"""`POST /embed`, through the whole app."""

import asyncio
import base64
import io
import json
import math
from typing import Any

import numpy as np
import pytest
from httpx2 import AsyncClient, Response
from numpy.typing import NDArray
from PIL import Image

from models.bundle import Bundle
from models.images import ImageLimits, decode_image
from models.preprocess import preprocess
from service.cores import usable_cores
from service.lanes import Outputs
from service.schemas import EmbedAnswer
from tests.service import bundle_factory
from tests.service.conftest import Running, Start
from tests.service.fakes import GatedSession, PoisonedSession
from tests.service.images import black, encode, flat, jpeg, picture, png
from tests.service.waiting import until

PNG = {"content-type": "image/png"}
DECODING_AHEAD = {"threads": 2, "lanes": 1}  # of the lanes, on threads of their own
DECODING_IN_LANES = {"threads": 1, "lanes": usable_cores()}

both_ways = pytest.mark.parametrize("layout", [DECODING_AHEAD, DECODING_IN_LANES], ids=["ahead", "in_lanes"])


async def embed(client: AsyncClient, image: bytes, **params: Any) -> Response:
    return await client.post("/embed", content=image, headers=PNG, params=params)


def expected(image: bytes, bundle: Bundle) -> tuple[NDArray[np.float64], float, float]:
    return bundle_factory.expected(preprocess(decode_image(image, ImageLimits()), bundle.preprocessing))


def only_result(response: Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    (result,) = response.json()["results"]
    assert isinstance(result, dict)
    return result


async def test_a_raw_image_gets_the_bundles_numbers(running: Running, bundle: Bundle) -> None:
    image = jpeg(1)
    response = await running.client.post("/embed", content=image, headers={"content-type": "image/jpeg"})

    embedding, uncertainty, novelty = expected(image, bundle)
    body, result = response.json(), only_result(response)
    np.testing.assert_allclose(result["embedding"], embedding, atol=1e-6)
    assert result["uncertainty"] == pytest.approx(uncertainty, rel=1e-5)
    assert result["percentile"] == pytest.approx(uncertainty / 20, rel=1e-5)  # the reference is uniform on 0 to 20
    assert result["novelty"] == pytest.approx(novelty, rel=1e-5)
    assert result["novelty_percentile"] == pytest.approx(novelty / 10, rel=1e-5)
    assert result["status"] == "ok"
    assert result["abstained"] is False
    assert body["bundle"] == "tiny"
    assert body["bundle_hash"] == bundle.hash
    assert body["threshold"] == {"uncertainty": None, "percentile": None, "source": "none"}
    assert set(body["timing_ms"]) == {"decode", "queue", "inference"}


@pytest.mark.parametrize("headers", [{"content-type": "application/octet-stream"}, {"content-type": "image/webp"}, {}])
async def test_the_bytes_decide_the_format_not_the_header(running: Running, headers: dict[str, str]) -> None:
    by_name = only_result(await embed(running.client, png(1)))
    by_bytes = only_result(await running.client.post("/embed", content=png(1), headers=headers))

    assert by_bytes == by_name


async def test_every_form_of_request_gives_the_same_embeddings(running: Running) -> None:
    images = [png(seed) for seed in range(3)]
    texts = [base64.b64encode(images[0]).decode(), *(base64.encodebytes(image).decode() for image in images[1:])]
    uris = [f"data:image/png;base64,{text}" for text in texts]
    files = [("images", (f"{i}.png", image, "image/png")) for i, image in enumerate(images)]

    raw = [only_result(await embed(running.client, image)) for image in images]
    form = (await running.client.post("/embed", files=files)).json()["results"]
    in_base64 = (await running.client.post("/embed", json={"images": texts})).json()["results"]
    in_uris = (await running.client.post("/embed", json={"images": uris})).json()["results"]

    for one, two, three, four in zip(raw, form, in_base64, in_uris, strict=True):
        for other in (two, three, four):
            np.testing.assert_allclose(other["embedding"], one["embedding"], atol=1e-6)
            assert other["uncertainty"] == pytest.approx(one["uncertainty"], rel=1e-6)


async def test_options_come_in_the_query_the_form_or_the_json_alike(running: Running) -> None:
    image, options = flat(), {"max_percentile": "0.5", "on_abstain": "omit"}
    files = [("images", ("a.png", image, "image/png"))]
    text = base64.b64encode(image).decode()

    answers = [
        await embed(running.client, image, **options),
        await running.client.post("/embed", files=files, params=options),
        await running.client.post("/embed", files=files, data=options),
        await running.client.post("/embed", json={"images": [text], "max_percentile": 0.5, "on_abstain": "omit"}),
    ]

    for answer in answers:
        assert only_result(answer)["embedding"] is None
        assert answer.json()["threshold"] == {"uncertainty": None, "percentile": 0.5, "source": "request"}


async def test_base64_and_npy_hold_the_same_float32_as_the_list(running: Running) -> None:
    files = [("images", (f"{seed}.png", png(seed), "image/png")) for seed in range(3)]
    rows = [row["embedding"] for row in (await running.client.post("/embed", files=files)).json()["results"]]

    encoded = (await running.client.post("/embed", files=files, params={"encoding": "base64"})).json()["results"]
    npy = await running.client.post("/embed", files=files, headers={"accept": "application/x-npy"})
    raw = await running.client.post("/embed", files=files, headers={"accept": "application/octet-stream"})

    as_list = np.asarray(rows, dtype=np.float32)
    as_base64 = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), dtype="<f4") for row in encoded])
    as_npy = np.load(io.BytesIO(npy.content))
    assert npy.headers["content-type"] == "application/x-npy"
    assert as_npy.dtype == np.float32
    np.testing.assert_allclose(as_base64, as_list, atol=1e-6)
    np.testing.assert_allclose(as_npy, as_list, atol=1e-6)
    assert raw.headers["content-type"] == "application/octet-stream"
    np.testing.assert_allclose(np.frombuffer(raw.content, dtype="<f4").reshape(as_list.shape), as_list, atol=1e-6)


async def test_one_batch_encodes_to_the_bit_in_either_way(start: Start) -> None:
    async with start(max_batch=1) as running:  # batches of one: the very same arithmetic each time
        as_list = only_result(await embed(running.client, png(5)))["embedding"]
        as_base64 = only_result(await embed(running.client, png(5), encoding="base64"))["embedding"]

    assert np.frombuffer(base64.b64decode(as_base64), dtype="<f4").tolist() == np.float32(as_list).tolist()


async def test_a_photo_turned_by_exif_equals_the_upright_one(running: Running) -> None:
    upright = picture(3, (64, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(upright.transpose(Image.Transpose.ROTATE_90), exif=exif.tobytes())

    assert only_result(await embed(running.client, turned)) == only_result(await embed(running.client, encode(upright)))


@both_ways
async def test_a_bad_image_fails_alone_and_leaves_its_neighbours_as_they_were(
    start: Start, layout: dict[str, int]
) -> None:
    files = [
        ("images", ("a.png", png(1), "image/png")),
        ("images", ("b.png", b"no image at all", "image/png")),
        ("images", ("c.png", png(2)[:90], "image/png")),
        ("images", ("d.png", png(2), "image/png")),
    ]

    async with start(**layout) as running:
        alone = [only_result(await embed(running.client, png(seed)))["embedding"] for seed in (1, 2)]
        response = await running.client.post("/embed", files=files)
        none_good = await running.client.post("/embed", files=files[1:3])

    first, second, third, fourth = response.json()["results"]
    assert response.status_code == 200
    assert [result["error"]["status"] for result in none_good.json()["results"]] == [415, 422]
    np.testing.assert_allclose([first["embedding"], fourth["embedding"]], alone, atol=1e-6)
    assert (second["status"], second["error"]["type"], second["error"]["status"]) == (
        "error",
        "unsupported_format",
        415,
    )
    assert (third["status"], third["error"]["type"], third["error"]["status"]) == ("error", "undecodable_image", 422)


def explode() -> Outputs:
    raise RuntimeError("poisoned")


def not_a_number() -> Outputs:
    return Outputs(np.full((1, 48), np.nan, np.float32), np.zeros(1, np.float32), np.zeros(1, np.float32))


@both_ways
@pytest.mark.parametrize("poison", [explode, not_a_number])
async def test_an_image_the_model_fails_on_fails_alone(start: Start, poison: Any, layout: dict[str, int]) -> None:
    files = [("images", (name, image, "image/png")) for name, image in [("a", png(1)), ("b", black()), ("c", png(2))]]
    async with start(lambda session: PoisonedSession(session, poison), **layout) as running:
        for _ in range(5):  # however the three fall into batches
            results = (await running.client.post("/embed", files=files)).json()["results"]
            assert [result["status"] for result in results] == ["ok", "error", "ok"]
            assert results[1]["error"]["type"] == "inference_failed"
        alone = await embed(running.client, black())

    assert alone.status_code == 500
    assert alone.json()["type"] == "inference_failed"
    assert "poisoned" in running.log.getvalue() or "not finite" in running.log.getvalue()


@pytest.mark.parametrize(
    ("params", "abstained"),
    [
        ({"max_percentile": 0.99}, True),
        ({"max_percentile": 1}, False),
        ({"max_uncertainty": 19.0}, True),
        ({"max_uncertainty": 20.5}, False),
    ],
)
async def test_an_image_above_the_threshold_is_flagged(running: Running, params: Any, abstained: bool) -> None:
    result = only_result(await embed(running.client, flat(), **params))  # uncertainty 1 / 0.05 = 20

    assert result["abstained"] is abstained
    assert len(result["embedding"]) == bundle_factory.DIMENSION


async def test_an_image_exactly_at_the_threshold_is_answered(running: Running) -> None:
    told = only_result(await embed(running.client, png(1)))

    for params in ({"max_uncertainty": told["uncertainty"]}, {"max_percentile": told["percentile"]}):
        assert only_result(await embed(running.client, png(1), **params))["abstained"] is False


async def test_abstaining_as_an_error_says_by_how_much(running: Running) -> None:
    response = await embed(running.client, flat(), max_percentile=0.5, on_abstain="error")

    problem = response.json()
    assert response.status_code == 422
    assert problem["type"] == "abstained"
    assert problem["uncertainty"] == pytest.approx(20, rel=1e-4)
    assert problem["threshold"] == {"uncertainty": None, "percentile": 0.5, "source": "request"}


async def test_one_of_many_abstains_as_an_error_alone(running: Running) -> None:
    texts = [base64.b64encode(image).decode() for image in (flat(), png(1))]
    body = {"images": texts, "max_percentile": 0.5, "on_abstain": "error"}

    results = (await running.client.post("/embed", json=body)).json()["results"]

    assert [result["status"] for result in results] == ["error", "ok"]
    assert results[0]["error"]["type"] == "abstained"


async def test_the_operators_threshold_holds_unless_the_request_names_one(start: Start) -> None:
    async with start(max_percentile=0.5) as running:
        default = await embed(running.client, flat())
        own = await embed(running.client, flat(), max_percentile=1)

    assert only_result(default)["abstained"] is True
    assert default.json()["threshold"] == {"uncertainty": None, "percentile": 0.5, "source": "settings"}
    assert only_result(own)["abstained"] is False
    assert own.json()["threshold"] == {"uncertainty": None, "percentile": 1.0, "source": "request"}


async def test_an_omitted_row_of_an_array_is_nan(running: Running) -> None:
    files = [("images", (name, image, "image/png")) for name, image in [("a", png(1)), ("b", flat())]]
    params: dict[str, Any] = {"max_percentile": 0.5, "on_abstain": "omit"}
    headers = {"accept": "application/x-npy"}

    rows = np.load(
        io.BytesIO((await running.client.post("/embed", files=files, params=params, headers=headers)).content)
    )

    assert np.isfinite(rows[0]).all()
    assert np.isnan(rows[1]).all()


async def test_an_array_cannot_hold_an_error_so_the_request_fails(running: Running) -> None:
    files = [("images", (name, image, "image/png")) for name, image in [("a", png(1)), ("b", b"nonsense")]]

    response = await running.client.post("/embed", files=files, headers={"accept": "application/x-npy"})

    assert response.status_code == 415
    assert response.json()["type"] == "unsupported_format"


@both_ways
async def test_what_arrives_while_every_lane_is_busy_is_batched(start: Start, layout: dict[str, int]) -> None:
    gated: list[GatedSession] = []

    def gate(session: Any) -> GatedSession:
        gated.append(GatedSession(session))
        return gated[0]

    async with start(gate, max_batch=4, **layout) as running:
        session, lanes, tasks = gated[0], layout["lanes"], []
        for seed in range(lanes):
            tasks.append(asyncio.create_task(embed(running.client, png(seed))))
            await asyncio.to_thread(session.entered.acquire)  # a lone request went in at once
        tasks += [asyncio.create_task(embed(running.client, png(lanes + seed))) for seed in range(6)]
        await until(lambda: running.services.pipeline.waiting == 6)
        await asyncio.sleep(0.05)
        session.gate.set()
        responses = [await task for task in tasks]

    alone, batched = session.batches[:lanes], session.batches[lanes:]
    assert alone == [1] * lanes
    assert sum(batched) == 6
    assert max(batched) == 4 if lanes == 1 else max(batched) > 1
    assert len({json.dumps(only_result(response)["embedding"]) for response in responses}) == lanes + 6
    timings = [response.json()["timing_ms"] for response in responses]
    assert all(timing["inference"] >= 50 for timing in timings[:lanes])
    assert all(timing["queue"] >= 50 for timing in timings[lanes:])


async def test_answers_keep_to_the_documented_shape(running: Running) -> None:
    files = [("images", (name, image, "image/png")) for name, image in [("a", png(1)), ("b", b"nonsense")]]

    options: list[dict[str, Any]] = [{}, {"encoding": "base64"}, {"max_percentile": 0, "on_abstain": "omit"}]
    for params in options:
        answer = EmbedAnswer.model_validate((await running.client.post("/embed", files=files, params=params)).json())
        assert all(math.isfinite(value) for value in answer.timing_ms.model_dump().values())

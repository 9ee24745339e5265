"""`/v2/...`, through Triton's own clients."""

import asyncio
import base64
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient import http as triton
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException

from models.bundle import Bundle
from models.images import ImageLimits, decode_image
from models.preprocess import preprocess
from service.cores import usable_cores
from service.kserve.schemas import KServeConfig, KServeError, KServeInference, KServeModel
from tests.service import bundle_factory
from tests.service.callers import give_key
from tests.service.conftest import Start
from tests.service.fakes import GatedSession
from tests.service.images import flat, jpeg, png
from tests.service.process import PATIENCE_S

OUTPUTS = ("embedding", "uncertainty", "percentile", "novelty", "novelty_percentile", "abstained")
INFER = "/v2/models/tiny/infer"

Pixels = NDArray[np.uint8]


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with triton.InferenceServerClient(url.removeprefix("http://"), network_timeout=PATIENCE_S) as client:
        yield client


@pytest.fixture
async def asynchronous(url: str) -> AsyncIterator[Any]:
    async with aio.InferenceServerClient(url.removeprefix("http://"), conn_timeout=PATIENCE_S) as client:
        yield client


def encoded(*images: bytes, binary: bool = True) -> Any:
    """The input `image_bytes`; in JSON as base64."""
    elements = images if binary else [base64.b64encode(image) for image in images]
    tensor = triton.InferInput("image_bytes", [len(images)], "BYTES")
    return tensor.set_data_from_numpy(np.array(elements, dtype=np.object_), binary_data=binary)


def resized(pixels: Pixels, *, binary: bool = True) -> Any:
    """The input `image`."""
    return triton.InferInput("image", pixels.shape, "UINT8").set_data_from_numpy(pixels, binary_data=binary)


def pixels_of(bundle: Bundle, *images: bytes) -> Pixels:
    return np.stack([preprocess(decode_image(image, ImageLimits()), bundle.preprocessing) for image in images])


def outputs(*names: str, binary: bool = True) -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def told_by_embed(url: str, *images: bytes, **params: Any) -> dict[str, NDArray[Any]]:
    """The same images through `/embed`: the array, and the columns of the JSON."""
    files = [("images", (str(i), image, "image/png")) for i, image in enumerate(images)]
    results = httpx2.post(f"{url}/embed", files=files, params=params, timeout=PATIENCE_S).json()["results"]
    npy = httpx2.post(
        f"{url}/embed", files=files, params=params, headers={"accept": "application/x-npy"}, timeout=PATIENCE_S
    )
    columns = {name: np.array([result[name] for result in results]) for name in OUTPUTS[1:]}
    return {"embedding": np.load(io.BytesIO(npy.content)), **columns}


def check_equal(result: Any, told: dict[str, NDArray[Any]]) -> None:
    for name in OUTPUTS:
        np.testing.assert_array_equal(result.as_numpy(name), told[name].astype(result.as_numpy(name).dtype))


def test_health_and_what_is_served(client: Any, bundle: Bundle) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", bundle.hash)
    assert not client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("other")
    server = client.get_server_metadata()
    assert (server["name"], server["extensions"][0]) == ("candor", "binary_tensor_data")
    assert client.get_model_repository_index() == [
        {"name": "tiny", "version": bundle.hash, "state": "READY", "reason": ""}
    ]


def test_metadata_and_configuration_tell_names_types_and_shapes(client: Any, bundle: Bundle) -> None:
    model = KServeModel.model_validate(client.get_model_metadata("tiny"))
    config = KServeConfig.model_validate(client.get_model_config("tiny", bundle.hash))

    assert (model.name, model.versions) == ("tiny", [bundle.hash])
    assert [(each.name, each.datatype, each.shape) for each in model.inputs] == [
        ("image", "UINT8", [-1, 32, 32, 3]),
        ("image_bytes", "BYTES", [-1]),
    ]
    assert [(each.name, each.datatype, each.shape) for each in model.outputs] == [
        ("embedding", "FP32", [-1, 48]),
        ("uncertainty", "FP32", [-1]),
        ("percentile", "FP64", [-1]),
        ("novelty", "FP32", [-1]),
        ("novelty_percentile", "FP64", [-1]),
        ("abstained", "BOOL", [-1]),
    ]
    assert [(each.name, each.data_type) for each in config.input] == [
        ("image", "TYPE_UINT8"),
        ("image_bytes", "TYPE_STRING"),
    ]
    assert [each.dims for each in config.output] == [each.shape for each in model.outputs]


@pytest.mark.parametrize("binary_in", [True, False], ids=["binary_in", "json_in"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary_out", "json_out"])
def test_encoded_images_and_tensors_are_those_of_embed_to_the_bit(
    url: str, client: Any, bundle: Bundle, binary_in: bool, binary_out: bool
) -> None:
    images = [png(1), jpeg(2), flat()]
    told, wanted = told_by_embed(url, *images), outputs(*OUTPUTS, binary=binary_out)

    by_bytes = client.infer("tiny", [encoded(*images, binary=binary_in)], outputs=wanted, request_id="abc")
    by_pixels = client.infer("tiny", [resized(pixels_of(bundle, *images), binary=binary_in)], outputs=wanted)

    check_equal(by_bytes, told)
    check_equal(by_pixels, told)
    described = KServeInference.model_validate(by_bytes.get_response())
    assert (described.model_name, described.model_version, described.id) == ("tiny", bundle.hash, "abc")
    assert "id" not in by_pixels.get_response()


def test_the_numbers_are_those_of_the_graph(client: Any, bundle: Bundle) -> None:
    pixels = pixels_of(bundle, png(1), png(2))
    result = client.infer("tiny", [resized(pixels)])

    for row, uncertainty, novelty, image in zip(
        *(result.as_numpy(name) for name in ("embedding", "uncertainty", "novelty")), pixels, strict=True
    ):
        expected = bundle_factory.expected(image)
        np.testing.assert_allclose(row, expected[0], atol=1e-6)
        assert (uncertainty, novelty) == pytest.approx(expected[1:], rel=1e-5)


def test_outputs_come_as_asked_for_each_binary_or_not(client: Any) -> None:
    wanted = [*outputs("abstained", binary=False), *outputs("embedding"), *outputs("percentile", binary=False)]
    result = client.infer("tiny", [encoded(png(1))], outputs=wanted, model_version="")

    told = result.get_response()["outputs"]
    assert [output["name"] for output in told] == ["abstained", "embedding", "percentile"]
    assert ["data" in output for output in told] == [True, False, True]
    assert result.as_numpy("embedding").shape == (1, 48)
    assert result.as_numpy("uncertainty") is None


def test_candors_options_are_parameters(url: str, client: Any) -> None:
    def infer(**parameters: Any) -> Any:
        return client.infer("tiny", [encoded(png(1), flat())], parameters=parameters)

    assert infer().as_numpy("abstained").tolist() == [False, False]
    assert infer(max_percentile=0.5).as_numpy("abstained").tolist() == [False, True]
    omitted = infer(max_uncertainty=19.0, on_abstain="omit")
    assert np.isnan(omitted.as_numpy("embedding")).all(axis=1).tolist() == [False, True]
    check_equal(omitted, told_by_embed(url, png(1), flat(), max_uncertainty=19.0, on_abstain="omit"))
    with pytest.raises(InferenceServerException, match=r"image_bytes\[1\].*abstained"):
        infer(max_percentile=0.5, on_abstain="error")


async def test_the_asynchronous_client_answers_alike(url: str, asynchronous: Any, bundle: Bundle) -> None:
    images = [png(seed) for seed in range(5)]

    assert await asynchronous.is_server_live()
    assert await asynchronous.is_model_ready("tiny")
    assert (await asynchronous.get_model_metadata("tiny"))["versions"] == [bundle.hash]
    check_equal(await asynchronous.infer("tiny", [encoded(*images)]), told_by_embed(url, *images))
    by_pixels = await asynchronous.infer("tiny", [resized(pixels_of(bundle, *images))], outputs=outputs(*OUTPUTS))
    check_equal(by_pixels, told_by_embed(url, *images))
    with pytest.raises(InferenceServerException, match="no bundle 'other'"):
        await asynchronous.infer("other", [encoded(png(1))])


def test_requests_side_by_side_keep_their_answers(client: Any, url: str) -> None:
    pending = [client.async_infer("tiny", [encoded(png(seed))]) for seed in range(6)]

    for seed, request in enumerate(pending):
        check_equal(request.get_result(), told_by_embed(url, png(seed)))


ZEROS = np.zeros((2, 32, 32, 3), np.uint8)


def of_type(name: str, datatype: str, array: NDArray[Any]) -> Any:
    return triton.InferInput(name, array.shape, datatype).set_data_from_numpy(array)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([resized(ZEROS[:, :16])], r"must be \[B, 32, 32, 3\]"),
        ([resized(ZEROS[0])], r"must be \[B, 32, 32, 3\]"),
        ([resized(ZEROS.transpose(0, 3, 1, 2).copy())], "NHWC"),
        ([resized(ZEROS[:0])], "no images"),
        ([of_type("image", "FP32", ZEROS.astype(np.float32))], "image is UINT8"),
        ([of_type("image_bytes", "UINT8", ZEROS)], "image_bytes is BYTES"),
        ([of_type("pixels", "UINT8", ZEROS)], "there is no 'pixels'"),
        ([resized(ZEROS), encoded(png(1))], "exactly one"),
        ([encoded(png(1), b"nonsense")], r"image_bytes\[1\].*unsupported_format"),
        ([encoded(png(1)[:90])], r"image_bytes\[0\].*undecodable_image"),
        ([resized(np.zeros((65, 32, 32, 3), np.uint8))], "the limit is 64"),
    ],
)
def test_bad_inputs_say_what_is_wrong(client: Any, inputs: list[Any], says: str) -> None:
    with pytest.raises(InferenceServerException, match=says) as refused:
        client.infer("tiny", inputs)
    assert refused.value.status() in ("400", "413")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"outputs": outputs("logits")}, "there is no 'logits'"),
        ({"outputs": outputs("embedding", "embedding")}, "twice"),
        ({"outputs": [triton.InferRequestedOutput("embedding", class_count=3)]}, "classification"),
        ({"parameters": {"max_percentile": 2}}, "max_percentile"),
        ({"parameters": {"temperature": 1}}, "no such option"),
        ({"sequence_id": 7}, "sequence_id"),
        ({"model_version": "1"}, "alone, not '1'"),
        ({"query_params": {"max_percentile": "0.5"}}, "not of the query"),
        ({"request_compression_algorithm": "gzip"}, "gzip-encoded"),
    ],
)
def test_what_is_not_offered_is_refused_never_ignored(client: Any, options: Any, says: str) -> None:
    with pytest.raises(InferenceServerException, match=says):
        client.infer("tiny", [encoded(png(1))], **options)


def test_an_answer_may_stay_uncompressed(client: Any) -> None:
    result = client.infer("tiny", [encoded(png(1))], response_compression_algorithm="gzip")

    assert result.as_numpy("embedding").shape == (1, 48)


def test_what_the_server_does_not_manage_is_an_error(client: Any) -> None:
    for call in (client.get_inference_statistics, client.load_model):
        with pytest.raises(InferenceServerException, match="no such path"):
            call("tiny")


def test_the_raw_request_is_one_encoded_image(url: str) -> None:
    answer = httpx2.post(url + INFER, content=jpeg(1), headers={"inference-header-content-length": "0"})

    length = int(answer.headers["inference-header-content-length"])
    result = triton.InferenceServerClient.parse_response_body(answer.content, header_length=length)
    assert answer.headers["content-type"] == "application/octet-stream"
    check_equal(result, told_by_embed(url, jpeg(1)))


def body(shape: Any = (1,), data: Any = None, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "image_bytes", "datatype": "BYTES", "shape": shape, "data": data, **more}]}


@pytest.mark.parametrize(
    ("content", "headers", "says"),
    [
        (b"{}x", {"inference-header-content-length": "9"}, "has 3 bytes"),
        (b"{}", {"inference-header-content-length": "two"}, "'two'"),
        (b"{}", {}, "inputs"),
        (b"[]", {}, "JSON object"),
        (b"", {}, "JSON"),
        (b"{", {"content-encoding": "deflate"}, "deflate-encoded"),
    ],
)
def test_a_body_that_is_not_as_it_says_is_refused(url: str, content: bytes, headers: Any, says: str) -> None:
    answer = httpx2.post(url + INFER, content=content, headers=headers)

    assert answer.status_code in (400, 415)
    assert says in KServeError.model_validate(answer.json()).error


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (body(data=None), "exactly one of data"),
        (body(data=["a"], parameters={"binary_data_size": 3}), "exactly one of data"),
        (body(parameters={"binary_data_size": 3}), "0 bytes follow"),
        (body(shape=[2], data=["a"]), "do not fill"),
        (body(shape=[1, 1], data=["a"]), "must be [B]"),
        (body(data=[1]), "flat list"),
        (body(data=[["a"]]), "flat list"),
        (body(data=["a"], parameters={"shared_memory_region": "x"}), "shared_memory_region"),
        (body(data=[], shape=[0]), "no images"),
    ],
)
def test_elements_that_do_not_fit_are_refused(url: str, fields: Any, says: str) -> None:
    answer = httpx2.post(url + INFER, json=fields)

    assert answer.status_code == 400
    assert says in KServeError.model_validate(answer.json()).error


@pytest.mark.parametrize("values", [[256], [-1], [0.5], ["a"], [True], [[1], [2, 3]], [None], [2**70], [0] * 3071])
def test_numbers_that_are_no_pixels_are_refused(url: str, values: list[Any]) -> None:
    image = {"name": "image", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": values}
    answer = httpx2.post(url + INFER, json={"inputs": [image]})

    assert answer.status_code == 400
    assert "image: " in KServeError.model_validate(answer.json()).error


@pytest.mark.parametrize("data", [b"\x01", b"\x05\x00\x00\x00abc", b"\xff\xff\xff\xff"])
def test_elements_that_end_early_are_refused(url: str, data: bytes) -> None:
    head = b'{"inputs":[{"name":"image_bytes","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":%d}}]}'
    head %= len(data)
    answer = httpx2.post(url + INFER, content=head + data, headers={"inference-header-content-length": str(len(head))})

    assert answer.status_code == 400
    assert "element" in answer.json()["error"]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/v2/none", 404), ("GET", INFER, 405)])
def test_every_error_below_v2_has_the_protocols_shape(url: str, method: str, path: str, status: int) -> None:
    answer = httpx2.request(method, url + path)

    assert answer.status_code == status
    KServeError.model_validate(answer.json())


async def test_a_tensor_is_bounded_like_any_other_body(start: Start) -> None:
    async with start(max_body_bytes=2000) as running:
        answer = await running.client.post(INFER, content=bytes(2001))

    assert answer.status_code == 413
    KServeError.model_validate(answer.json())


async def test_a_tensor_takes_room_in_the_queue_like_any_image(start: Start, bundle: Bundle) -> None:
    gates: list[GatedSession] = []

    def gate(session: Any) -> GatedSession:
        gates.append(GatedSession(session))
        return gates[0]

    content, length = triton.InferenceServerClient.generate_request_body([resized(pixels_of(bundle, png(1)))])
    headers = {"inference-header-content-length": str(length)}
    async with start(gate, queue_images=1, max_images_per_request=1) as running:
        first = asyncio.create_task(running.client.post(INFER, content=content, headers=headers))
        await asyncio.to_thread(gates[0].entered.acquire)
        refused = await running.client.post(INFER, content=content, headers=headers)
        gates[0].gate.set()
        answered = await first

    assert (refused.status_code, answered.status_code) == (429, 200)
    assert int(refused.headers["retry-after"]) >= 1
    assert "overloaded" in KServeError.model_validate(refused.json()).error


async def test_health_is_open_and_tells_of_draining(start: Start, tmp_path: Path) -> None:
    give_key(tmp_path / "keys.txt")
    async with start(api_keys=tmp_path / "keys.txt") as running:
        client = running.client
        assert (await client.get("/v2/health/live")).json() == {"live": True}
        assert (await client.get("/v2/health/ready")).json() == {"ready": True}
        refused = await client.get("/v2/models/tiny")
        running.app.state.lifecycle.draining = True
        live, ready = await client.get("/v2/health/live"), await client.get("/v2/health/ready")

    assert refused.status_code == 401
    assert (live.status_code, ready.status_code) == (200, 503)
    for answer in (refused, ready):
        KServeError.model_validate(answer.json())


@pytest.mark.parametrize("layout", [{"threads": 2, "lanes": 1}, {"threads": 1, "lanes": usable_cores()}])
async def test_tensors_skip_the_decoders_and_are_counted(start: Start, bundle: Bundle, layout: dict[str, int]) -> None:
    request, length = triton.InferenceServerClient.generate_request_body(
        [resized(pixels_of(bundle, png(1), flat()))], parameters={"max_percentile": 0.5}
    )
    headers = {"inference-header-content-length": str(length)}
    async with start(**layout) as running:
        answer = await running.client.post(INFER, content=request, headers=headers)
        metrics = (await running.client.get("/metrics")).text

    result = triton.InferenceServerClient.parse_response_body(
        answer.content, header_length=int(answer.headers["inference-header-content-length"])
    )
    assert result.as_numpy("abstained").tolist() == [False, True]
    assert 'candor_stage_seconds_sum{bundle="tiny",stage="decode"} 0.0' in metrics
    assert 'candor_images_total{bundle="tiny",outcome="ok"} 2.0' in metrics
    assert 'candor_abstentions_total{bundle="tiny",reason="uncertain_image"} 1.0' in metrics
    assert 'route="/v2/models/{name}/infer",status="200"} 1.0' in metrics

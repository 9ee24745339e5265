"""`POST /v2/models/{name}/infer`: `/embed` in the Open Inference Protocol (KServe v2), as Triton's clients speak it.

Source: https://github.com/kserve/open-inference-protocol
"""

from typing import Final

from fastapi import APIRouter, Request, Response

from service.answering import all_or_fail, answer_images, check_count
from service.errors import InvalidOption
from service.intake import off_loop_if_large, query_fields, read_body, refuse_compressed
from service.kserve.paths import of_bundle, services_in
from service.kserve.request import LENGTH_HEADER, Inference, InferFields, parse_inference
from service.kserve.response import encode_response, output_arrays
from service.kserve.schemas import KServeInference
from service.lifecycle import Services
from service.openapi import IMAGE, PICTURE, READING, errors, inlined
from service.rendering import JSON

OCTETS: Final = "application/octet-stream"
EXAMPLE: Final = {
    "inputs": [{"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [PICTURE]}],
    "outputs": [{"name": "embedding"}, {"name": "percentile"}],
    "parameters": {"max_percentile": 0.9},
}
LENGTH: Final = {"description": "Bytes of JSON before those of binary tensors.", "schema": {"type": "integer"}}

router = APIRouter(tags=["kserve"])


@of_bundle(
    router,
    "POST",
    "/infer",
    responses={
        200: {
            "model": KServeInference,
            "content": {OCTETS: {"schema": IMAGE}},
            "headers": {LENGTH_HEADER: LENGTH},
            "description": "The outputs; where any is binary, `application/octet-stream`: JSON, then their bytes.",
        },
        **errors(*READING, 404, protocol="kserve"),
    },
    parameters=({"name": LENGTH_HEADER, "in": "header", "required": False, **LENGTH},),
    body={
        "required": True,
        "content": {JSON: {"schema": inlined(InferFields), "example": EXAMPLE}, OCTETS: {"schema": IMAGE}},
    },
)
async def infer(request: Request) -> Response:
    """Embed images: `image_bytes`, encoded (BYTES, [B]), or `image`, resized already (UINT8, [B, size, size, 3]).

    JSON, or JSON and binary tensors after it. With a header length of 0 the body is one encoded image and nothing
    else. candor's options are `parameters` of the request. A bad image fails the request with 400.
    """
    services = services_in(request)
    asked = await _read(request, services)
    check_count(len(asked.images), services.settings)
    threshold = asked.options.threshold(services.settings)
    outcomes = await answer_images(request, asked.images, threshold, asked.options, services)
    embedded = all_or_fail(outcomes, asked.input)
    head = {"model_name": services.name, "model_version": services.bundle.hash}
    with services.metrics.stage_seconds.labels("encode").time():
        arrays = output_arrays(embedded, threshold, asked.options)
        return encode_response(head if asked.id is None else {**head, "id": asked.id}, arrays, asked.outputs)


async def _read(request: Request, services: Services) -> Inference:
    if unknown := query_fields(request):
        raise InvalidOption(f"{', '.join(unknown)}: options are `parameters` of the JSON, not of the query")
    refuse_compressed(request)
    services.pipeline.admission.refuse_if_full()
    settings, size = services.settings, services.bundle.preprocessing.size
    body = await read_body(request, settings.max_body_bytes, settings.upload_timeout_s)
    return await off_loop_if_large(body, parse_inference, body, request.headers.get(LENGTH_HEADER), size)

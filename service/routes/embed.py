"""`POST /embed`: images to embeddings with uncertainty, abstaining above the threshold."""

import io
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import Field

from service.answering import AbstainOptions, answer_images, as_members, as_rows, check_count
from service.decide import Threshold
from service.decoding import Source
from service.errors import InvalidOption, Malformed, Problem
from service.generation import Services
from service.intake import Submission, parse_options, read_submission
from service.lifecycle import services_of
from service.openapi import IMAGE, PICTURE, READING, body, errors, options_as_query, properties
from service.pipeline import Embedded, Outcome, timing_ms
from service.schemas import EmbedAnswer
from service.settings import Settings
from service.stages import note_stage
from service.vectors import Encoding

NPY: Final = "application/x-npy"
RAW: Final = "application/octet-stream"

router = APIRouter(tags=["embed"])


class EmbedOptions(AbstainOptions):
    """What `/embed` may be asked beside the images."""

    encoding: Encoding = Field(
        default="float", description="`float`: a list of numbers; `base64`: D little-endian float32."
    )


_JSON_BODY = {
    "images": {"type": "array", "items": {"type": "string"}, "description": "Base64, or data URIs."},
    **properties(EmbedOptions),
}


@router.post(
    "/embed",
    responses={
        200: {
            "model": EmbedAnswer,
            "content": {NPY: {"schema": IMAGE}, RAW: {"schema": IMAGE}},
            "description": "One result per image.",
        },
        **errors(*READING, 422),
    },
    openapi_extra={
        "parameters": options_as_query(EmbedOptions),
        "requestBody": body(
            {"images": {"type": "array", "items": IMAGE}, **properties(EmbedOptions)},
            _JSON_BODY,
            {"images": [PICTURE], "max_percentile": 0.9},
        ),
    },
)
async def embed(request: Request) -> Response:
    """Embed one image or many.

    Send one image as the raw body (the fast path), one or many as multipart `images`, or JSON with `images` in base64
    or as data URIs. Options are query parameters, or fields of the form or the JSON object.

    One image: its error is the answer's own status. Several: 200, and each result says `ok` or `error`; a bad image
    fails alone. With `Accept: application/x-npy` the answer is the (B, D) float32 array alone, in NumPy's format, and
    with `Accept: application/octet-stream` its bare little-endian numbers: rows are in the order of the images, those
    omitted by `on_abstain=omit` are NaN, and any failed image fails the request.
    """
    services = services_of(request)
    submission = await read_submission(request, services.settings, services.pipeline.admission)
    images, options = read_images(submission, services.settings)
    threshold = options.threshold(services.settings)
    answers = await answer_images(request, images, threshold, options, services)
    accepted = request.headers.get("accept", "")
    array = next((kind for kind in (NPY, RAW) if kind in accepted), None)
    for answer in answers:
        if isinstance(answer, Problem) and (len(answers) == 1 or array):
            raise answer
    started = time.perf_counter()
    if array is None:
        content = _as_json(answers, threshold, options, services)
    else:
        rows = as_rows([answer for answer in answers if isinstance(answer, Embedded)], threshold, options)
        content = _as_npy(rows) if array == NPY else rows.tobytes()
    ended = time.perf_counter()
    services.metrics.stage_seconds.labels("encode").observe(ended - started)
    note_stage("encode", started, ended, bytes=len(content))
    return Response(content, media_type=array or "application/json")


def read_images(submission: Submission, settings: Settings) -> tuple[list[Source], EmbedOptions]:
    """The images of a request in any form, and its options.

    Raises:
        Malformed: for none; TooManyImages: beyond the limit; InvalidOption: for an option at fault.
    """
    fields = dict(submission.fields)
    images: list[Source]
    if submission.kind == "image":
        images = [submission.image]
    elif submission.kind == "json":
        images = _text_images(fields.pop("images", None))
    else:
        images = [file.data for file in submission.files]
        if wrong := {file.name for file in submission.files} - {"images"}:
            raise InvalidOption(f"files belong in the field `images`, not {', '.join(sorted(wrong))}")
    options = parse_options(EmbedOptions, fields)
    check_count(len(images), settings)
    return images, options


def _text_images(value: Any) -> list[Source]:
    if not isinstance(value, list) or not all(isinstance(image, str) for image in value):
        raise Malformed('the JSON body needs "images": a list of base64 texts or data URIs')
    return value


def _as_json(answers: Sequence[Outcome], threshold: Threshold, options: EmbedOptions, services: Services) -> bytes:
    content = {
        "bundle": services.name,
        "bundle_hash": services.bundle.hash,
        "threshold": threshold.as_dict(),
        "results": [_result(answer, threshold, options) for answer in answers],
        "timing_ms": timing_ms([answer.timing for answer in answers if isinstance(answer, Embedded)]),
    }
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _result(answer: Outcome, threshold: Threshold, options: EmbedOptions) -> dict[str, Any]:
    if isinstance(answer, Problem):
        return {"status": "error", "error": answer.as_dict()}
    return {"status": "ok", **as_members(answer, threshold, options, options.encoding)}


def _as_npy(rows: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, rows, allow_pickle=False)
    return buffer.getvalue()

"""`POST /v1/embeddings`: `/embed` as OpenAI's clients speak it."""

from typing import Annotated, Any, Final

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema

from service.answering import AbstainOptions, all_or_fail, answer_images, as_members, check_count
from service.errors import InvalidOption
from service.intake import describe_errors, read_json
from service.lifecycle import Services, services_of
from service.openai_schemas import OpenAIEmbeddings
from service.openapi import PICTURE, READING, errors, inlined
from service.rendering import JSON
from service.vectors import Encoding

EXAMPLE: Final = {"model": "default", "input": [PICTURE], "max_percentile": 0.9}

router = APIRouter(tags=["openai"])


def _as_list(value: Any) -> list[str]:
    """One image or many, as many."""
    images = [value] if isinstance(value, str) else value
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise ValueError("candor embeds images: give one or a list of them, as base64 or data URIs; no tokens")
    return images


class EmbeddingsFields(AbstainOptions):
    """The JSON body: OpenAI's members, and candor's options."""

    model: str = Field(description="A bundle's name.")
    input: Annotated[
        list[str],
        BeforeValidator(_as_list),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    ] = Field(description="An image or a list of them, in base64 or as data URIs.")
    encoding_format: Encoding = Field(
        default="float", description="`float`: a list of numbers; `base64`: D little-endian float32."
    )
    dimensions: int | None = Field(default=None, description="If given, the bundle's: embeddings are not cut short.")
    user: str | None = Field(default=None, description="Taken as OpenAI takes it, and not used.")


@router.post(
    "/v1/embeddings",
    responses={
        200: {"model": OpenAIEmbeddings, "description": "One embedding per image."},
        **errors(*READING, 404, protocol="openai"),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": inlined(EmbeddingsFields), "example": EXAMPLE}},
        }
    },
)
async def embeddings(request: Request) -> Response:
    """Embed images through any client of OpenAI's: `client.embeddings.create(model="default", input=[...])`.

    Each entry of `data` has the image's uncertainty beside its embedding; candor's options go into the client's
    `extra_body`. `usage` counts images. A bad image fails the request with 400, and `param` says which it was.
    """
    fields = await _read(request, services_of(request))
    services = services_of(request, fields.model)
    check_count(len(fields.input), services.settings)
    _check_dimensions(fields.dimensions, services.bundle.manifest.dimension)
    threshold = fields.threshold(services.settings)
    embedded = all_or_fail(await answer_images(request, fields.input, threshold, fields, services), "input")
    with services.metrics.stage_seconds.labels("encode").time():
        data = [
            {"object": "embedding", "index": index, **as_members(each, threshold, fields, fields.encoding_format)}
            for index, each in enumerate(embedded)
        ]
        usage = {"prompt_tokens": len(data), "total_tokens": len(data)}
        content = {"object": "list", "data": data, "model": services.name, "usage": usage}
        return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type=JSON)


async def _read(request: Request, services: Services) -> EmbeddingsFields:
    fields = await read_json(request, services.settings, services.pipeline.admission)
    try:
        return EmbeddingsFields.model_validate(fields)
    except ValidationError as error:
        raise InvalidOption(describe_errors(error), param=str(error.errors()[0]["loc"][0])) from error


def _check_dimensions(asked: int | None, dimension: int) -> None:
    if asked not in (None, dimension):
        raise InvalidOption(
            f"dimensions: this bundle's embeddings have {dimension} numbers; fewer would no longer be what the "
            "uncertainty is about",
            param="dimensions",
        )

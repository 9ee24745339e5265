"""What `/docs` and `/openapi.json` say: the bodies that endpoints read themselves, options, and errors."""

import copy
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal

from fastapi import FastAPI
from pydantic import BaseModel

from service.kserve.schemas import KServeError
from service.openai_schemas import OpenAIError
from service.rendering import JSON, PROBLEM_JSON
from service.schemas import ProblemBody

Protocol = Literal["rfc9457", "openai", "kserve"]
"""Whose shape an error has."""

DESCRIPTION: Final = """
Image embeddings that say when they are unsure. Each image gets an embedding, a raw `uncertainty` (higher is less
sure) and its `percentile` in the bundle's reference set; above a threshold candor abstains.

Every error is `application/problem+json` with `type`, `title`, `status`, `detail` and the `request_id` that is also
in the `X-Request-ID` header and the server's log; send your own `X-Request-ID` to follow a request through.
"""
TAGS: Final = (
    {"name": "embed", "description": "Images to embeddings with uncertainty."},
    {"name": "retrieve", "description": "The nearest items of the gallery, or an abstention with its reasons."},
    {"name": "gallery", "description": "What retrieval finds: items with an embedding, an uncertainty and a payload."},
    {"name": "policies", "description": "Certified thresholds: at most so many accepted matches are wrong."},
    {"name": "openai", "description": "What OpenAI's clients speak, for images: `model` is a bundle's name."},
    {"name": "kserve", "description": "The Open Inference Protocol (KServe v2, Triton) with its binary extension."},
    {"name": "operations", "description": "Probes, metrics and what is served."},
)
ERRORS: Final = {
    400: "The request, an option, a filter, a vector or an id cannot be read.",
    401: "The server asks for an API key, and the request has none, or another.",
    403: "The API key is not for this; or the server has no keys, and a page of another site asks.",
    404: "No such bundle, gallery, item, policy or answer.",
    408: "The body did not arrive in time.",
    409: "Contradicts what was said before, or cannot be served.",
    413: "Too many bytes, pixels or images.",
    415: "A content type or image format that is not supported.",
    422: "The bytes are no sound image, or the image is too uncertain and the request made that an error.",
    429: "The queue is full: try again after `Retry-After` seconds.",
    500: "The model, the gallery or the server itself failed.",
    503: "Loading, draining or unwell: try again after `Retry-After` seconds.",
    504: "The answer was not ready in time.",
}
API_VERSION: Final = "1"  # of the paths and shapes, raised when one breaks; the package has a version of its own
READING: Final = (400, 401, 408, 413, 415, 429, 503, 504)
OF_A_BUNDLE: Final = frozenset({"embed", "retrieve", "gallery", "policies", "/model"})  # tags, and a path
BUNDLE: Final = {
    "name": "bundle",
    "in": "query",
    "required": False,
    "description": "Name of a served bundle; the default one if unset.",
    "schema": {"type": "string"},
}
ERROR_BODIES: Final[Mapping[Protocol, tuple[str, type[BaseModel]]]] = {
    "rfc9457": (PROBLEM_JSON, ProblemBody),
    "openai": (JSON, OpenAIError),
    "kserve": (JSON, KServeError),
}
PICTURE: Final = (
    "data:image/png;base64,"
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGM4YSMCAALoARnLml0SAAAAAElFTkSuQmCC"
)  # of one pixel, so that examples work as they are
IMAGE: Final = {"type": "string", "format": "binary"}


def package_version() -> str:
    """Candor's version, as installed."""
    try:
        return version("candor")
    except PackageNotFoundError:
        return "0+unknown"


def describe() -> dict[str, Any]:
    """The API's title, version and text."""
    return {
        "title": "candor",
        "summary": "Image embeddings that say when they are unsure.",
        "description": DESCRIPTION,
        "version": API_VERSION,
        "license_info": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        "openapi_tags": list(TAGS),
    }


def errors(*statuses: int, protocol: Protocol = "rfc9457") -> dict[int | str, dict[str, Any]]:
    """The `responses` of an endpoint that may answer with these errors, and with 500, in its protocol's shape.

    One that asks for a key may refuse it.
    """
    media_type, model = ERROR_BODIES[protocol]
    content = {media_type: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}}
    possible = {*statuses, 500, *((403,) if 401 in statuses else ())}
    return {status: {"description": ERRORS[status], "content": content} for status in sorted(possible)}


def options_as_query(model: type[BaseModel], leave_out: Sequence[str] = ()) -> list[dict[str, Any]]:
    """A model's fields as documented query parameters."""
    properties: Mapping[str, dict[str, Any]] = model.model_json_schema()["properties"]
    return [
        {"name": name, "in": "query", "required": False, "description": schema.get("description", ""), "schema": schema}
        for name, schema in properties.items()
        if name not in leave_out
    ]


def body(form: Mapping[str, Any], json: Mapping[str, Any], example: Any, *, required: bool = True) -> dict[str, Any]:
    """The `requestBody` of an endpoint that takes a raw image, a form or JSON; `form` and `json` are properties."""
    return {
        "required": required,
        "content": {
            "image/*": {"schema": IMAGE},
            "application/octet-stream": {"schema": IMAGE},
            "multipart/form-data": {"schema": {"type": "object", "properties": dict(form)}},
            "application/json": {"schema": {"type": "object", "properties": dict(json)}, "example": example},
        },
    }


def properties(model: type[BaseModel]) -> dict[str, Any]:
    """A model's JSON properties."""
    return copy.deepcopy(model.model_json_schema()["properties"])


def inlined(model: type[BaseModel]) -> dict[str, Any]:
    """A model's JSON schema, the schemas of its parts in their places."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def inline(value: Any) -> Any:
        if isinstance(value, list):
            return [inline(each) for each in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return inline(parts[value["$ref"].rpartition("/")[2]])
        return {name: inline(each) for name, each in value.items()}

    inside: dict[str, Any] = inline(schema)
    return inside


class DescribedAPI(FastAPI):
    """An app whose document holds the schemas of errors, which endpoints refer to, and says who takes `bundle`."""

    def openapi(self) -> dict[str, Any]:
        """The document behind `/docs`."""
        document = super().openapi()
        schemas = document["components"]["schemas"]
        for _, model in ERROR_BODIES.values():
            schemas.setdefault(model.__name__, inlined(model))
        for path, item in document["paths"].items():
            for operation in item.values():
                _leave_out_422(operation["responses"])
                if path in OF_A_BUNDLE or OF_A_BUNDLE.intersection(operation.get("tags", ())):
                    _take_bundle(operation)
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}, {}]
        return document


def _take_bundle(operation: dict[str, Any]) -> None:
    """Say that an endpoint takes the name of a bundle, which it reads with `services_of`."""
    parameters = operation.setdefault("parameters", [])
    if BUNDLE not in parameters:  # the document is made once and told often
        parameters.append(BUNDLE)
    for status, response in errors(404).items():
        operation["responses"].setdefault(str(status), response)


def _leave_out_422(responses: dict[str, Any]) -> None:
    """The framework announces errors of its own, which are answered as 400 `invalid_option` here."""
    if "HTTPValidationError" in str(responses.get("422")):
        del responses["422"]

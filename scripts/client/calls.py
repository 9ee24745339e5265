"""Every request that candor takes, and how its answer is read."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
import orjson
from numpy.typing import ArrayLike

from scripts.client.errors import ApiError, Unreadable
from scripts.client.images import Image, image_bytes
from scripts.client.options import Labelled, Target
from scripts.client.results import (
    Embedded,
    Feedback,
    GalleryInfo,
    Item,
    Model,
    Models,
    Page,
    Policy,
    Retrieval,
    Stored,
)
from scripts.client.wire import Answer, Call, Request, parsed, refused_alone

Value = TypeVar("Value")

RAW, JSON = "application/octet-stream", "application/json"


@dataclass(frozen=True)
class NewItem:
    """An item to store: of an image, or of an embedding (D,) and its raw uncertainty."""

    id: str
    image: Image | None = None
    vector: ArrayLike | None = None
    uncertainty: float | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)


def embed_one(image: bytes, options: Mapping[str, Any]) -> Call[Embedded]:
    """`POST /embed` of one image, whose error is the answer's."""
    return Call(
        Request("POST", "/embed", as_query({"encoding": "base64", **options}), image, RAW),
        lambda answer: parsed(Embedded, _of_bundle(answer.json, answer.json["results"][0])),
    )


def embed(images: Sequence[bytes], options: Mapping[str, Any]) -> Call[list[Embedded | ApiError]]:
    """`POST /embed` of several images, each with its own outcome."""
    if len(images) == 1:
        one = embed_one(images[0], options)
        return Call(one.request, lambda answer: [one.read(answer)])
    return Call(
        Request("POST", "/embed", as_query({"encoding": "base64", **options}), files=tuple(images)),
        lambda answer: [_result(Embedded, _of_bundle(answer.json, each)) for each in _results(answer, len(images))],
    )


def retrieve(
    image: Image | None, vector: ArrayLike | None, id: str | None, options: Mapping[str, Any]
) -> Call[Retrieval]:
    """`POST /retrieve` by exactly one of the three."""
    if (image is None) + (vector is None) + (id is None) != 2:
        raise TypeError("give exactly one of image, vector and id")
    if image is not None:
        request = Request("POST", "/retrieve", as_query(options), image_bytes(image), RAW)
    else:
        query = {"id": id} if id is not None else {"vector": base64_of(vector)}
        request = _json_request("POST", "/retrieve", {**query, **given(options)})
    return Call(request, _retrieval)


def put(item: NewItem, options: Mapping[str, Any]) -> Call[Stored]:
    """`PUT /gallery/{id}`."""
    content = {**_without_id(item), **given(options)}
    return _call(Stored, _json_request("PUT", f"/gallery/{in_path(item.id)}", content))


def item_json(item: NewItem) -> bytes:
    """An item as `POST /gallery` takes it.

    Raises:
        Unreadable: for an image that cannot be read, and for what JSON does not hold.
    """
    try:
        return orjson.dumps({"id": item.id, **_without_id(item)}, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise Unreadable(f"{item.id!r} cannot be sent: {error}") from error


def put_many(items: Sequence[bytes], options: Mapping[str, Any]) -> Call[list[Stored | ApiError]]:
    """`POST /gallery` of items that are JSON already, each with its own outcome."""
    return Call(
        _json_request("POST", "/gallery", {**given(options), "items": [orjson.Fragment(each) for each in items]}),
        lambda answer: [_result(Stored, each) for each in _results(answer, len(items))],
    )


def get(id: str) -> Call[Item]:
    """`GET /gallery/{id}`."""
    return _call(Item, Request("GET", f"/gallery/{in_path(id)}", {"encoding": "base64"}))


def delete(ids: Sequence[str]) -> Call[int]:
    """`POST /gallery/delete` by ids: how many were there."""
    return _deletion(_json_request("POST", "/gallery/delete", {"ids": list(ids)}))


def delete_where(filter: Mapping[str, Any]) -> Call[int]:
    """`POST /gallery/delete` by filter: how many passed."""
    return _deletion(_json_request("POST", "/gallery/delete", {"filter": filter}))


def page(filter: Mapping[str, Any] | None, offset: int, limit: int) -> Call[Page]:
    """`GET /gallery`: items from the least to the most uncertain."""
    query = as_query({"filter": filter, "offset": offset, "limit": limit})
    return _call(Page, Request("GET", "/gallery", query))


def describe(filter: Mapping[str, Any] | None) -> Call[GalleryInfo]:
    """`GET /gallery`, without items."""
    return _call(GalleryInfo, Request("GET", "/gallery", as_query({"filter": filter, "limit": 0})))


def policies() -> Call[list[Policy]]:
    """`GET /policies`."""
    return Call(Request("GET", "/policies"), lambda answer: [parsed(Policy, each) for each in answer.json["policies"]])


def policy(name: str) -> Call[Policy]:
    """`GET /policies/{name}`."""
    return _call(Policy, Request("GET", f"/policies/{in_path(name)}"))


def create_policy(
    name: str, targets: Sequence[Target], development: Sequence[Labelled], certification: Sequence[Labelled]
) -> Call[Policy]:
    """`POST /policies`; twice would forget the audits that came in between."""
    content = {
        "name": name,
        "targets": list(targets),
        "development": list(development),
        "certification": list(certification),
    }
    return _call(Policy, _json_request("POST", "/policies", content), repeatable=False)


def delete_policy(name: str) -> Call[int]:
    """`DELETE /policies/{name}`."""
    return _deletion(Request("DELETE", f"/policies/{in_path(name)}"), repeatable=False)


def feedback(request_id: str, correct: bool | None, relevant: Sequence[bool] | None) -> Call[Feedback]:
    """`POST /feedback`; the same again changes nothing."""
    content = given({"request_id": request_id, "correct": correct, "relevant": relevant and list(relevant)})
    return _call(Feedback, _json_request("POST", "/feedback", content))


def model() -> Call[Model]:
    """`GET /model`."""
    return _call(Model, Request("GET", "/model"))


def models() -> Call[Models]:
    """`GET /models`."""
    return _call(Models, Request("GET", "/models"))


def as_query(options: Mapping[str, Any]) -> dict[str, str]:
    """Options as query parameters: texts as they are, anything else as JSON; None is left out."""
    return {
        name: value if isinstance(value, str) else orjson.dumps(value).decode()
        for name, value in given(options).items()
    }


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those that are not None."""
    return {name: value for name, value in options.items() if value is not None}


def in_path(id: str) -> str:
    """An id as a part of a path: slashes stay, and no segment may be taken for a step up."""
    return "/".join(
        quote(part, safe="").replace(".", "%2E") if not part.strip(".") else quote(part) for part in id.split("/")
    )


def base64_of(vector: ArrayLike | None) -> str:
    """Base64 of little-endian float32."""
    return base64.b64encode(np.asarray(vector, dtype="<f4").tobytes()).decode()


def _call(kind: type[Value], request: Request, *, repeatable: bool = True) -> Call[Value]:
    return Call(request, lambda answer: parsed(kind, answer.json), repeatable)


def _deletion(request: Request, *, repeatable: bool = True) -> Call[int]:
    return Call(request, lambda answer: int(answer.json["deleted"]), repeatable)


def _json_request(method: str, path: str, content: Mapping[str, Any]) -> Request:
    return Request(method, path, content=orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), content_type=JSON)


def _without_id(item: NewItem) -> dict[str, Any]:
    image = None if item.image is None else base64.b64encode(image_bytes(item.image)).decode()
    vector = None if item.vector is None else base64_of(item.vector)
    return given({"image": image, "vector": vector, "uncertainty": item.uncertainty, "payload": dict(item.payload)})


def _of_bundle(answer: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    return {**result, "bundle": answer["bundle"], "bundle_hash": answer["bundle_hash"]}


def _results(answer: Answer, count: int) -> list[Any]:
    results: list[Any] = answer.json["results"]
    if len(results) != count:
        raise ValueError(f"{len(results)} results of {count}")
    return results


def _result(kind: type[Value], result: Mapping[str, Any]) -> Value | ApiError:
    return refused_alone(result["error"]) if result["status"] == "error" else parsed(kind, result)


def _retrieval(answer: Answer) -> Retrieval:
    return parsed(Retrieval, {**answer.json, "request_id": answer.headers["x-request-id"]})

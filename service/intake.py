"""Reading requests: the body within its limits of bytes and time, then images and fields in whatever form they came."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar

import orjson
from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from service.batcher import Admission
from service.errors import (
    BodyTooLarge,
    ClientGone,
    DeadlineExceeded,
    InvalidOption,
    Malformed,
    UnsupportedMedia,
    UploadTimeout,
)
from service.multipart import File, parse_multipart
from service.settings import Settings
from service.stages import note_stage

Kind = Literal["image", "multipart", "json"]
Model = TypeVar("Model", bound=BaseModel)
Value = TypeVar("Value")

DEADLINE: Final = "the answer was not ready within the time the server gives itself (CANDOR_REQUEST_TIMEOUT_S)"
LARGE_BODY: Final = 2**20  # bytes from which parsing leaves the event loop
TAKES: Final = "send an image (image/jpeg, image/png, ... or application/octet-stream), multipart/form-data or JSON"


@dataclass(frozen=True)
class Submission:
    """What a request carries: exactly one of `image` (raw body), `files` (multipart) or `json` is its body.

    `fields` are the options: the query parameters, with those of a multipart or JSON body over them.
    """

    kind: Kind
    image: bytes = b""
    files: tuple[File, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


async def read_submission(
    request: Request, settings: Settings, admission: Admission, *, optional_body: bool = False
) -> Submission:
    """Read a request's body and options in any of the three forms.

    Raises:
        UnsupportedMedia: for any other content type, or a compressed body.
        Overloaded: where an image would be refused after its upload.
        BodyTooLarge, UploadTimeout, Malformed, ClientGone: as `read_body` and the parsers below.
    """
    kind = content_kind(request)
    if kind != "json":  # which may hold vectors, and those do not queue
        admission.refuse_if_full()
    limit = settings.max_image_bytes if kind == "image" else settings.max_body_bytes
    body = await read_body(request, limit, settings.upload_timeout_s)
    query = query_fields(request)
    if kind == "image":
        if not body and not optional_body:
            raise Malformed(f"the body is empty: {TAKES}")
        return Submission(kind, image=body, fields=query)
    if kind == "json":
        return Submission(kind, fields={**query, **await off_loop_if_large(body, parse_json_object, body)})
    files, fields = await off_loop_if_large(body, parse_multipart, body, request.headers["content-type"])
    return Submission(kind, files=tuple(files), fields={**query, **fields})


async def read_json(request: Request, settings: Settings, admission: Admission) -> Mapping[str, Any]:
    """The members of a JSON body, and the options of the query under them, where nothing else is taken.

    Raises:
        UnsupportedMedia: for any other content type; the rest as `read_submission`.
    """
    if content_kind(request) != "json":
        raise UnsupportedMedia("send application/json")
    return (await read_submission(request, settings, admission)).fields


async def off_loop_if_large(body: bytes, parse: Callable[..., Value], *args: Any) -> Value:
    """What `parse` makes of its arguments, on a thread where the body is so large that it takes long."""
    return await asyncio.to_thread(parse, *args) if len(body) > LARGE_BODY else parse(*args)


def content_kind(request: Request) -> Kind:
    """The form of the body, by its content type; none at all counts as an image.

    Raises:
        UnsupportedMedia: for any other type, and for a `Content-Encoding`.
    """
    refuse_compressed(request)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type in ("", "application/octet-stream") or content_type.startswith("image/"):
        return "image"
    if content_type == "multipart/form-data":
        return "multipart"
    if content_type == "application/json":
        return "json"
    raise UnsupportedMedia(f"{content_type} is not supported: {TAKES}")


def refuse_compressed(request: Request) -> None:
    """Return if the body is sent as it is.

    Raises:
        UnsupportedMedia: for a `Content-Encoding`.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise UnsupportedMedia(f"the body is {encoding}-encoded: send it as it is")


async def read_body(request: Request, limit_bytes: int, timeout_s: float) -> bytes:
    """The whole body, refused as soon as it is known to be too large: by its announced length, else while it streams.

    Raises:
        BodyTooLarge: beyond `limit_bytes`.
        UploadTimeout: where it takes longer than `timeout_s`.
        ClientGone: where the client leaves before the end.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit_bytes:
        raise BodyTooLarge(f"the body has {announced} bytes and the limit is {limit_bytes}")
    started = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_s):
            chunks = [chunk async for chunk in _at_most(limit_bytes, request)]
    except TimeoutError as error:
        raise UploadTimeout(
            f"the body did not arrive within {timeout_s:g} s", headers={"Connection": "close"}
        ) from error
    except ClientDisconnect as error:
        raise ClientGone("the client left before the body was complete") from error
    note_stage("read", started, time.perf_counter(), bytes=sum(map(len, chunks)))
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _at_most(limit_bytes: int, request: Request) -> AsyncIterator[bytes]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit_bytes:
            raise BodyTooLarge(f"the body has more than {limit_bytes} bytes, the limit")
        if chunk:
            yield chunk


def query_fields(request: Request) -> dict[str, str]:
    """Query parameters, each given once; less `bundle`, which `services_of` reads.

    Raises:
        InvalidOption: for one given twice.
    """
    if not request.scope["query_string"]:
        return {}
    items = request.query_params.multi_items()
    fields = dict(items)
    if len(fields) < len(items):
        raise InvalidOption("a query parameter is given twice")
    fields.pop("bundle", None)
    return fields


def parse_json_object(body: bytes) -> dict[str, Any]:
    """A JSON body to its object.

    Raises:
        Malformed: for anything else.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed(f"the body is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise Malformed("the body must be a JSON object")
    return value


def parse_options(model: type[Model], fields: Mapping[str, Any]) -> Model:
    """Fields to a model, refusing those it does not know.

    Raises:
        InvalidOption: that names every field at fault.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise InvalidOption(describe_errors(error)) from error


def describe_errors(error: ValidationError) -> str:
    """Every field at fault and what is wrong with it."""
    return "; ".join(_describe(item["loc"], item["msg"]) for item in error.errors())


def _describe(location: tuple[int | str, ...], message: str) -> str:
    text = message.removeprefix("Value error, ")
    if text == "Extra inputs are not permitted":
        text = "no such option"
    return f"{'.'.join(map(str, location))}: {text}" if location else text


def parse_json_field(name: str, value: Any) -> Any:
    """A field that is JSON text in a query or a form, and JSON already in a JSON body.

    Raises:
        InvalidOption: for text that is not JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise InvalidOption(f"{name}: not valid JSON: {error}") from error


def deadline_after(timeout_s: float) -> float:
    """The event loop's time, in seconds, that many seconds from now."""
    return asyncio.get_running_loop().time() + timeout_s


async def answer_in_time(request: Request, work: Coroutine[Any, Any, Value], deadline: float) -> Value:
    """Await `work` while the client still listens, until the deadline at most; otherwise it is cancelled.

    The request's body must have been read.

    Raises:
        DeadlineExceeded, ClientGone: when cancelled.
    """
    timeout_s = max(0.0, deadline - asyncio.get_running_loop().time())
    task = asyncio.ensure_future(work)
    listener = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, listener), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if listener.done():
            raise ClientGone("the client left before the answer was ready")
        raise DeadlineExceeded(DEADLINE)
    finally:
        listener.cancel()
        task.cancel()
        await asyncio.gather(task, listener, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass

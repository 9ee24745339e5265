"""The gallery: items with an embedding, an uncertainty and a payload, put in, looked at and taken out."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from typing import Annotated, Any, Final, TypeVar

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from service.errors import DeadlineExceeded, InvalidOption, Problem, UnknownId
from service.fields import Fields
from service.gallery.base import Item
from service.generation import Services
from service.intake import DEADLINE, deadline_after, parse_json_field, parse_options, read_json, read_submission
from service.items import (
    ManyFields,
    ManyForm,
    NewItem,
    PutFields,
    StoreOptions,
    check_counts,
    check_id,
    percentiles,
    read_many,
    read_put,
    to_items,
)
from service.lifecycle import services_of
from service.openapi import IMAGE, PICTURE, READING, body, errors, options_as_query, properties
from service.schemas import Deleted, GalleryPage, ItemWithEmbedding, StoredBody, StoredMany
from service.stages import note_stage
from service.vectors import Encoding, encode_embedding

MAX_PAGE: Final = 1000
MAX_OFFSET: Final = 2**31 - 1
Value = TypeVar("Value")

router = APIRouter(tags=["gallery"])


class DeleteFields(Fields):
    """Which items to delete: exactly one of the two."""

    ids: list[str] | None = Field(default=None, description="Items of these ids.")
    filter: dict[str, Any] | None = Field(default=None, description="Items that pass this filter, which is not empty.")


@router.put(
    "/gallery/{id:path}",
    responses={200: {"model": StoredBody, "description": "Stored, on disk."}, **errors(*READING, 422)},
    openapi_extra={
        "parameters": options_as_query(PutFields, leave_out=("image", "vector", "uncertainty")),
        "requestBody": body(
            {**properties(PutFields), "image": IMAGE},
            properties(PutFields),
            {"image": PICTURE, "payload": {"camera": "north"}},
        ),
    },
)
async def put_item(request: Request, id: str) -> Response:
    """Store one item, in place of the one of that id if there is one; answered once it is on disk.

    Send the image as the raw body with `payload` as a query parameter, a form with `image` and `payload`, or JSON with
    `image`, or `vector` and `uncertainty`. A vector is stored at unit length. With `max_uncertainty` or
    `max_percentile` an item above it is refused with 422 `abstained`. An id may contain slashes.
    """
    services = services_of(request)
    gallery, item_id = services.gallery, check_id(id)
    submission = await read_submission(request, services.settings, services.pipeline.admission, optional_body=True)
    new, threshold = read_put(item_id, submission)
    deadline = deadline_after(services.settings.request_timeout_s)
    outcome = (await to_items(request, [new], threshold, services, deadline))[0]
    if isinstance(outcome, Problem):
        raise outcome
    await finish_in_time(gallery.upsert([outcome]), deadline)
    return _json(_stored([outcome], services)[0])


@router.post(
    "/gallery",
    responses={200: {"model": StoredMany, "description": "One outcome per item."}, **errors(*READING)},
    openapi_extra={
        "parameters": options_as_query(StoreOptions),
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"images": {"type": "array", "items": IMAGE}, **properties(ManyForm)},
                    }
                },
                "application/json": {
                    "schema": {"type": "object", "properties": properties(ManyFields)},
                    "example": {"items": [{"id": "a", "image": PICTURE, "payload": {"camera": "north"}}]},
                },
            },
        },
    },
)
async def put_items(request: Request) -> Response:
    """Store many items, each with its own outcome; answered once all that succeeded are on disk.

    Send JSON with `items`, or a form whose `images` files are stored under their file names, with `payloads` by id.
    """
    services = services_of(request)
    gallery = services.gallery
    submission = await read_submission(request, services.settings, services.pipeline.admission)
    entries, threshold = await asyncio.to_thread(read_many, submission)
    check_counts(entries, services.settings.max_images_per_request)
    deadline = deadline_after(services.settings.request_timeout_s)
    new = [entry for entry in entries if isinstance(entry, NewItem)]
    made = iter(await to_items(request, new, threshold, services, deadline))
    outcomes = [next(made) if isinstance(entry, NewItem) else entry.problem for entry in entries]
    items = [outcome for outcome in outcomes if isinstance(outcome, Item)]
    if items:
        await finish_in_time(gallery.upsert(items), deadline)
    stored = iter(_stored(items, services))
    results = [
        next(stored) if isinstance(outcome, Item) else {"status": "error", "id": entry.id, "error": outcome.as_dict()}
        for entry, outcome in zip(entries, outcomes, strict=True)
    ]
    return _json({"stored": len(items), "failed": len(entries) - len(items), "results": results})


@router.get("/gallery", responses={200: {"model": GalleryPage}, **errors(400, 401, 503, 504)})
async def page_items(
    request: Request,
    limit: Annotated[int, Query(ge=0, le=MAX_PAGE, description="Items on the page.")] = 100,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET, description="Items before the page.")] = 0,
    filter: Annotated[str | None, Query(description="A filter as JSON text.")] = None,
) -> Response:
    """The gallery's size, bundle and engine, and a page of its items from the least to the most uncertain."""
    services = services_of(request)
    where = _filter(filter)
    deadline = deadline_after(services.settings.request_timeout_s)
    gallery = services.gallery
    count = await finish_in_time(gallery.count(), deadline)
    passing = count if where is None else await finish_in_time(gallery.count(where), deadline)
    items = await finish_in_time(gallery.page(limit, offset, where), deadline) if limit else []
    return _json(
        {
            "count": count,
            "passing": passing,
            "bundle": services.name,
            "bundle_hash": services.bundle.hash,
            "dimension": services.bundle.manifest.dimension,
            "engine": gallery.engine,
            "offset": offset,
            "limit": limit,
            "items": _described(items, services),
        }
    )


@router.get("/gallery/{id:path}", responses={200: {"model": ItemWithEmbedding}, **errors(400, 401, 404, 503, 504)})
async def get_item(request: Request, id: str, encoding: Encoding = "float") -> Response:
    """One item and its embedding."""
    services = services_of(request)
    deadline = deadline_after(services.settings.request_timeout_s)
    item = await finish_in_time(services.gallery.get(check_id(id)), deadline)
    if item is None:
        raise UnknownId(f"the gallery has no item {id!r}")
    return _json({**_described([item], services)[0], "embedding": encode_embedding(item.embedding, encoding)})


@router.delete("/gallery/{id:path}", responses={200: {"model": Deleted}, **errors(400, 401, 404, 503, 504)})
async def delete_item(request: Request, id: str) -> Response:
    """Delete one item."""
    services = services_of(request)
    deadline = deadline_after(services.settings.request_timeout_s)
    deleted = await finish_in_time(services.gallery.delete([check_id(id)]), deadline)
    if not deleted:
        raise UnknownId(f"the gallery has no item {id!r}")
    return _json({"deleted": deleted})


@router.post(
    "/gallery/delete",
    responses={200: {"model": Deleted}, **errors(400, 401, 408, 413, 415, 503, 504)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {"type": "object", "properties": properties(DeleteFields)},
                    "example": {"filter": {"camera": "north"}},
                }
            },
        }
    },
)
async def delete_items(request: Request) -> Response:
    """Delete by ids or by filter: JSON with exactly one of `ids` and `filter`; an empty filter is refused."""
    services = services_of(request)
    fields = parse_options(DeleteFields, await read_json(request, services.settings, services.pipeline.admission))
    if (fields.ids is None) == (fields.filter is None):
        raise InvalidOption("give exactly one of ids and filter")
    deadline = deadline_after(services.settings.request_timeout_s)
    if fields.ids is not None:
        work = services.gallery.delete([check_id(item_id) for item_id in fields.ids])
    else:
        work = services.gallery.delete_where(fields.filter or {})
    return _json({"deleted": await finish_in_time(work, deadline)})


async def finish_in_time(work: Coroutine[Any, Any, Value], deadline: float) -> Value:
    """Await the gallery until the deadline; what it has begun by then it finishes, acknowledged to nobody.

    Raises:
        DeadlineExceeded: after the deadline.
    """
    task, started = asyncio.ensure_future(work), time.perf_counter()
    try:
        async with asyncio.timeout_at(deadline):
            return await asyncio.shield(task)
    except TimeoutError as error:
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise DeadlineExceeded(f"{DEADLINE}; a change may still take effect") from error
    finally:
        note_stage("gallery", started, time.perf_counter())


def _filter(text: str | None) -> dict[str, Any] | None:
    value = None if text is None else parse_json_field("filter", text)
    if value is not None and not isinstance(value, dict):
        raise InvalidOption("filter: must be a JSON object")
    return value


def _stored(items: Sequence[Item], services: Services) -> list[dict[str, Any]]:
    shares = percentiles([item.uncertainty for item in items], services)
    return [
        {"status": "ok", "id": item.id, "uncertainty": item.uncertainty, "percentile": share}
        for item, share in zip(items, shares, strict=True)
    ]


def _described(items: Sequence[Item], services: Services) -> list[dict[str, Any]]:
    shares = percentiles([item.uncertainty for item in items], services)
    return [
        {"id": item.id, "uncertainty": item.uncertainty, "percentile": share, "payload": item.payload}
        for item, share in zip(items, shares, strict=True)
    ]


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")

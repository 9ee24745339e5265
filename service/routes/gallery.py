"""The gallery: items with an embedding, an uncertainty and a payload, put in, looked at and taken out."""

import asyncio
import unicodedata
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

import numpy as np
import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError

from service.decide import Threshold, resolve_threshold
from service.errors import DeadlineExceeded, InvalidId, InvalidOption, Malformed, Problem, TooManyImages, UnknownId
from service.gallery.base import Item
from service.gallery.filters import flatten
from service.intake import (
    DEADLINE,
    Submission,
    answer_in_time,
    deadline_after,
    describe_errors,
    parse_json_field,
    parse_options,
    read_submission,
)
from service.lifecycle import Services, services_of
from service.openapi import IMAGE, READING, body, errors, options_as_query, properties
from service.pipeline import Embedded, Outcome, Source
from service.routes.embed import Encoding, abstained, encode_embedding
from service.routes.retrieve import unit_vector
from service.schemas import Deleted, GalleryPage, ItemWithEmbedding, StoredBody, StoredMany

MAX_ID_BYTES: Final = 512
MAX_PAGE: Final = 1000
MAX_ITEMS: Final = 10_000
MANY: Final = 16  # items from which making them leaves the event loop
Value = TypeVar("Value")
JsonObject = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]

router = APIRouter(tags=["gallery"])


class StoreOptions(BaseModel):
    """Which images not to store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_uncertainty: float | None = Field(
        default=None, allow_inf_nan=False, description="Refuse items above this raw uncertainty (422 `abstained`)."
    )
    max_percentile: float | None = Field(
        default=None, ge=0, le=1, description="Refuse items above this percentile; excludes max_uncertainty."
    )


class ItemContent(BaseModel):
    """What an item is made of, beside its id."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image: str | None = Field(default=None, description="Base64 or a data URI.")
    vector: list[FiniteFloat] | str | None = Field(
        default=None, description="In place of an image: D numbers, or base64 of D little-endian float32."
    )
    uncertainty: FiniteFloat | None = Field(default=None, description="Needed with a vector, and only there; raw.")
    payload: JsonObject = Field(default={}, description="Any JSON object.")


class PutFields(StoreOptions, ItemContent):
    """The JSON body, form or query of one item."""

    payload: Annotated[JsonObject, BeforeValidator(lambda value: parse_json_field("payload", value))] = Field(
        default={}, description="Any JSON object; in a query or form as JSON text."
    )


class ManyItem(ItemContent):
    """One of many items."""

    id: str


class ManyFields(StoreOptions):
    """The JSON body of many items; each is checked by itself."""

    items: list[Any] = Field(description="Objects with `id`, and `image` or `vector` and `uncertainty`, and `payload`.")


class ManyForm(StoreOptions):
    """The fields of a form of many images."""

    payloads: Annotated[dict[str, JsonObject], BeforeValidator(lambda value: parse_json_field("payloads", value))] = (
        Field(default={}, description="A JSON object of payloads by id.")
    )


class DeleteFields(BaseModel):
    """Which items to delete: exactly one of the two."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ids: list[str] | None = Field(default=None, description="Items of these ids.")
    filter: dict[str, Any] | None = Field(default=None, description="Items that pass this filter, which is not empty.")


@dataclass(frozen=True)
class NewItem:
    """An item to store: from an image still to be embedded, or made of a vector."""

    id: str
    image: Source | None
    content: ItemContent


def percentiles(uncertainties: Sequence[float], services: Services) -> list[float]:
    """The share of the reference set that is less uncertain than each."""
    shares: list[float] = services.bundle.uncertainty_percentile(np.asarray(uncertainties)).tolist()
    return shares


@router.put(
    "/gallery/{id:path}",
    responses={200: {"model": StoredBody, "description": "Stored, on disk."}, **errors(*READING, 422)},
    openapi_extra={
        "parameters": options_as_query(PutFields, leave_out=("image", "vector", "uncertainty")),
        "requestBody": body(
            {**properties(PutFields), "image": IMAGE},
            properties(PutFields),
            {"image": "data:image/jpeg;base64,/9j/4AAQ...", "payload": {"camera": "north"}},
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
    item_id = check_id(id)
    submission = await read_submission(request, services.settings, services.pipeline.admission, optional_body=True)
    new, threshold = _read_put(item_id, submission)
    deadline = deadline_after(services.settings.request_timeout_s)
    outcome = (await _to_items(request, [new], threshold, services, deadline))[0]
    if isinstance(outcome, Problem):
        raise outcome
    await finish_in_time(services.gallery.upsert([outcome]), deadline)
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
                    "example": {"items": [{"id": "a", "image": "/9j/4AAQ...", "payload": {"camera": "north"}}]},
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
    submission = await read_submission(request, services.settings, services.pipeline.admission)
    entries, threshold = await asyncio.to_thread(_read_many, submission)
    _check_counts(entries, services)
    deadline = deadline_after(services.settings.request_timeout_s)
    new = [entry for entry in entries if isinstance(entry, NewItem)]
    made = iter(await _to_items(request, new, threshold, services, deadline))
    outcomes = [next(made) if isinstance(entry, NewItem) else entry.problem for entry in entries]
    items = [outcome for outcome in outcomes if isinstance(outcome, Item)]
    if items:
        await finish_in_time(services.gallery.upsert(items), deadline)
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
    offset: Annotated[int, Query(ge=0, description="Items before the page.")] = 0,
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
            "bundle": services.bundle.manifest.name,
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
    submission = await read_submission(request, services.settings, services.pipeline.admission)
    if submission.kind != "json":
        raise Malformed("send JSON with ids or filter")
    fields = parse_options(DeleteFields, submission.fields)
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
    task = asyncio.ensure_future(work)
    try:
        async with asyncio.timeout_at(deadline):
            return await asyncio.shield(task)
    except TimeoutError as error:
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise DeadlineExceeded(f"{DEADLINE}; a change may still take effect") from error


def check_id(item_id: str) -> str:
    """An id that can be stored and written in a path.

    Raises:
        InvalidId: for an empty or long one, or one with control characters.
    """
    if not item_id or len(item_id.encode("utf-8", "replace")) > MAX_ID_BYTES:
        raise InvalidId(f"an id has 1 to {MAX_ID_BYTES} bytes of UTF-8")
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in item_id):
        raise InvalidId("an id has no control characters")
    return item_id


def _read_put(item_id: str, submission: Submission) -> tuple[NewItem, Threshold]:
    image: Source | None = submission.image or None
    for file in submission.files:
        if file.name != "image" or image is not None:
            raise InvalidOption("a form takes one file, in the field `image`")
        image = file.data
    fields = parse_options(PutFields, submission.fields)
    if image is not None and fields.image is not None:
        raise InvalidOption("the image is given twice")
    new = _check_content(NewItem(item_id, fields.image if image is None else image, fields))
    return new, resolve_threshold(fields.max_uncertainty, fields.max_percentile)


@dataclass(frozen=True)
class Unreadable:
    """One of many items that cannot even be read."""

    id: str
    problem: Problem


def _read_many(submission: Submission) -> tuple[list[NewItem | Unreadable], Threshold]:
    if submission.kind == "json":
        fields = parse_options(ManyFields, submission.fields)
        entries = [_read_entry(value, position) for position, value in enumerate(fields.items)]
        return entries, resolve_threshold(fields.max_uncertainty, fields.max_percentile)
    if submission.kind == "image":
        raise Malformed("send many items as JSON or a form; one image goes to PUT /gallery/{id}")
    form = parse_options(ManyForm, submission.fields)
    if wrong := {file.name for file in submission.files} - {"images"}:
        raise InvalidOption(f"files belong in the field `images`, not {', '.join(sorted(wrong))}")
    if unknown := set(form.payloads) - {file.filename for file in submission.files}:
        raise InvalidOption(f"payloads for ids that no file has: {', '.join(sorted(unknown))}")
    entries = [_read_file(file.filename, file.data, form.payloads.get(file.filename, {})) for file in submission.files]
    return entries, resolve_threshold(form.max_uncertainty, form.max_percentile)


def _read_entry(value: Any, position: int) -> NewItem | Unreadable:
    item_id = value.get("id") if isinstance(value, dict) else None
    name = item_id if isinstance(item_id, str) else f"items[{position}]"
    try:
        entry = ManyItem.model_validate(value)
        return _check_content(NewItem(check_id(entry.id), entry.image, entry))
    except ValidationError as error:
        return Unreadable(name, InvalidOption(describe_errors(error)))
    except Problem as problem:
        return Unreadable(name, problem)


def _read_file(name: str, data: bytes, payload: dict[str, Any]) -> NewItem | Unreadable:
    try:
        return NewItem(check_id(name), data, ItemContent(payload=payload))
    except Problem as problem:
        return Unreadable(name, problem)


def _check_content(new: NewItem) -> NewItem:
    """An item with an image, or with a vector and its uncertainty."""
    vector, uncertainty = new.content.vector, new.content.uncertainty
    if (new.image is None) == (vector is None):
        raise Malformed("give an image, or a vector with its uncertainty")
    if (vector is None) != (uncertainty is None):
        raise InvalidOption("a vector needs its uncertainty beside it, and an image must not have one: candor finds it")
    try:
        flatten(new.content.payload)
    except ValueError as error:
        raise InvalidOption(str(error)) from error
    return new


def _check_counts(entries: Sequence[NewItem | Unreadable], services: Services) -> None:
    if not entries:
        raise Malformed("the request has no items")
    images, limit = (
        sum(isinstance(e, NewItem) and e.image is not None for e in entries),
        services.settings.max_images_per_request,
    )
    if images > limit:
        raise TooManyImages(f"{images} images, and the limit is {limit} per request")
    if len(entries) > MAX_ITEMS:
        raise TooManyImages(f"{len(entries)} items, and the limit is {MAX_ITEMS} per request")


async def _to_items(
    request: Request, new: Sequence[NewItem], threshold: Threshold, services: Services, deadline: float
) -> list[Item | Problem]:
    """Embed the images among the items; each item has its own outcome."""
    images = [item.image for item in new if item.image is not None]
    outcomes: list[Outcome] = []
    if images:
        outcomes = await answer_in_time(request, services.pipeline.embed(images), deadline)
    if len(new) <= MANY:
        return _combine(new, outcomes, threshold, services)
    return await asyncio.to_thread(_combine, new, outcomes, threshold, services)


def _combine(
    new: Sequence[NewItem], outcomes: Sequence[Outcome], threshold: Threshold, services: Services
) -> list[Item | Problem]:
    embedded = iter(outcomes)
    return [_to_item(item, next(embedded) if item.image is not None else None, threshold, services) for item in new]


def _to_item(new: NewItem, outcome: Outcome | None, threshold: Threshold, services: Services) -> Item | Problem:
    if isinstance(outcome, Problem):
        return outcome
    if isinstance(outcome, Embedded):
        embedding, uncertainty = outcome.scores.embedding, outcome.scores.uncertainty
    else:
        try:
            embedding = unit_vector(new.content.vector or [], services.bundle.manifest.dimension)
        except Problem as problem:
            return problem
        uncertainty = float(np.float32(new.content.uncertainty or 0.0))
    percentile = percentiles([uncertainty], services)[0]
    if threshold.exceeded(uncertainty, percentile):
        services.metrics.abstentions.labels("uncertain_image").inc()
        return abstained(uncertainty, percentile, threshold)
    return Item(new.id, embedding, uncertainty, new.content.payload)


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

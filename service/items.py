"""What goes into the gallery: requests in any form read to new items, and those embedded to items."""

import asyncio
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import numpy as np
from fastapi import Request
from pydantic import BeforeValidator, Field, FiniteFloat, ValidationError

from service.decide import Threshold, abstained, resolve_threshold
from service.decoding import Source
from service.errors import InvalidId, InvalidOption, ItemTooLarge, Malformed, Problem, TooManyImages
from service.fields import Fields
from service.gallery.base import Item, NoRoom
from service.gallery.filters import flatten
from service.generation import Services
from service.intake import Submission, answer_in_time, describe_errors, parse_json_field, parse_options
from service.pipeline import Embedded, Outcome
from service.vectors import unit_vector

MAX_ID_BYTES: Final = 512
MAX_ITEMS: Final = 10_000
MANY: Final = 16  # items from which making them leaves the event loop
JsonObject = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]


class StoreOptions(Fields):
    """Which images not to store."""

    max_uncertainty: float | None = Field(
        default=None, allow_inf_nan=False, description="Refuse items above this raw uncertainty (422 `abstained`)."
    )
    max_percentile: float | None = Field(
        default=None, ge=0, le=1, description="Refuse items above this percentile; excludes max_uncertainty."
    )


class ItemContent(Fields):
    """What an item is made of, beside its id."""

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


def read_put(item_id: str, submission: Submission) -> tuple[NewItem, Threshold]:
    """One item in any form, and the threshold above which it is not to be stored.

    Raises:
        Malformed, InvalidOption: where it is not exactly an image, or a vector with its uncertainty.
    """
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


def read_many(submission: Submission) -> tuple[list[NewItem | Unreadable], Threshold]:
    """Many items as JSON or a form, each by itself, and the threshold above which none is to be stored.

    Raises:
        Malformed, InvalidOption: where the request as a whole cannot be read.
    """
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
        return _check_content(NewItem(check_id(name), data, ItemContent(payload=payload)))
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


def check_counts(entries: Sequence[NewItem | Unreadable], limit: int) -> None:
    """Return if there are items, and at most `limit` images among them.

    Raises:
        Malformed: for none; TooManyImages: for too many.
    """
    if not entries:
        raise Malformed("the request has no items")
    images = sum(isinstance(entry, NewItem) and entry.image is not None for entry in entries)
    if images > limit:
        raise TooManyImages(f"{images} images, and the limit is {limit} per request")
    if len(entries) > MAX_ITEMS:
        raise TooManyImages(f"{len(entries)} items, and the limit is {MAX_ITEMS} per request")


async def to_items(
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
    item = Item(new.id, embedding, uncertainty, new.content.payload)
    try:
        services.gallery.check(item)
    except NoRoom as error:
        return ItemTooLarge(str(error))
    return item

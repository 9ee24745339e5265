"""`POST /retrieve`: the nearest items of the gallery, or an abstention with its reasons."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat

from service.decide import NO_THRESHOLD, Threshold, default_threshold, raw_bound, resolve_threshold
from service.decoding import Source
from service.errors import InvalidOption, Malformed, Problem, UnknownId
from service.gallery.base import Found, Item, Match, Removed
from service.gallery.filters import parse_filter, passes
from service.intake import Submission, answer_in_time, deadline_after, parse_json_field, parse_options, read_submission
from service.lifecycle import Services, services_of
from service.openapi import IMAGE, READING, body, errors, options_as_query, properties
from service.pipeline import Timing, timing_ms
from service.schemas import RetrieveAnswer
from service.vectors import unit_vector

MAX_LIMIT: Final = 1000
QUERIES: Final = ("image", "vector", "id")
NO_TIMING: Final = Timing(0.0, 0.0, 0.0)

router = APIRouter(tags=["retrieve"])


class RetrieveOptions(BaseModel):
    """What `/retrieve` may be asked beside the query."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(default=10, ge=1, le=MAX_LIMIT, description="Most matches to return.")
    score_threshold: float | None = Field(
        default=None, ge=-1, le=1, description="Least cosine similarity of a match; below it nothing is close."
    )
    filter: Annotated[dict[str, Any] | None, BeforeValidator(lambda value: parse_json_field("filter", value))] = Field(
        default=None,
        description="Conditions on the payload that must all hold, as a JSON object: "
        '`{"field": value}`, `{"field": {"any": [...]}}`, `{"field": {"gte": 1, "lt": 5}}`, dotted paths.',
    )
    max_query_uncertainty: float | None = Field(
        default=None, allow_inf_nan=False, description="Abstain if the query's raw uncertainty is above this."
    )
    max_query_percentile: float | None = Field(
        default=None, ge=0, le=1, description="Abstain if the query's percentile of uncertainty is above this."
    )
    max_result_uncertainty: float | None = Field(
        default=None, allow_inf_nan=False, description="Leave out items whose raw uncertainty is above this."
    )
    max_result_percentile: float | None = Field(
        default=None, ge=0, le=1, description="Leave out items whose percentile of uncertainty is above this."
    )


class RetrieveFields(RetrieveOptions):
    """The options, and the query of a JSON body or a form."""

    image: str | None = Field(default=None, description="The query image, in base64 or as a data URI.")
    vector: list[FiniteFloat] | str | None = Field(
        default=None,
        description="A query embedding: D numbers, or base64 of D little-endian float32; any length but 0.",
    )
    id: str | None = Field(default=None, description="An item of the gallery, which is then not among the matches.")


@dataclass(frozen=True)
class Query:
    """What is searched for: a unit (D,) vector, its uncertainty where known, and the item it is, if it is one."""

    vector: NDArray[np.float32]
    uncertainty: float | None = None
    percentile: float | None = None
    item: Item | None = None
    timing: Timing = NO_TIMING


@dataclass(frozen=True)
class Answer:
    """The query and what was found; None where the query was too uncertain to search with."""

    query: Query
    found: Found | None
    search_s: float


@router.post(
    "/retrieve",
    responses={
        200: {"model": RetrieveAnswer, "description": "Matches, or an abstention."},
        **errors(*READING, 404, 422),
    },
    openapi_extra={
        "parameters": options_as_query(RetrieveOptions),
        "requestBody": body(
            {**properties(RetrieveFields), "image": IMAGE},
            properties(RetrieveFields),
            {"id": "a", "limit": 5, "score_threshold": 0.5, "filter": {"camera": {"any": ["north", "east"]}}},
        ),
    },
)
async def retrieve(request: Request) -> Response:
    """Find the items nearest to an image, a vector or an item.

    The query is a raw image body, a multipart `image`, or JSON with exactly one of `image`, `vector` and `id`. Options
    are query parameters, or fields of the form or the JSON object; a `filter` in a query or form is JSON text.

    Abstaining is an answer, with status 200: `decision` is `abstain` and `reasons` says why. `uncertain_query`: the
    query is above its threshold (the request's, else the server's), and nothing was searched. `no_close_match`: no
    item is left. A vector has no uncertainty: its `query` is null, and no threshold on the query can hold.
    """
    services = services_of(request)
    submission = await read_submission(request, services.settings, services.pipeline.admission, optional_body=True)
    fields, image = _read_query(submission)
    thresholds = _resolve(fields, services)
    deadline = deadline_after(services.settings.request_timeout_s)
    answer = await answer_in_time(request, _answer(fields, image, thresholds, services), deadline)
    return Response(_as_json(answer, thresholds, services), media_type="application/json")


@dataclass(frozen=True)
class Thresholds:
    """The bounds on uncertainty of the query and of the items."""

    query: Threshold
    result: Threshold


def _read_query(submission: Submission) -> tuple[RetrieveFields, Source | None]:
    """The options, and the image where the query is one; exactly one query is given."""
    image: Source | None = submission.image or None
    for file in submission.files:
        if file.name != "image" or image is not None:
            raise InvalidOption("a form takes one file, in the field `image`")
        image = file.data
    fields = parse_options(RetrieveFields, submission.fields)
    given = [name for name in QUERIES if getattr(fields, name) is not None]
    if len(given) + (image is not None) != 1:
        raise Malformed("give exactly one query: an image, a vector or an id")
    return fields, fields.image if image is None else image


def _resolve(fields: RetrieveFields, services: Services) -> Thresholds:
    """The thresholds that hold; the server's default is for queries only."""
    default = default_threshold(services.settings) if fields.vector is None else NO_THRESHOLD
    query = resolve_threshold(fields.max_query_uncertainty, fields.max_query_percentile, default, prefix="max_query_")
    if fields.vector is not None and query.source == "request":
        raise InvalidOption(
            "a vector has no uncertainty, so max_query_uncertainty and max_query_percentile cannot hold"
        )
    result = resolve_threshold(fields.max_result_uncertainty, fields.max_result_percentile, prefix="max_result_")
    return Thresholds(query, result)


async def _answer(fields: RetrieveFields, image: Source | None, thresholds: Thresholds, services: Services) -> Answer:
    query = await _query(fields, image, services)
    if _too_uncertain(query, thresholds.query):
        return Answer(query, None, 0.0)
    started = time.perf_counter()
    found = await _search(query, fields, raw_bound(thresholds.result, services.bundle), services)
    return Answer(query, found, time.perf_counter() - started)


async def _query(fields: RetrieveFields, image: Source | None, services: Services) -> Query:
    if image is not None:
        outcome = (await services.pipeline.embed([image]))[0]
        if isinstance(outcome, Problem):
            raise outcome
        scores = outcome.scores
        return Query(scores.embedding, scores.uncertainty, scores.percentile, timing=outcome.timing)
    if fields.vector is not None:
        return Query(unit_vector(fields.vector, services.bundle.manifest.dimension))
    item = await services.gallery.get(fields.id or "")
    if item is None:
        raise UnknownId(f"the gallery has no item {fields.id!r}")
    percentile = float(services.bundle.uncertainty_percentile(np.asarray([item.uncertainty]))[0])
    return Query(item.embedding, item.uncertainty, percentile, item)


def _too_uncertain(query: Query, threshold: Threshold) -> bool:
    if query.uncertainty is None or query.percentile is None:
        return False
    return threshold.exceeded(query.uncertainty, query.percentile)


async def _search(query: Query, fields: RetrieveFields, max_uncertainty: float | None, services: Services) -> Found:
    found = await services.gallery.search(
        query.vector,
        fields.limit + (query.item is not None),
        where=fields.filter,
        max_uncertainty=max_uncertainty,
        min_score=fields.score_threshold,
    )
    if query.item is None:
        return found
    return _without(query.item, found, fields, max_uncertainty)


def _without(item: Item, found: Found, fields: RetrieveFields, max_uncertainty: float | None) -> Found:
    """What one more than `limit` items gave, less the query item itself, in the matches and in the counts."""
    matches = [match for match in found.matches if match.id != item.id]
    removed = asdict(found.removed)
    if len(matches) == len(found.matches):
        if fields.filter is not None and not passes(parse_filter(fields.filter), item.payload):
            removed["by_filter"] = max(0, removed["by_filter"] - 1)
        elif max_uncertainty is not None and item.uncertainty > max_uncertainty:
            removed["by_uncertainty"] = max(0, removed["by_uncertainty"] - 1)
    return Found(matches[: fields.limit], Removed(**removed))


def _as_json(answer: Answer, thresholds: Thresholds, services: Services) -> bytes:
    query, found = answer.query, answer.found or Found([], Removed())
    reasons = _reasons(answer)
    for reason in reasons:
        services.metrics.abstentions.labels(reason).inc()
    content = {
        "decision": "abstain" if reasons else "match",
        "reasons": reasons,
        "query": {"uncertainty": query.uncertainty, "percentile": query.percentile},
        "threshold": {"query": thresholds.query.as_dict(), "result": thresholds.result.as_dict()},
        "matches": _matches(found.matches, services),
        "removed": asdict(found.removed),
        "p_correct": None,
        "guarantee": {"status": "none"},
        "timing_ms": {**timing_ms([query.timing]), "search": round(1000 * answer.search_s, 3)},
    }
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _reasons(answer: Answer) -> list[str]:
    if answer.found is None:
        return ["uncertain_query"]
    return [] if answer.found.matches else ["no_close_match"]


def _matches(matches: list[Match], services: Services) -> list[Mapping[str, Any]]:
    percentiles = services.bundle.uncertainty_percentile(np.asarray([match.uncertainty for match in matches]))
    return [
        {
            "id": match.id,
            "score": match.score,
            "uncertainty": match.uncertainty,
            "percentile": percentile,
            "payload": match.payload,
        }
        for match, percentile in zip(matches, percentiles.tolist(), strict=True)
    ]

"""`POST /retrieve`: the nearest items of the gallery, or an abstention with its reasons."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, FiniteFloat

from service.decide import NO_THRESHOLD, Threshold, default_threshold, raw_bound, resolve_threshold
from service.decoding import Source
from service.errors import InvalidOption, Malformed, Problem, UnknownId
from service.evidence import DEPTH, evidence_of
from service.fields import Fields
from service.gallery.base import Found, Item, Match, Removed
from service.gallery.filters import parse_filter, passes
from service.generation import Services
from service.intake import Submission, answer_in_time, deadline_after, parse_json_field, parse_options, read_submission
from service.lifecycle import services_of
from service.openapi import IMAGE, READING, body, errors, options_as_query, properties
from service.pipeline import Timing, timing_ms
from service.policies.following import Asked, Followed, follow, remember, resolve
from service.schemas import RetrieveAnswer
from service.stages import note_stage
from service.vectors import unit_vector

MAX_LIMIT: Final = 1000
DEFAULT_LIMIT: Final = 10
QUERIES: Final = ("image", "vector", "id")
CONDITIONS: Final = (
    "score_threshold",
    "filter",
    "max_query_uncertainty",
    "max_query_percentile",
    "max_result_uncertainty",
    "max_result_percentile",
)
BY_POLICY: Final = Threshold(source="policy")
NO_TIMING: Final = Timing(0.0, 0.0, 0.0)

router = APIRouter(tags=["retrieve"])


class RetrieveOptions(Fields):
    """What `/retrieve` may be asked beside the query."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] | None = Field(
        default=None, description="Most matches to return: 10 if unset, or as many as a policy's promise is about."
    )
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
    policy: str | None = Field(
        default=None, description="Accept the best match or abstain by this certified policy; excludes all conditions."
    )
    alpha: float | None = Field(default=None, gt=0, lt=1, description="Of the policy: the tolerated share of errors.")
    delta: float | None = Field(default=None, gt=0, lt=1, description="Of the policy: how often it may fail.")
    k: Annotated[int, Field(ge=1, le=MAX_LIMIT)] | Literal["adaptive"] | None = Field(
        default=None, description="Of the policy: how many matches its promise is about, or `adaptive`."
    )
    evidence: bool = Field(
        default=False, description="Also tell what the best match can be judged by; excludes conditions on items."
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
    novelty: float | None = None
    item: Item | None = None
    timing: Timing = NO_TIMING


@dataclass(frozen=True)
class Answer:
    """The query and what was found; None where the query was too uncertain to search with.

    `evidence` is there where it was asked for and something was found, `followed` where a policy was asked for.
    """

    query: Query
    found: Found | None
    search_s: float
    evidence: Mapping[str, float] | None = None
    followed: Followed | None = None


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

    With `policy`, the best match is accepted, or not, by a score whose threshold was certified: `guarantee` says what
    is promised of accepted matches and whether it still holds, `p_correct` how probably this one is right, and
    `reasons` what speaks most against it. Matches are told all the same. The server's own threshold does not hold then.
    """
    services = services_of(request)
    services.require_gallery()
    submission = await read_submission(request, services.settings, services.pipeline.admission, optional_body=True)
    fields, image = _read_query(submission)
    thresholds = _resolve(fields, services)
    asked = _asked(fields, services)
    deadline = deadline_after(services.settings.request_timeout_s)
    answer = await answer_in_time(request, _answer(fields, image, thresholds, asked, services), deadline)
    if answer.followed is not None:
        remember(answer.followed, request.scope["state"]["request_id"], services.policies)
    started = time.perf_counter()
    content = _as_json(answer, thresholds, services)
    note_stage("encode", started, time.perf_counter(), bytes=len(content))
    return Response(content, media_type="application/json")


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


def _asked(fields: RetrieveFields, services: Services) -> Asked | None:
    """The policy to follow, and its target."""
    given = [name for name in CONDITIONS if getattr(fields, name) is not None]
    if fields.policy is None:
        if not (fields.alpha is fields.delta is fields.k is None):
            raise InvalidOption("alpha, delta and k are of a policy: name it")
        on_items = [name for name in given if not name.startswith("max_query_")]
        if fields.evidence and on_items:
            raise InvalidOption(f"evidence is of the whole gallery: leave out {', '.join(on_items)}")
        return None
    if given:
        raise InvalidOption(f"a policy was certified without conditions: leave out {', '.join(given)}")
    asked = resolve(services.policies.get(fields.policy), fields.alpha, fields.delta, fields.k)
    if asked.target.k != 1 and fields.limit is not None:
        raise InvalidOption("the policy says how many matches there are: leave out limit")
    return asked


def _resolve(fields: RetrieveFields, services: Services) -> Thresholds:
    """The thresholds that hold; the server's default is for queries only, and not for those that ask for a policy."""
    if fields.policy is not None:
        return Thresholds(BY_POLICY, NO_THRESHOLD)
    default = default_threshold(services.settings) if fields.vector is None else NO_THRESHOLD
    query = resolve_threshold(fields.max_query_uncertainty, fields.max_query_percentile, default, prefix="max_query_")
    if fields.vector is not None and query.source == "request":
        raise InvalidOption(
            "a vector has no uncertainty, so max_query_uncertainty and max_query_percentile cannot hold"
        )
    result = resolve_threshold(fields.max_result_uncertainty, fields.max_result_percentile, prefix="max_result_")
    return Thresholds(query, result)


async def _answer(
    fields: RetrieveFields, image: Source | None, thresholds: Thresholds, asked: Asked | None, services: Services
) -> Answer:
    query = await _query(fields, image, services)
    if _too_uncertain(query, thresholds.query):
        return Answer(query, None, 0.0)
    started = time.perf_counter()
    looking = asked is not None or fields.evidence
    promised = asked.matches_for(query.uncertainty) if asked else None
    limit = fields.limit or (promised if asked and asked.target.k != 1 else None) or DEFAULT_LIMIT
    depth = max(limit, DEPTH) if looking else limit
    found = await _search(query, fields, depth, raw_bound(thresholds.result, services.bundle), services)
    search_s = time.perf_counter() - started
    note_stage("search", started, started + search_s)
    if not looking:
        return Answer(query, found, search_s)
    grouping = asked.policy.grouping if asked else services.grouping
    evidence = evidence_of(found.matches, grouping, uncertainty=query.uncertainty, novelty=query.novelty)
    followed = None
    if asked:
        followed = follow(asked, promised, services.policies.standing(asked.policy.name), evidence)
    shown = Found(found.matches[:limit], found.removed)
    return Answer(query, shown, search_s, evidence, followed)


async def _query(fields: RetrieveFields, image: Source | None, services: Services) -> Query:
    if image is not None:
        outcome = (await services.pipeline.embed([image]))[0]
        if isinstance(outcome, Problem):
            raise outcome
        scores = outcome.scores
        return Query(scores.embedding, scores.uncertainty, scores.percentile, scores.novelty, timing=outcome.timing)
    if fields.vector is not None:
        return Query(unit_vector(fields.vector, services.bundle.manifest.dimension))
    item = await services.gallery.get(fields.id or "")
    if item is None:
        raise UnknownId(f"the gallery has no item {fields.id!r}")
    percentile = float(services.bundle.uncertainty_percentile(np.asarray([item.uncertainty]))[0])
    return Query(item.embedding, item.uncertainty, percentile, item=item)


def _too_uncertain(query: Query, threshold: Threshold) -> bool:
    if query.uncertainty is None or query.percentile is None:
        return False
    return threshold.exceeded(query.uncertainty, query.percentile)


async def _search(
    query: Query, fields: RetrieveFields, depth: int, max_uncertainty: float | None, services: Services
) -> Found:
    found = await services.gallery.search(
        query.vector,
        depth + (query.item is not None),
        where=fields.filter,
        max_uncertainty=max_uncertainty,
        min_score=fields.score_threshold,
    )
    if query.item is None:
        return found
    return _without(query.item, found, fields, depth, max_uncertainty)


def _without(item: Item, found: Found, fields: RetrieveFields, depth: int, max_uncertainty: float | None) -> Found:
    """What one more than `depth` items gave, less the query item itself, in the matches and in the counts."""
    matches = [match for match in found.matches if match.id != item.id]
    removed = asdict(found.removed)
    if len(matches) == len(found.matches):
        if fields.filter is not None and not passes(parse_filter(fields.filter), item.payload):
            removed["by_filter"] = max(0, removed["by_filter"] - 1)
        elif max_uncertainty is not None and item.uncertainty > max_uncertainty:
            removed["by_uncertainty"] = max(0, removed["by_uncertainty"] - 1)
    return Found(matches[:depth], Removed(**removed))


def _as_json(answer: Answer, thresholds: Thresholds, services: Services) -> bytes:
    query, found, followed = answer.query, answer.found or Found([], Removed()), answer.followed
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
        "p_correct": followed.judgement.p_correct if followed and followed.judgement else None,
        "guarantee": followed.guarantee if followed else {"status": "none"},
        "evidence": answer.evidence,
        "timing_ms": {**timing_ms([query.timing]), "search": round(1000 * answer.search_s, 3)},
    }
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _reasons(answer: Answer) -> list[str]:
    if answer.found is None:
        return ["uncertain_query"]
    if answer.followed is not None:
        return [] if answer.followed.accepted else [answer.followed.reason]
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

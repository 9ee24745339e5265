"""Policies: make one from labelled queries, look at them, delete them; and say whether an answer was right."""

import asyncio
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import Field, FiniteFloat, field_validator, model_validator

from service.errors import InvalidOption, NotFound, Problem
from service.evidence import Grouping
from service.fields import Fields
from service.generation import Services
from service.intake import parse_options, read_json
from service.lifecycle import services_of
from service.openapi import errors, inlined
from service.policies.describe import as_dict
from service.policies.making import PolicyError, make_policy
from service.policies.policy import Policy
from service.policies.promise import Labelled, Target
from service.policies.store import Answer, OtherVerdict, PolicyStoreError, UnknownAnswer
from service.schemas import Deleted, FeedbackAnswer, PoliciesBody, PolicyBody
from uncertainty.confidence import INPUTS

NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
MAX_TARGETS: Final = 8
MAX_GROUP: Final = 512
MAX_RELEVANT: Final = 1000

router = APIRouter(tags=["policies"])


class NotCertifiable(Problem):
    """Labelled queries of which no policy can be made."""

    status = 422
    type = "not_certifiable"
    title = "No policy can be made of these queries"


class NotKept(Problem):
    """The file of policies cannot be used."""

    type = "policy_not_kept"
    title = "The policy could not be kept"


class UnknownRequest(NotFound):
    """Feedback on an answer that was not given under a policy, or too long ago."""

    type = "unknown_request"
    title = "There is no such answer"


class AlreadyJudged(Problem):
    """Feedback that contradicts what was said of the same answer before."""

    status = 409
    type = "already_judged"
    title = "The answer was judged before"


class TargetFields(Fields):
    """At most a share `alpha` of accepted matches is wrong; the promise fails with probability `delta` at most."""

    alpha: float = Field(gt=0, lt=1)
    delta: float = Field(gt=0, lt=1)
    k: Annotated[int, Field(ge=1, le=MAX_RELEVANT)] | Literal["adaptive"] = Field(
        default=1,
        description="1: of accepted best matches at most a share alpha is wrong. More: the mean of 1 - precision@k "
        "over accepted queries is at most alpha. `adaptive`: as many matches as hold a relevant one with probability "
        "1 - alpha, in each fifth of the queries by uncertainty.",
    )


class LabelledFields(Fields):
    """A query that was searched with, as `/retrieve` told its evidence, and whether its best match was right."""

    evidence: dict[str, FiniteFloat] = Field(description=f"Any of {', '.join(INPUTS)}.")
    correct: bool | None = Field(
        default=None, description="Whether the best match is right: false also where the gallery holds none."
    )
    relevant: Annotated[list[bool], Field(min_length=1, max_length=MAX_RELEVANT)] | None = Field(
        default=None, description="In its place, for targets of more matches: whether each is right, best first."
    )
    group: str | None = Field(default=None, max_length=MAX_GROUP, description="Equal for near-duplicate queries.")

    @field_validator("evidence")
    @classmethod
    def _known(cls, value: dict[str, float]) -> dict[str, float]:
        if unknown := sorted(set(value) - set(INPUTS)):
            raise ValueError(f"there is no input {', '.join(unknown)}; there are {', '.join(INPUTS)}")
        return value

    @model_validator(mode="after")
    def _labelled(self) -> "LabelledFields":
        if (self.correct is None) == (self.relevant is None):
            raise ValueError("give exactly one of correct and relevant")
        return self


class NewPolicy(Fields):
    """What a policy is made of."""

    name: str = Field(description="1 to 64 letters, digits, dots, dashes or underscores.")
    targets: list[TargetFields] = Field(min_length=1, max_length=MAX_TARGETS)
    development: list[LabelledFields] = Field(description="The score is fitted on these.")
    certification: list[LabelledFields] = Field(description="Thresholds are certified on these: other queries.")

    @field_validator("name")
    @classmethod
    def _nameable(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("must be 1 to 64 letters, digits, dots, dashes or underscores")
        return value

    @model_validator(mode="after")
    def _disjoint(self) -> "NewPolicy":
        shared = _groups(self.development) & _groups(self.certification)
        if shared:
            raise ValueError(f"group {min(shared)!r} is in both splits: near-duplicates belong in one")
        return self


class Feedback(Fields):
    """Whether an answer given under a policy was right."""

    request_id: str = Field(description="That of the answer: its X-Request-ID header.")
    correct: bool | None = Field(
        default=None, description="Whether its best match was right; of k adaptive, whether any of its matches was."
    )
    relevant: Annotated[list[bool], Field(min_length=1, max_length=MAX_RELEVANT)] | None = Field(
        default=None, description="In its place, and needed for k above 1: whether each match was right, best first."
    )

    @model_validator(mode="after")
    def _judged(self) -> "Feedback":
        if (self.correct is None) == (self.relevant is None):
            raise ValueError("give exactly one of correct and relevant")
        return self


@router.post(
    "/policies",
    status_code=201,
    responses={
        201: {"model": PolicyBody, "description": "Made and kept."},
        **errors(400, 401, 408, 413, 415, 422, 503),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": inlined(NewPolicy)}},
        }
    },
)
async def make(request: Request) -> Response:
    """Make a policy of labelled queries, in place of the one of that name if there is one.

    The score is fitted on `development`, and for every target the largest threshold on it is certified on
    `certification`. A target for which none can be had is kept too, with how many labels would be needed: it cannot be
    asked for. The promise is for queries drawn as these were, against the gallery as it is now.
    """
    services = services_of(request)
    fields = parse_options(NewPolicy, await read_json(request, services.settings, services.pipeline.admission))
    settings = services.settings
    gallery = await services.policies.look_at_gallery()
    try:
        policy = await asyncio.to_thread(
            make_policy,
            fields.name,
            [Target(each.alpha, each.delta, each.k) for each in fields.targets],
            [_labelled(each) for each in fields.development],
            [_labelled(each) for each in fields.certification],
            bundle_hash=services.bundle.hash,
            grouping=Grouping(settings.label_field, settings.group_field),
            gallery=gallery,
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
        )
    except PolicyError as error:
        raise NotCertifiable(str(error)) from error
    try:
        await services.policies.put(policy)
    except PolicyStoreError as error:
        raise NotKept(str(error)) from error
    return _json(_described(policy, services), 201)


@router.get("/policies", responses={200: {"model": PoliciesBody}, **errors(401, 503)})
async def list_all(request: Request) -> Response:
    """Every policy, and whether it still holds."""
    services = services_of(request)
    return _json({"policies": [_described(policy, services) for policy in services.policies.all()]})


@router.get("/policies/{name}", responses={200: {"model": PolicyBody}, **errors(401, 404, 503)})
async def look(request: Request, name: str) -> Response:
    """One policy: what it promises, how good it was, whether it still holds, and what speaks against it."""
    services = services_of(request)
    return _json(_described(services.policies.get(name), services))


@router.delete("/policies/{name}", responses={200: {"model": Deleted}, **errors(401, 404, 503)})
async def delete(request: Request, name: str) -> Response:
    """Delete a policy, with its audits."""
    await services_of(request).policies.delete(name)
    return _json({"deleted": 1})


@router.post(
    "/feedback",
    responses={200: {"model": FeedbackAnswer}, **errors(400, 401, 404, 408, 409, 413, 415, 503)},
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": Feedback.model_json_schema(),
                    "example": {"request_id": "3f2a...", "correct": True},
                }
            },
        }
    },
)
async def feedback(request: Request) -> Response:
    """Say whether an answer given under a policy was right: the evidence that its promise holds, or no longer does.

    Judge a random sample of the accepted answers, not those that somebody complained of. Abstentions are noted and
    prove nothing. Answers can be judged for 30 days.
    """
    services = services_of(request)
    fields = parse_options(Feedback, await read_json(request, services.settings, services.pipeline.admission))
    try:
        loss = _loss(await services.policies.answer(fields.request_id), fields)
        answer, audited = await services.policies.judge_answer(fields.request_id, loss)
    except UnknownAnswer as error:
        raise UnknownRequest(
            f"no answer under a policy has the request id {fields.request_id!r}, or it is too long ago"
        ) from error
    except OtherVerdict as error:
        raise AlreadyJudged(f"the answer to {fields.request_id!r} was judged otherwise before") from error
    services.metrics.feedback.labels(answer.policy, str(loss == 0.0).lower()).inc()
    alarm = audited is not None and audited.alarmed_at is not None
    return _json(
        {
            "policy": answer.policy,
            "counted": answer.accepted and audited is not None,
            "audits": audited.audit.count if audited else 0,
            "loss": audited.audit.loss if audited else 0.0,
            "alarm": alarm,
        }
    )


def _loss(answer: Answer, fields: Feedback) -> float:
    """How wrong an answer was, as its promise counts it."""
    try:
        return answer.target.loss([bool(fields.correct)] if fields.relevant is None else fields.relevant)
    except ValueError as error:
        raise InvalidOption(f"relevant: {error}") from error


def _groups(queries: Sequence[LabelledFields]) -> set[str]:
    return {query.group for query in queries if query.group is not None}


def _labelled(fields: LabelledFields) -> Labelled:
    relevant = (bool(fields.correct),) if fields.relevant is None else tuple(fields.relevant)
    return Labelled(fields.evidence, relevant, fields.group)


def _described(policy: Policy, services: Services) -> dict[str, Any]:
    desk = services.policies
    return as_dict(policy, desk.standing(policy.name), desk.audits(policy.name), desk.watched(policy.name))


def _json(content: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(content), status_code=status, media_type="application/json")

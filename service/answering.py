"""From a request's images to its answers: embedded in time, judged by the threshold; alike in every protocol."""

from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
from fastapi import Request
from numpy.typing import NDArray
from pydantic import Field

from service.decide import Threshold, abstained, default_threshold, resolve_threshold
from service.decoding import Decoded, Source
from service.errors import ImageAtFault, Malformed, Problem, TooManyImages
from service.fields import Fields
from service.intake import answer_in_time, deadline_after
from service.lifecycle import Services
from service.pipeline import Embedded, Outcome
from service.settings import Settings
from service.vectors import Encoding, encode_embedding

NOT_IMAGES: Final = ("malformed_request", "unsupported_format")


class AbstainOptions(Fields):
    """When an image is too uncertain, and what becomes of it then."""

    max_uncertainty: float | None = Field(
        default=None, allow_inf_nan=False, description="Abstain above this raw uncertainty."
    )
    max_percentile: float | None = Field(
        default=None, ge=0, le=1, description="Abstain above this percentile of uncertainty; excludes max_uncertainty."
    )
    on_abstain: Literal["flag", "omit", "error"] = Field(
        default="flag",
        description="`flag`: the embedding is there, `abstained` is true; `omit`: the embedding is null; "
        "`error`: the image fails with the error `abstained`.",
    )

    def threshold(self, settings: Settings) -> Threshold:
        """The bound that holds: the request's, else the operator's."""
        return resolve_threshold(self.max_uncertainty, self.max_percentile, default_threshold(settings))


def check_count(images: int, settings: Settings) -> None:
    """Return if there are images, and no more than a request may hold.

    Raises:
        Malformed: for none; TooManyImages: beyond the limit.
    """
    if not images:
        raise Malformed("the request has no images")
    if images > settings.max_images_per_request:
        raise TooManyImages(f"{images} images, and the limit is {settings.max_images_per_request} per request")


async def answer_images(
    request: Request,
    images: Sequence[Source | Decoded],
    threshold: Threshold,
    options: AbstainOptions,
    services: Services,
) -> list[Outcome]:
    """Embed images within the deadline; one that abstains is counted, and an error with `on_abstain=error`."""
    deadline = deadline_after(services.settings.request_timeout_s)
    outcomes = await answer_in_time(request, services.pipeline.embed(images), deadline)
    return [_judge(outcome, threshold, options, services) for outcome in outcomes]


def _judge(outcome: Outcome, threshold: Threshold, options: AbstainOptions, services: Services) -> Outcome:
    if isinstance(outcome, Problem) or not abstains(outcome, threshold):
        return outcome
    services.metrics.abstentions.labels("uncertain_image").inc()
    if options.on_abstain != "error":
        return outcome
    return abstained(outcome.scores.uncertainty, outcome.scores.percentile, threshold)


def abstains(embedded: Embedded, threshold: Threshold) -> bool:
    """Whether an image is too uncertain."""
    return threshold.exceeded(embedded.scores.uncertainty, embedded.scores.percentile)


def all_or_fail(outcomes: Sequence[Outcome], name: str) -> list[Embedded]:
    """Every image's scores, for a protocol that has no errors of single images.

    Raises:
        ImageAtFault: that of the first image that failed; `name` is where the request has its images.
    """
    embedded = []
    for index, outcome in enumerate(outcomes):
        if isinstance(outcome, Problem):
            hint = "; it takes images alone, as base64 or data URIs" if outcome.type in NOT_IMAGES else ""
            raise ImageAtFault(outcome, f"{name}[{index}]", hint)
        embedded.append(outcome)
    return embedded


def as_members(embedded: Embedded, threshold: Threshold, options: AbstainOptions, encoding: Encoding) -> dict[str, Any]:
    """An image's embedding and how sure it is, as the members of a JSON object for orjson."""
    scores, abstained = embedded.scores, abstains(embedded, threshold)
    omit = abstained and options.on_abstain == "omit"
    return {
        "embedding": None if omit else encode_embedding(scores.embedding, encoding),
        "uncertainty": scores.uncertainty,
        "percentile": scores.percentile,
        "novelty": scores.novelty,
        "novelty_percentile": scores.novelty_percentile,
        "abstained": abstained,
    }


def as_rows(embedded: Sequence[Embedded], threshold: Threshold, options: AbstainOptions) -> NDArray[np.float32]:
    """(B, D) little-endian embeddings; those omitted are NaN."""
    rows = np.stack([each.scores.embedding for each in embedded])
    if options.on_abstain == "omit":
        rows[[abstains(each, threshold) for each in embedded]] = np.nan
    return rows.astype("<f4", copy=False)

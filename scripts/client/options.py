"""What may be asked beside the images: docs/http.md and `/docs` of a server say what each means."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict


class StoreOptions(TypedDict, total=False):
    """Of items to store: one above either is refused with `abstained`."""

    max_uncertainty: float | None
    max_percentile: float | None


class EmbedOptions(StoreOptions, total=False):
    """Of images to embed: what is too uncertain, and whether it is then flagged, has no embedding, or is an error."""

    on_abstain: Literal["flag", "omit", "error"]


class RetrieveOptions(TypedDict, total=False):
    """Of a query: conditions on it and on its matches, or a certified policy in their place."""

    limit: int | None
    score_threshold: float | None
    filter: Mapping[str, Any] | None
    max_query_uncertainty: float | None
    max_query_percentile: float | None
    max_result_uncertainty: float | None
    max_result_percentile: float | None
    policy: str | None
    alpha: float | None
    delta: float | None
    k: int | Literal["adaptive"] | None
    evidence: bool


@dataclass(frozen=True)
class Target:
    """A promise to be made: at most a share `alpha` of accepted matches is wrong, but with probability `delta`."""

    alpha: float
    delta: float
    k: int | Literal["adaptive"] = 1


@dataclass(frozen=True)
class Labelled:
    """A query's `Retrieval.evidence`, and either whether its best match was right, or which of its matches were."""

    evidence: Mapping[str, float]
    correct: bool | None = None
    relevant: Sequence[bool] | None = None
    group: str | None = None

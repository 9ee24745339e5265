"""What a server says, as types."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainValidator


def vector_of(value: str | None) -> NDArray[np.float32] | None:
    """Base64 of D little-endian float32 -> (D,)."""
    return None if value is None else np.frombuffer(base64.b64decode(value), dtype="<f4").astype(np.float32)


Vector = Annotated[NDArray[np.float32] | None, PlainValidator(vector_of)]


@dataclass(frozen=True, eq=False)
class Embedded:
    """An image's embedding (D,) of unit length and how sure it is; `embedding` is None where it was to be omitted.

    `uncertainty` is raw; `percentile` and `novelty_percentile` are shares of the bundle's reference set, 0 to 1.
    """

    embedding: Vector
    uncertainty: float
    percentile: float
    novelty: float
    novelty_percentile: float
    abstained: bool
    bundle: str
    bundle_hash: str


@dataclass(frozen=True)
class Threshold:
    """The bound on uncertainty that held, raw or as a percentile, and where it came from."""

    uncertainty: float | None
    percentile: float | None
    source: str


@dataclass(frozen=True)
class Thresholds:
    """The bounds that held for the query and for the items."""

    query: Threshold
    result: Threshold


@dataclass(frozen=True)
class Query:
    """How sure candor is of the query; None for a vector, which says nothing of its image."""

    uncertainty: float | None
    percentile: float | None


@dataclass(frozen=True)
class Match:
    """An item near the query; `score` is the cosine similarity."""

    id: str
    score: float
    uncertainty: float
    percentile: float
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Removed:
    """How many of the nearest items each condition took out."""

    by_filter: int
    by_uncertainty: int
    by_score: int


@dataclass(frozen=True)
class Guarantee:
    """What is certified about accepted matches: at most a share `alpha` is wrong, but with probability `delta`."""

    status: Literal["none", "valid", "stale", "alarm"]
    policy: str | None = None
    kind: str | None = None
    k: int | None = None
    alpha: float | None = None
    delta: float | None = None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Retrieval:
    """The nearest items, best first, or an abstention and its reasons; `request_id` is what feedback refers to."""

    decision: Literal["match", "abstain"]
    reasons: tuple[str, ...]
    query: Query
    matches: tuple[Match, ...]
    removed: Removed
    threshold: Thresholds
    p_correct: float | None
    guarantee: Guarantee
    evidence: Mapping[str, float] | None
    timing_ms: Mapping[str, float]
    request_id: str


@dataclass(frozen=True)
class Stored:
    """An item that is now on disk."""

    id: str
    uncertainty: float
    percentile: float


@dataclass(frozen=True, eq=False)
class Item:
    """An item of the gallery; its embedding (D,) is None in a listing."""

    id: str
    uncertainty: float
    percentile: float
    payload: Mapping[str, Any]
    embedding: Vector = None


@dataclass(frozen=True)
class GalleryInfo:
    """A gallery: its size, how many items pass the filter that was asked for, whose embeddings it holds, and where."""

    count: int
    passing: int
    bundle: str
    bundle_hash: str
    dimension: int
    engine: str


@dataclass(frozen=True)
class Page:
    """Some items of a gallery, and how many there are."""

    passing: int
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Certificate:
    """The threshold on the score that keeps a promise, None where it could not be certified.

    `coverage` is the share of the certification queries that it accepts, `accepted`, their losses sum to `loss`.
    """

    threshold: float | None
    coverage: float
    labels: int
    accepted: int
    loss: float
    labels_needed: int | None


@dataclass(frozen=True)
class Certified:
    """A promise and what keeps it: a certificate, or for `adaptive` k the sizes of sets; and its audits."""

    alpha: float
    delta: float
    k: int | Literal["adaptive"]
    feasible: bool
    certificate: Certificate | None
    sets: tuple[Mapping[str, Any], ...] | None
    audits: Mapping[str, Any]


@dataclass(frozen=True)
class Policy:
    """A certified policy and whether it still holds."""

    name: str
    created: str
    status: Literal["valid", "stale", "alarm"]
    status_reasons: tuple[str, ...]
    bundle_hash: str
    gallery: Mapping[str, Any]
    inputs: tuple[str, ...]
    label_field: str | None
    group_field: str | None
    targets: tuple[Certified, ...]
    quality: Mapping[str, Any]
    drift: Mapping[str, Any]


@dataclass(frozen=True)
class Feedback:
    """What a judged answer came to: `audits` of that target so far, the sum of their losses, and whether they alarm."""

    policy: str
    counted: bool
    audits: int
    loss: float
    alarm: bool


@dataclass(frozen=True)
class Model:
    """A served bundle, the device it runs on, and the limits that hold."""

    bundle: str
    bundle_hash: str
    backbone: str
    dimension: int
    preprocessing: Mapping[str, Any]
    reference: Mapping[str, Any]
    training: Mapping[str, Any]
    metrics: Mapping[str, Any]
    device: str
    threads: int
    lanes: int
    max_batch: int
    threshold: Threshold
    limits: Mapping[str, float]
    version: str


@dataclass(frozen=True)
class Models:
    """Every bundle that is served; requests that name none go to the one of the name `default`."""

    default: str
    models: tuple[Model, ...] = field(default_factory=tuple)

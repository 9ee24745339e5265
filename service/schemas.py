"""The JSON of answers, for the documentation and for tests; endpoints write the same shapes without validating them."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """An object of an answer, whose members are all known."""

    model_config = ConfigDict(extra="forbid")


class ProblemBody(BaseModel):
    """RFC 9457 `application/problem+json`; further members depend on the type."""

    type: str = Field(description="What went wrong, stable across versions.", examples=["image_too_large"])
    title: str
    status: int = Field(examples=[413])
    detail: str = Field(description="What went wrong this time, and what to do.")
    request_id: str | None = Field(default=None, description="Absent in the error of one image among many.")


class ThresholdBody(Answer):
    """The bound on uncertainty that held, and where it came from; at most one of the two is not null."""

    uncertainty: float | None = Field(description="Raw uncertainty above which candor abstains.")
    percentile: float | None = Field(description="Percentile above which candor abstains, 0 to 1.")
    source: Literal["request", "settings", "policy", "none"]


class TimingBody(Answer):
    """Milliseconds per stage, of the slowest image where there are several."""

    decode: float
    queue: float
    inference: float


class EmbedResult(Answer):
    """One image's embedding and how sure it is."""

    status: Literal["ok"]
    embedding: list[float] | str | None = Field(
        description="D numbers of unit L2 norm; base64 of D little-endian float32 with `encoding=base64`; "
        "null when abstained with `on_abstain=omit`."
    )
    uncertainty: float = Field(description="Raw; higher is less sure.")
    percentile: float = Field(description="Share of the reference set that is less uncertain, 0 to 1.")
    novelty: float = Field(description="Distance from the training images; higher is more unusual.")
    novelty_percentile: float = Field(description="Share of the reference set that is less novel, 0 to 1.")
    abstained: bool = Field(description="Whether the uncertainty is above the threshold.")


class FailedResult(Answer):
    """One image that failed alone."""

    status: Literal["error"]
    error: ProblemBody


class EmbedAnswer(Answer):
    """One result per image, in the order they were sent."""

    bundle: str
    bundle_hash: str
    threshold: ThresholdBody
    results: list[EmbedResult | FailedResult]
    timing_ms: TimingBody


class QueryBody(Answer):
    """How sure candor is of the query; null for a vector, which says nothing of its image."""

    uncertainty: float | None
    percentile: float | None


class MatchBody(Answer):
    """An item near the query."""

    id: str
    score: float = Field(description="Cosine similarity.")
    uncertainty: float
    percentile: float
    payload: dict[str, Any]


class RemovedBody(Answer):
    """How many of the `limit` nearest items each condition took out; each counts once, under the first it failed."""

    by_filter: int
    by_uncertainty: int
    by_score: int


class GuaranteeBody(Answer):
    """What is certified about accepted matches; `none`, and nothing else, without a policy."""

    status: Literal["none", "valid", "stale", "alarm"]
    policy: str | None = None
    kind: Literal["best_match", "precision", "set"] | None = Field(
        default=None,
        description="What alpha is about: wrong best matches, 1 - precision@k, or sets without a right one.",
    )
    k: int | None = Field(default=None, description="How many matches it is about; null where no number would do.")
    alpha: float | None = Field(default=None, description="At most this share of accepted matches is wrong ...")
    delta: float | None = Field(default=None, description="... but for a certification that failed, with this chance.")
    reasons: list[str] = Field(default=[], description="What speaks against the promise, where it is not valid.")


class RetrieveThresholds(Answer):
    """The bounds on uncertainty that held for the query and for the items."""

    query: ThresholdBody
    result: ThresholdBody


class RetrieveTiming(TimingBody):
    """Milliseconds per stage."""

    search: float


class RetrieveAnswer(Answer):
    """The nearest items, or none and the reasons why."""

    decision: Literal["match", "abstain"]
    reasons: list[Literal["uncertain_query", "no_close_match", "ambiguous_match", "novel_query", "uncertain_match"]]
    query: QueryBody
    threshold: RetrieveThresholds
    matches: list[MatchBody]
    removed: RemovedBody
    p_correct: float | None = Field(description="Probability that the best match is right; null without a policy.")
    guarantee: GuaranteeBody
    evidence: dict[str, float] | None = Field(
        description="What the best match can be judged by; null where neither `evidence` nor a policy was asked for."
    )
    timing_ms: RetrieveTiming


class AuditsBody(Answer):
    """What feedback says of a promise: alarmed once either statistic is above what a healthy run reaches."""

    count: int
    loss: float = Field(description="Wrong ones among them; for k above 1 their sum of 1 - precision@k.")
    e_value: float
    shiryaev_roberts: float
    alarmed_at: float | None = Field(description="Seconds of the epoch.")


class CertificateBody(Answer):
    """The threshold on the score that keeps a promise; none where it could not be certified."""

    threshold: float | None
    coverage: float = Field(description="Share of the certification queries that is accepted.")
    labels: int = Field(description="Certification queries, one of each group.")
    accepted: int
    loss: float = Field(description="Wrong ones of those accepted; for k above 1 their sum of 1 - precision@k.")
    labels_needed: int | None = Field(description="Where it is not feasible: about how many labels it would take.")


class SetBody(Answer):
    """How many matches hold a relevant one, for queries of an uncertainty above an edge."""

    above: float | None
    k: int | None = Field(description="Null where no number that was labelled would do.")


class CertifiedBody(Answer):
    """A promise, and what keeps it."""

    alpha: float
    delta: float
    k: int | Literal["adaptive"]
    feasible: bool
    certificate: CertificateBody | None
    sets: list[SetBody] | None = Field(description="Where k is adaptive, from the surest queries to the least sure.")
    audits: AuditsBody


class ReliabilityBody(Answer):
    """Queries of like probability: what was predicted, what came out, and how many they are."""

    predicted: float
    observed: float
    queries: int


class SelectiveRiskBody(Answer):
    """What thresholds on one score come to: accepting up to each, the share accepted, and the share of those wrong."""

    threshold: list[float]
    coverage: list[float]
    risk: list[float]


class QualityBody(Answer):
    """How good the score was on the certification queries."""

    queries: int
    base_risk: float = Field(description="Share of wrong best matches among all.")
    r_auroc: dict[str, float] | None = Field(description="Of the score and of each input by itself.")
    ece: float = Field(description="Expected calibration error of `p_correct`.")
    reliability: list[ReliabilityBody]
    selective_risk: dict[str, SelectiveRiskBody] = Field(
        description="By the score, and by the query's uncertainty alone; empty of a policy made by an older version."
    )


class DriftBody(Answer):
    """One input of the queries asked since, in windows, against the certification queries."""

    looks: int
    psi: float | None = Field(description="Population stability index of the last window.")
    limit: float | None = Field(description="What chance alone would exceed too rarely to matter.")
    alarmed_at: float | None = Field(description="Seconds of the epoch.")


class PolicyGalleryBody(Answer):
    """The gallery that a policy was certified against."""

    items: int
    hash: str


class PolicyBody(Answer):
    """A certified policy and whether it still holds."""

    name: str
    created: str
    status: Literal["valid", "stale", "alarm"]
    status_reasons: list[str]
    bundle_hash: str
    gallery: PolicyGalleryBody
    inputs: list[str] = Field(description="What the score is made of.")
    label_field: str | None
    group_field: str | None
    targets: list[CertifiedBody]
    quality: QualityBody
    drift: dict[str, DriftBody]


class PoliciesBody(Answer):
    """Every policy."""

    policies: list[PolicyBody]


class FeedbackAnswer(Answer):
    """What a judged answer came to."""

    policy: str
    counted: bool = Field(description="False for an abstention, or where the policy is gone.")
    audits: int = Field(description="Judged answers of this target so far.")
    loss: float
    alarm: bool


class StoredBody(Answer):
    """An item that is now on disk."""

    status: Literal["ok"] = "ok"
    id: str
    uncertainty: float
    percentile: float


class RefusedBody(Answer):
    """An item that was not stored."""

    status: Literal["error"]
    id: str
    error: ProblemBody


class StoredMany(Answer):
    """One result per item, in the order they were sent."""

    stored: int
    failed: int
    results: list[StoredBody | RefusedBody]


class ItemBody(Answer):
    """An item of the gallery."""

    id: str
    uncertainty: float
    percentile: float
    payload: dict[str, Any]


class ItemWithEmbedding(ItemBody):
    """An item of the gallery and its embedding, as a list or base64."""

    embedding: list[float] | str


class GalleryPage(Answer):
    """The gallery, and one page of its items from the least to the most uncertain."""

    count: int = Field(description="Items in the gallery.")
    passing: int = Field(description="Items that pass the filter.")
    bundle: str
    bundle_hash: str
    dimension: int
    engine: str
    offset: int
    limit: int
    items: list[ItemBody]


class Deleted(Answer):
    """How many items were deleted."""

    deleted: int


class ReferenceBody(Answer):
    """The reference set, and evenly spaced quantiles of each score over it, which percentiles are read from."""

    dataset: str
    count: int
    uncertainty: list[float]
    novelty: list[float]


class HubBody(Answer):
    """Where on the hub a bundle comes from."""

    repository: str
    revision: str = Field(description="The branch, tag or commit that was asked for.")
    commit: str


class ModelBody(Answer):
    """What is served, and within which limits."""

    bundle: str
    bundle_hash: str
    hub: HubBody | None = Field(description="Null for a bundle of a folder.")
    gallery: bool = Field(description="Whether it is served with a gallery.")
    backbone: str
    dimension: int
    preprocessing: dict[str, Any]
    reference: ReferenceBody
    training: dict[str, Any]
    metrics: dict[str, Any]
    device: str
    threads: int
    lanes: int
    max_batch: int
    threshold: ThresholdBody
    limits: dict[str, int | float]
    version: str


class ModelsBody(Answer):
    """Every bundle that is served, the default one first."""

    default: str
    models: list[ModelBody]


class ChangedBundle(Answer):
    """A bundle that a reload changed: its hash before and after, null where it was or is not served."""

    bundle: str
    before: str | None
    after: str | None


class ReloadAnswer(Answer):
    """What came of a reload."""

    status: Literal["reloaded", "asked"] = Field(description="`asked`: of several workers, each by itself.")
    changed: list[ChangedBundle] | None = Field(description="Null where only asked.")


class HealthBody(Answer):
    """A probe's answer."""

    status: Literal["ok", "loading", "ready"]

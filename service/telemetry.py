"""What the server says about itself: Prometheus metrics in a registry of its own, and one log line per request.

Several workers share their metrics through files in `WORKERS_FOLDER`, as prometheus_client does where that variable is
set before its import; whichever of them is asked then answers for all.
"""

import logging
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TextIO

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from service.settings import LogFormat, Settings

LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BATCH_BUCKETS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64, 128)
PERCENTILE_BUCKETS: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
WORKERS_FOLDER: Final = "PROMETHEUS_MULTIPROC_DIR"
STAGES: Final = ("decode", "queue", "inference", "encode")
OF_SERVED: Final = frozenset({"candor_model_info", "candor_bundle_loaded_timestamp_seconds", "candor_tuning"})

Logger = structlog.typing.FilteringBoundLogger


class _Of:
    """A metric whose first label is a bundle's name, with that one given."""

    def __init__(self, metric: Counter | Gauge | Histogram, bundle: str) -> None:
        self._metric = metric
        self._bundle = bundle

    def labels(self, *values: object) -> Any:
        """The series of the labels after the first."""
        return self._metric.labels(self._bundle, *values)


@dataclass(frozen=True)
class BundleMetrics:
    """Those of one bundle; each fits the call that the whole metric would take without its label `bundle`."""

    stage_seconds: _Of
    batch_size: Histogram
    queue: Gauge
    images: _Of
    abstentions: _Of
    uncertainty_percentile: Histogram
    novelty_percentile: Histogram
    gallery_items: Gauge
    policy_status: _Of
    feedback: _Of
    tuning: _Of
    loaded: Gauge
    model_info: _Of


@dataclass(frozen=True)
class Metrics:
    """Every `candor_*` metric; made once per app."""

    registry: CollectorRegistry
    requests: Counter
    request_seconds: Histogram
    in_flight: Gauge
    ready: Gauge
    reloads: Counter
    stage_seconds: Histogram
    batch_size: Histogram
    queue: Gauge
    queue_limit: Gauge
    images: Counter
    abstentions: Counter
    uncertainty_percentile: Histogram
    novelty_percentile: Histogram
    gallery_items: Gauge
    policy_status: Gauge
    feedback: Counter
    tuning: Gauge
    loaded: Gauge
    model_info: Gauge

    def of(self, bundle: str) -> BundleMetrics:
        """The metrics of one bundle, those of a fixed number of series at zero."""
        own = BundleMetrics(
            stage_seconds=_Of(self.stage_seconds, bundle),
            batch_size=self.batch_size.labels(bundle),
            queue=self.queue.labels(bundle),
            images=_Of(self.images, bundle),
            abstentions=_Of(self.abstentions, bundle),
            uncertainty_percentile=self.uncertainty_percentile.labels(bundle),
            novelty_percentile=self.novelty_percentile.labels(bundle),
            gallery_items=self.gallery_items.labels(bundle),
            policy_status=_Of(self.policy_status, bundle),
            feedback=_Of(self.feedback, bundle),
            tuning=_Of(self.tuning, bundle),
            loaded=self.loaded.labels(bundle),
            model_info=_Of(self.model_info, bundle),
        )
        for stage in STAGES:
            own.stage_seconds.labels(stage)
        return own

    def render(self) -> bytes:
        """The text that Prometheus reads: of all workers together where there are several."""
        folder = os.environ.get(WORKERS_FOLDER)
        if folder is None:
            return generate_latest(_Served(self.registry))
        together = CollectorRegistry()
        MultiProcessCollector(together, folder)  # type: ignore[no-untyped-call]
        together.register(_WorkerProcesses(Path(folder)))
        return generate_latest(_Served(together))


class _Served(CollectorRegistry):
    """Another registry, less what it says of bundles that are served no more: series of several workers stay."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._whole = registry

    def collect(self) -> Iterable[Metric]:
        """Every metric; of those that tell what is served, only series that are not zero."""
        for metric in self._whole.collect():
            if metric.name in OF_SERVED:
                metric.samples = [sample for sample in metric.samples if sample.value]
            yield metric


class _WorkerProcesses(Collector):
    """CPU, memory and files of each live worker, told apart by `pid`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterable[Metric]:
        together: dict[str, Metric] = {}
        for pid in sorted(path.stem.rpartition("_")[2] for path in self._folder.glob("gauge_livesum_*.db")):
            for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                family = together.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                for sample in metric.samples:
                    family.add_sample(sample.name, {"pid": pid}, sample.value)
        return together.values()


def make_metrics() -> Metrics:
    """All metrics, in a new registry, with those of the process (CPU, memory, files) beside them."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return Metrics(
        registry=registry,
        requests=Counter("candor_requests", "Requests answered.", ["method", "route", "status"], registry=registry),
        request_seconds=Histogram(
            "candor_request_seconds",
            "Seconds from a request's first byte to its answer's last.",
            ["method", "route"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        ),
        in_flight=_gauge("candor_requests_in_flight", "Requests not yet answered.", "livesum", registry),
        ready=_gauge("candor_ready", "1 while every worker takes requests.", "livemin", registry),
        reloads=Counter("candor_reloads", "Reloads by outcome, ok or failed.", ["outcome"], registry=registry),
        stage_seconds=Histogram(
            "candor_stage_seconds",
            "Seconds per image in decode, queue and inference, and per answer in encode.",
            ["bundle", "stage"],
            buckets=LATENCY_BUCKETS,
            registry=registry,
        ),
        batch_size=Histogram(
            "candor_batch_size", "Images per inference.", ["bundle"], buckets=BATCH_BUCKETS, registry=registry
        ),
        queue=_gauge("candor_queue_images", "Images accepted and not yet answered.", "livesum", registry, ["bundle"]),
        queue_limit=_gauge(
            "candor_queue_limit_images", "Images that may be so before requests are answered 429.", "livesum", registry
        ),
        images=Counter(
            "candor_images",
            "Images by outcome: ok, or the type of the error.",
            ["bundle", "outcome"],
            registry=registry,
        ),
        abstentions=Counter("candor_abstentions", "Abstentions by reason.", ["bundle", "reason"], registry=registry),
        uncertainty_percentile=Histogram(
            "candor_uncertainty_percentile",
            "Percentile of uncertainty of each image, in the bundle's reference set.",
            ["bundle"],
            buckets=PERCENTILE_BUCKETS,
            registry=registry,
        ),
        novelty_percentile=Histogram(
            "candor_novelty_percentile",
            "Percentile of novelty of each image, in the bundle's reference set.",
            ["bundle"],
            buckets=PERCENTILE_BUCKETS,
            registry=registry,
        ),
        gallery_items=_gauge("candor_gallery_items", "Items in the gallery.", "livemostrecent", registry, ["bundle"]),
        policy_status=_gauge(
            "candor_policy_status",
            "1 for what each policy is: valid, stale or alarm.",
            "livemostrecent",
            registry,
            ["bundle", "policy", "status"],
        ),
        feedback=Counter(
            "candor_feedback",
            "Answers under a policy that were judged.",
            ["bundle", "policy", "correct"],
            registry=registry,
        ),
        tuning=_gauge(
            "candor_tuning",
            "Threads of one inference, lanes of them, images in one; of one worker.",
            "livemax",
            registry,
            ["bundle", "what"],
        ),
        loaded=_gauge(
            "candor_bundle_loaded_timestamp_seconds",
            "When what is served was loaded, in seconds of the epoch; the latest of the workers.",
            "livemax",
            registry,
            ["bundle"],
        ),
        model_info=_gauge(
            "candor_model_info",
            "1, labelled with what is served.",
            "livemax",
            registry,
            ["bundle", "hash", "backbone", "device"],
        ),
    )


def _gauge(
    name: str,
    documentation: str,
    of_workers: Literal["livesum", "livemin", "livemax", "livemostrecent"],
    registry: CollectorRegistry,
    labels: Sequence[str] = (),
) -> Gauge:
    """A gauge, and how the workers' values make one."""
    return Gauge(name, documentation, labels, registry=registry, multiprocess_mode=of_workers)


def make_logger(settings: Settings, stream: TextIO) -> Logger:
    """A logger that writes one line per event to `stream`."""
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    logger: Logger = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *_renderers(settings.log_format, stream),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    return logger


def _renderers(log_format: LogFormat, stream: TextIO) -> list[Any]:
    console = log_format is LogFormat.CONSOLE or (log_format is LogFormat.AUTO and stream.isatty())
    if console:
        return [structlog.dev.ConsoleRenderer(colors=stream.isatty())]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_dumps)]


def _dumps(event: dict[str, Any], **_: Any) -> str:
    return orjson.dumps(event, default=str).decode()


class ForwardToLogger(logging.Handler):
    """Writes what libraries log through the standard module as lines of ours."""

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """One record, one line; its own level and its traceback kept."""
        exc_info = record.exc_info if record.exc_info and record.exc_info[0] else None
        extra = {"exc_info": exc_info} if exc_info else {}
        self._logger.log(record.levelno, record.getMessage(), logger=record.name, **extra)


def capture_library_logs(logger: Logger) -> None:
    """Send warnings and worse of every library through our logger; called by `main` only."""
    logging.basicConfig(handlers=[ForwardToLogger(logger)], level=logging.WARNING, force=True)


def stderr_logger(settings: Settings) -> Logger:
    """The server's logger."""
    return make_logger(settings, sys.stderr)

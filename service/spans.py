"""OpenTelemetry traces: a span for each request, and below it one for each of its stages (extra `otel`).

Spans are made once a request is answered, from what was noted meanwhile. Where they go, which are kept and what the
service is called is said by the `OTEL_*` variables that OpenTelemetry's own SDK reads.
"""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id, set_span_in_context

from service.openapi import package_version
from service.stages import Answered, Stage

CLOSE_S: Final = 5.0  # for the last spans to be sent; a collector that does not answer must not hold the server up


class Spans:
    """Sends spans, from a thread of its own."""

    def __init__(self) -> None:
        service = Resource.create({"service.name": "candor", "service.version": package_version()})
        named = service.merge(Resource({"process.pid": os.getpid()})).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=named, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("candor", package_version())

    def record(self, answered: Answered, headers: Mapping[bytes, bytes]) -> str:
        """Make the spans of a request, below the span that its `traceparent` names; the id of their trace."""
        clock = time.time_ns() - time.perf_counter_ns()
        carrier = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers.items()}
        span = self._tracer.start_span(
            answered.name,
            context=propagate.extract(carrier),
            kind=SpanKind.SERVER,
            attributes=dict(answered.attributes),
            start_time=_ns(answered.started, clock),
        )
        if answered.error is not None:
            span.set_attribute("error.type", answered.error)
        if answered.failed:
            span.set_status(StatusCode.ERROR)
        if span.is_recording():
            self._add(span, answered.stages, clock)
        span.end(_ns(answered.ended, clock))
        return format_trace_id(span.get_span_context().trace_id)

    def _add(self, span: Span, stages: Sequence[Stage], clock: int) -> None:
        context = set_span_in_context(span)
        for stage in stages:
            attributes = {f"candor.{name}": value for name, value in stage.attributes.items()}
            child = self._tracer.start_span(
                stage.name, context=context, attributes=attributes, start_time=_ns(stage.started, clock)
            )
            child.end(_ns(stage.ended, clock))

    def close(self) -> None:
        """Send what is left, for `CLOSE_S` at most."""
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_S)


def _ns(seconds: float, clock: int) -> int:
    """Nanoseconds of the epoch."""
    return int(seconds * 1e9) + clock

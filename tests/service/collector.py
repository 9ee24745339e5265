"""A stand-in for an OpenTelemetry collector: takes what a server sends over OTLP/HTTP, and keeps its spans."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.service.process import PATIENCE_S

Value = str | int


class Collector:
    """The spans that came in, and what is said of the service they are from."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: list[dict[str, Value]] = []
        self.paths: set[str] = set()
        self.url = ""
        self._news = threading.Condition()

    def take(self, body: bytes) -> None:
        request = ExportTraceServiceRequest.FromString(body)
        with self._news:
            for group in request.resource_spans:
                self.resources.append(attributes(group.resource))
                self.spans += [span for scope in group.scope_spans for span in scope.spans]
            self._news.notify_all()

    def wait_for(self, condition: Callable[[list[Span]], bool]) -> list[Span]:
        """All spans, once the condition holds of them."""
        with self._news:
            assert self._news.wait_for(lambda: condition(self.spans), PATIENCE_S), self.spans
            return list(self.spans)


def attributes(of: Any) -> dict[str, Value]:
    """The attributes of a span or a resource."""
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in of.attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.paths.add(self.path)
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/traces":
                collector.take(body)
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()

"""Traces: a span per request and per stage of it, sent to a collector by a real server."""

import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from service.main import main
from service.settings import Settings
from service.tracing import wants_tracing
from tests.service.callers import bearing, give_key
from tests.service.collector import Collector, attributes, collecting
from tests.service.images import png
from tests.service.process import REPOSITORY, ready_client, serving

PNG = {"content-type": "image/png"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"


def tracing_to(collector: Collector) -> dict[str, str]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}


def is_server(span: Span) -> bool:
    return bool(span.kind == Span.SPAN_KIND_SERVER)


def test_requests_and_their_stages_become_spans(bundle_path: Path, tmp_path: Path) -> None:
    key = give_key(tmp_path / "keys.txt", "search")
    headers = {**PNG, **bearing(key)}
    with (
        collecting() as collector,
        serving(
            bundle_path,
            tmp_path / "gallery",
            CANDOR_API_KEYS=str(tmp_path / "keys.txt"),
            OTEL_RESOURCE_ATTRIBUTES="deployment.environment.name=test",
            FASTAPI_OTEL_AUTO_CONFIGURE="true",  # whose spans hold paths and queries
            **tracing_to(collector),
        ) as server,
        ready_client(server) as client,
    ):
        before = time.time_ns()
        caller = {"traceparent": f"00-{TRACE}-{CALLER}-01", "x-request-id": "one"}
        embedded = client.post("/embed", content=png(1), headers={**headers, **caller})
        client.put("/gallery/person-7", content=png(1), headers=headers)
        found = client.post("/retrieve", content=png(1), headers={**headers, "x-request-id": "three"})
        client.post("/embed", files={"images": png(2)}, headers=bearing(key))
        client.get("/gallery/person-8", headers=bearing(key))
        client.get("/person-9", params={"filter": "person-10"}, headers=bearing(key))
        after = time.time_ns()
        spans = collector.wait_for(lambda spans: sum(map(is_server, spans)) >= 6)
        server.terminate()
        assert server.wait() == 0

    assert embedded.status_code == found.status_code == 200
    requests = {attributes(span)["candor.request_id"]: span for span in spans if is_server(span)}
    children = {span.span_id: [child for child in spans if child.parent_span_id == span.span_id] for span in spans}
    one, three = requests["one"], requests["three"]

    assert (one.name, one.trace_id.hex(), one.parent_span_id.hex()) == ("POST /embed", TRACE, CALLER)
    assert attributes(one) == {
        "http.request.method": "POST",
        "http.route": "/embed",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "candor.request_id": "one",
        "candor.key": "search",
        "candor.bundle": "tiny",
    }
    assert [span.name for span in children[one.span_id]] == ["read", "queue", "decode", "queue", "inference", "encode"]
    assert Counter(span.name for span in children[three.span_id]) == Counter(
        ["read", "queue", "decode", "queue", "inference", "search", "encode"]
    )
    assert three.parent_span_id == b""
    names = Counter(span.name for span in requests.values())
    assert names == {
        "POST /embed": 2,
        "PUT /gallery/{id:path}": 1,
        "POST /retrieve": 1,
        "GET /gallery/{id:path}": 1,
        "GET": 1,
    }

    read, *_, inference, encode = children[one.span_id]
    assert attributes(read)["candor.bytes"] == len(png(1))
    assert attributes(inference)["candor.batch_size"] == 1
    assert attributes(encode)["candor.bytes"] == len(embedded.content)
    told = embedded.json()["timing_ms"]
    for span in children[one.span_id]:
        assert span.trace_id == one.trace_id
        assert before <= one.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano <= span.end_time_unix_nano <= one.end_time_unix_nano <= after
        if span.name in ("decode", "inference"):
            assert (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6 == pytest.approx(
                told[span.name], abs=2e-3
            )

    assert all(resource["service.name"] == "candor" for resource in collector.resources)
    assert all(resource["deployment.environment.name"] == "test" for resource in collector.resources)
    assert collector.paths == {"/v1/traces"}
    assert "person" not in str(collector.spans)
    line = next(line for line in server.logged("request") if line["request_id"] == "one")
    assert line["trace_id"] == TRACE


def test_only_the_servers_own_failures_are_errors(bundle_path: Path, tmp_path: Path) -> None:
    with (
        collecting() as collector,
        serving(
            bundle_path, tmp_path / "gallery", CANDOR_REQUEST_TIMEOUT_S="0.000001", **tracing_to(collector)
        ) as server,
        ready_client(server) as client,
    ):
        assert client.post("/embed", content=b"nonsense", headers={"content-type": "text/plain"}).status_code == 415
        assert client.post("/embed", content=png(), headers=PNG).status_code == 504
        spans = collector.wait_for(lambda spans: sum(map(is_server, spans)) >= 2)

    refused, failed = (span for span in spans if is_server(span))
    assert (attributes(refused)["error.type"], refused.status.code) == (
        "unsupported_media_type",
        Status.STATUS_CODE_UNSET,
    )
    assert (attributes(failed)["error.type"], failed.status.code) == ("deadline_exceeded", Status.STATUS_CODE_ERROR)


def test_workers_trace_and_callers_decide_what_is_kept(bundle_path: Path, tmp_path: Path) -> None:
    with (
        collecting() as collector,
        serving(
            bundle_path,
            tmp_path / "gallery",
            "--workers",
            "2",
            OTEL_TRACES_SAMPLER="parentbased_always_off",
            OTEL_SERVICE_NAME="photos",
            **tracing_to(collector),
        ) as server,
        ready_client(server) as client,
    ):
        client.post("/embed", content=png(1), headers=PNG)
        kept = client.post("/embed", content=png(1), headers={**PNG, "traceparent": f"00-{TRACE}-{CALLER}-01"})
        client.post("/embed", content=png(1), headers={**PNG, "traceparent": f"00-{TRACE[::-1]}-{CALLER}-00"})
        spans = collector.wait_for(lambda spans: sum(map(is_server, spans)) >= 1)
        server.terminate()
        assert server.wait() == 0

    assert kept.status_code == 200
    assert {span.trace_id.hex() for span in (*spans, *collector.spans)} == {TRACE}
    assert {resource["service.name"] for resource in collector.resources} == {"photos"}


def test_a_collector_that_is_not_there_holds_nothing_up(bundle_path: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            serving(bundle_path, tmp_path / "gallery", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as server,
            ready_client(server) as client,
        ):
            assert client.post("/embed", content=png(), headers=PNG).status_code == 200
            server.terminate()
            assert server.wait() == 0


@pytest.mark.parametrize(
    ("setting", "environment", "wanted"),
    [
        (None, {}, False),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        (False, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        (True, {}, True),
    ],
)
def test_an_endpoint_or_the_setting_asks_for_traces(
    setting: bool | None, environment: dict[str, str], wanted: bool
) -> None:
    assert wants_tracing(Settings(tracing=setting), environment) == wanted


def test_traces_without_the_extra_stop_the_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "service.spans", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoOpenTelemetry(), *sys.meta_path])
    monkeypatch.setenv("CANDOR_TRACING", "true")

    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert "pip install 'candor[otel]'" in message
    assert "CANDOR_TRACING=false" in message


class NoOpenTelemetry:
    """Finds no OpenTelemetry, as where it is not installed."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_a_server_that_does_not_trace_has_no_tracing_in_its_memory() -> None:
    code = "import sys, service.app; print('service.spans' in sys.modules, 'opentelemetry.sdk' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)

    assert shown.stdout.split() == ["False", "False"]

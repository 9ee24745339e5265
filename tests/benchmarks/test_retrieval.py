import asyncio
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.cpu_time import Usage
from benchmarks.retrieval import filling
from benchmarks.retrieval.__main__ import _arguments, plan_of
from benchmarks.retrieval.beside import ITEMS_PER_WRITE, write_requests
from benchmarks.retrieval.bundle import make_bundle
from benchmarks.retrieval.client import ClientError, Until, closed_loop, paced, probe
from benchmarks.retrieval.corpus_files import Files, read_corpus, write_corpus
from benchmarks.retrieval.data import CONDITIONS, NO_CONDITION, Corpus, K
from benchmarks.retrieval.filling import fill_gallery
from benchmarks.retrieval.measure import folder_mib, latency_ms, medians, search_figures
from benchmarks.retrieval.overhead import differences, loads
from benchmarks.retrieval.parts import Parts, Plan
from benchmarks.retrieval.peers import measure_peer
from benchmarks.retrieval.plot import plot
from benchmarks.retrieval.report import as_markdown
from benchmarks.retrieval.wire import FOREIGN, get, post, retrieve_requests, row_of, rows_found, written
from service.gallery.checked import CheckedGallery
from service.gallery.lance.engine import LanceOptions, open_lance_engine
from service.routes.retrieve import RetrieveFields
from service.vectors import unit_vector

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"
DIMENSION = 8


@contextmanager
def answering(head: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """The URL of a server that answers with this head and the request's last four bytes, and what it was sent."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(body)
            self.wfile.write(head + body[-4:])

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = False
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", bodies
        server.shutdown()
        thread.join()


def requests_to(url: str, count: int) -> list[bytes]:
    return [post(url, "/any", f"{number:04}") for number in range(count)]


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, Corpus(2300, DIMENSION), 20)
    return folder


@pytest.fixture(scope="module")
def files(corpus_folder: Path) -> Files:
    return read_corpus(corpus_folder)


@pytest.mark.parametrize("concurrency", [1, 3])
def test_the_client_sends_every_request_in_turn_and_keeps_the_answer_of_each(concurrency: int) -> None:
    with answering(ANSWER) as (url, bodies):
        answers = closed_loop(url, requests_to(url, 5), concurrency, Until(0.2))

    assert answers.bodies == {number: f'{number:03}"'.encode() for number in range(5)}
    assert len(answers.latencies_s) == len(bodies) >= 5
    assert min(answers.latencies_s) > 0


def test_a_client_stops_where_the_file_to_stop_it_is_there(tmp_path: Path) -> None:
    (tmp_path / "stop").touch()

    with answering(ANSWER) as (url, _):
        assert len(closed_loop(url, requests_to(url, 3), 2, Until(3600.0, tmp_path / "stop")).latencies_s) == 2
        assert paced(url, requests_to(url, 3), 1e6, Until(3600.0, tmp_path / "stop")).latencies_s == []
        assert probe(url, requests_to(url, 1)[0], 100.0, Until(3600.0, tmp_path / "stop")).latencies_s == []


def test_the_paced_client_keeps_to_its_pace(tmp_path: Path) -> None:
    with answering(ANSWER) as (url, bodies):
        sent = paced(url, requests_to(url, 2), 50.0, Until(0.2))

    assert 1 <= len(sent.latencies_s) == len(bodies) <= 10
    assert sent.refused == {}
    assert bodies[:3] == [b'"0000"', b'"0001"', b'"0000"'][: len(bodies)]


def test_the_paced_client_counts_what_is_refused() -> None:
    with answering(b"HTTP/1.1 504 Late\r\nContent-Length: 4\r\n\r\n") as (url, bodies):
        sent = paced(url, requests_to(url, 1), 50.0, Until(0.05))

    assert sent.latencies_s == []
    assert sent.refused == {"504": len(bodies)}
    assert len(sent.refused_s) == len(bodies) >= 1


def test_a_probe_counts_the_ticks_that_pass_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(ANSWER) as (url, bodies):
        probes = probe(url, requests_to(url, 1)[0], 100_000.0, Until(0.05))

    asked = len(bodies) - 1  # the first warms up
    assert asked == len(probes.late_s)
    assert len(probes.latencies_s) > 2 * asked  # ticks of 10 us pass by the dozen


@pytest.mark.parametrize(
    "head",
    [b"HTTP/1.1 429 Too Many\r\nContent-Length: 4\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"],
)
def test_the_client_stops_at_any_other_answer(head: bytes) -> None:
    with answering(head) as (url, _), pytest.raises(ClientError, match="not an answer of"):
        closed_loop(url, requests_to(url, 1), 1, Until(3600.0))


@pytest.mark.parametrize("encoding", ["base64", "float"])
@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_requests_are_what_the_server_reads(files: Files, encoding: Any, condition: Any) -> None:
    request = retrieve_requests("http://127.0.0.1:9", files.queries, condition, encoding)[3]
    head, _, body = request.partition(b"\r\n\r\n")
    fields = RetrieveFields.model_validate(json.loads(body))

    assert head.startswith(b"POST /retrieve HTTP/1.1\r\nHost: 127.0.0.1:9\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert (fields.limit, fields.filter or {}) == (K, condition.where)
    assert fields.max_result_uncertainty == condition.max_uncertainty
    assert fields.vector is not None
    np.testing.assert_allclose(unit_vector(fields.vector, DIMENSION), files.queries[3], rtol=1e-6)


def test_numbers_are_written_as_float32_needs_them() -> None:
    assert written(np.array([0.1, -1.0], dtype=np.float32), "float") == [0.1, -1.0]


def test_rows_are_read_from_answers_and_strangers_told_apart() -> None:
    body = json.dumps({"matches": [{"id": "i00000012"}, {"id": "n3-12"}]}).encode()

    assert rows_found({4: body}) == {4: [12, FOREIGN]}
    assert row_of("i00000000") == 0
    assert get("http://127.0.0.1:9", "/healthz").endswith(b"\r\n\r\n")


def test_writes_leave_every_querys_neighbours_as_they_are(tmp_path: Path) -> None:
    write_corpus(tmp_path, Corpus(30_000, 128), 20)
    files = read_corpus(tmp_path)
    requests = write_requests("http://127.0.0.1:9", files, 5)
    items = [item for request in requests for item in json.loads(request.partition(b"\r\n\r\n")[2])["items"]]
    vectors = np.stack([unit_vector(item["vector"], 128) for item in items])
    old = np.array([row_of(item["id"]) for item in items])

    assert len(items) == 5 * ITEMS_PER_WRITE
    assert (old == FOREIGN).sum() == len(items) / 2
    known = old != FOREIGN
    np.testing.assert_allclose(vectors[known], files.vectors[old[known]], atol=1e-6)
    truth = files.truth[NO_CONDITION.name]
    worst = (files.queries * files.vectors[truth[:, -1]]).sum(axis=1)  # (q,), the score of the tenth neighbour
    assert ((files.queries @ vectors[~known].T).max(axis=1) < worst).all()


def test_the_bundle_is_the_same_each_time_and_of_the_dimension_asked_for(tmp_path: Path) -> None:
    first, second = make_bundle(tmp_path / "a", 24), make_bundle(tmp_path / "b", 24)

    assert first.manifest.dimension == 24
    assert first.hash == second.hash != make_bundle(tmp_path / "c", 25).hash


def test_a_killed_fill_goes_on_where_it_was(
    corpus_folder: Path, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def breaking(files: Files, start: int, stop: int) -> Any:
        made.append(start)
        if start == 2000 and made.count(2000) == 1:
            raise KeyboardInterrupt
        return make_items(files, start, stop)

    make_items = filling.make_items
    monkeypatch.setattr(filling, "make_items", breaking)
    monkeypatch.setattr(filling, "RECORD_EVERY", 1)
    with pytest.raises(KeyboardInterrupt):
        fill_gallery(corpus_folder, 2300, "sha256:x", tmp_path, keep_bare=True)

    done = fill_gallery(corpus_folder, 2300, "sha256:x", tmp_path, keep_bare=True)

    assert made == [0, 1000, 2000, 2000]
    assert (done.rows, done.indexed) == (2300, False)
    assert done.as_dict()["index_build_s"] is None
    assert done.disk_mib > 0
    assert (tmp_path / "bare").is_dir()
    assert fill_gallery(corpus_folder, 2300, "sha256:x", tmp_path, keep_bare=True) == done
    assert made == [0, 1000, 2000, 2000]
    assert asyncio.run(first_match(tmp_path / "indexed", files)) == files.truth["none"][0, 0]


async def first_match(folder: Path, files: Files) -> int:
    engine = await open_lance_engine(
        str(folder), dimension=DIMENSION, bundle_hash="sha256:x", options=LanceOptions(upkeep=filling.BY_HAND)
    )
    gallery = CheckedGallery(engine, DIMENSION)
    found = await gallery.search(files.queries[0], 1)
    await gallery.close()
    return row_of(found.matches[0].id)


def test_search_figures_are_per_query() -> None:
    truth = np.array([[0, 1], [2, 3]])

    figures = search_figures([0.001, 0.002, 0.003], Usage(2.0, (0.6, 9.0), 0.5), {0: [0, 1], 1: [2]}, truth)

    assert figures["queries"] == 3
    assert figures["queries_per_second"] == 1.5
    assert figures["latency_ms"]["p50"] == pytest.approx(2.0)
    assert figures["latency_ms"]["max"] == pytest.approx(3.0)
    assert figures["cpu_ms_per_query"] == pytest.approx(200.0)
    assert figures["other_cores"] == 0.25
    assert (figures["recall_at_10"], figures["queries_judged"], figures["short_answers"]) == (0.75, 2, 1)


def test_medians_go_through_nested_figures() -> None:
    rounds = [{"a": {"b": value}, "c": -value} for value in (1.0, 5.0, 2.0)]

    assert medians(rounds) == {"a": {"b": 2.0}, "c": -2.0}


def test_overhead_is_that_of_rounds_side_by_side() -> None:
    rounds = [
        {"http": {"latency_ms": {"p50": http}}, "gallery": {"latency_ms": {"p50": engine}}}
        for http, engine in [(5.0, 4.0), (9.0, 8.5), (4.0, 1.0)]
    ]

    assert differences(rounds, "gallery") == pytest.approx({"median": 1.0, "min": 0.5, "max": 3.0})


def test_a_folders_size_counts_files_below_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "file").write_bytes(bytes(2**19))
    (tmp_path / "file").write_bytes(bytes(2**19))

    assert folder_mib(tmp_path) == 1.0


def test_a_part_is_measured_once_per_plan(tmp_path: Path) -> None:
    calls: list[int] = []

    def measured() -> dict[str, int]:
        calls.append(1)
        return {"value": len(calls)}

    parts = Parts(tmp_path, Plan())
    assert parts.keep("a", measured)["value"] == 1
    assert Parts(tmp_path, Plan()).keep("a", measured)["value"] == 1
    assert not Parts(tmp_path, Plan(seconds=1.0)).has("a")
    parts.forget()
    assert parts.keep("a", measured)["value"] == 2


def test_a_part_that_fails_is_not_kept(tmp_path: Path) -> None:
    parts = Parts(tmp_path, Plan())

    with pytest.raises(ZeroDivisionError):
        parts.keep("a", lambda: {"value": 1 // 0})

    assert not parts.has("a")


def test_options_change_the_plan_and_nothing_else() -> None:
    assert plan_of(_arguments().parse_args([])) == Plan()
    plan = plan_of(_arguments().parse_args(["--smoke", "--rows=5000", "--rounds=7"]))
    assert (plan.rows, plan.rounds, plan.dimension) == (5000, 7, 64)


def test_a_peer_that_cannot_be_had_is_named_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.retrieval.peers.peer_environment", lambda: Path(sys.executable))

    result = measure_peer("unheard_of", tmp_path, 0.1, 1, tmp_path / "out.json")

    assert result["name"] == "unheard_of"
    assert "corpus.json" in result["unavailable"]


def searched(p50: float) -> dict[str, Any]:
    return {
        "latency_ms": latency_ms([p50 / 1000] * 3),
        "queries_per_second": 1000 / p50,
        "cpu_ms_per_query": p50,
        "recall_at_10": 0.9,
        "memory_mib": 77.0,
    }


def made_up_result() -> dict[str, Any]:
    plan = Plan()
    overhead = [
        {
            "condition": load.condition.name,
            "concurrency": load.concurrency,
            "encoding": load.encoding,
            "http": searched(4.5),
            "gallery": searched(4.0),
            "lancedb": searched(3.5),
            "overhead_ms": {"median": 0.5, "min": 0.25, "max": 0.75},
        }
        for load in loads(plan)
    ]
    phase: dict[str, Any] = {"search": searched(6.0), "probe": searched(7.0), "control": searched(8.0)}
    phase["unindexed_rows_at_end"] = 17
    writes = {"items_per_second": 123.0, "refused": {"504": 3}, **searched(9.0)}
    peer = {"name": "Peer", "version": "1", "conditions": {each.name: searched(0.5) for each in CONDITIONS}}
    facts = {"fill_rows_per_second": 11_111.0, "index_build_s": 78.0, "disk_mib": 269.0, "memory_mib": 1.0}
    size = {"dimension": 512, "server_memory_mib": 300.0, "concurrency": {"1": searched(5.0), "16": searched(50.0)}}
    return {
        "command": "python -m benchmarks.retrieval",
        "created": "2026-01-02T03:04:05+00:00",
        "machine": {"processor": "P", "usable_cores": 2},
        "versions": {"lancedb": "0.40.0"},
        "plan": {"rows": plan.rows, "dimension": plan.dimension, "rounds": 3, "seconds": 6.0},
        "overhead": overhead,
        "beside": {"quiet": phase, "writes": {**phase, "writes": writes}, "index_build": {**phase, "writes": writes}},
        "peers": [{**peer, **facts}, {"name": "absent", "unavailable": "no such thing"}],
        "growth": [{**size, **facts, "rows": rows, "index_build_s": None} for rows in (1000, plan.rows)],
    }


def test_the_tables_hold_the_figures_and_say_which_peer_is_missing() -> None:
    text = as_markdown(made_up_result())

    assert "| no filter | 16 | 4.50 / 4.50 / 4.50 | 4.00 / 4.00 | 3.50 / 3.50 | 0.50 (0.25 to 0.75) |" in text
    assert "| writes and upkeep beside | 6.00 / 6.00 / 6.00 | 0.900 | 7.00 / 7.00 | 8.00 / 8.00 | 123 | 9.00" in text
    assert "| 3 | 17 |" in text
    assert "| 1 % pass | 4.00 / 4.00, 0.900 | 0.50 / 0.50, 0.900 |" in text
    assert "| 100,000 | 512 | 5.00 / 5.00 | 50.00 / 50.00 | 20 | 0.900 | 11,111 |  | 269 | 300 |" in text
    assert "Not measured: absent, no such thing" in text


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    plot(made_up_result(), tmp_path / "made.png")

    assert (tmp_path / "made.png").read_bytes().startswith(b"\x89PNG")

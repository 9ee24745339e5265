"""`candor index`: a folder or a CSV of images into a real server's gallery."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Client

from models.errors import UserError
from scripts import index
from scripts.client import ApiError
from scripts.ingest.images import read_images, with_label
from scripts.ingest.journal import Journal, Sent
from tests.service import process
from tests.service.bundle_factory import make_bundle
from tests.service.callers import give_key
from tests.service.images import flat, png
from tests.service.process import PATIENCE_S, REPOSITORY, Server
from tests.service.test_process import wait_until

ODD = 'a "quoted" ü\u2028 name; x=1.png'
Serve = Callable[..., AbstractContextManager[Server]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Start servers with these settings, one gallery for all."""

    @contextmanager
    def serve(**settings: str) -> Iterator[Server]:
        bundle = tmp_path / "bundle"
        if not bundle.exists():
            make_bundle(bundle)
        with process.serving(bundle, tmp_path / "gallery", CANDOR_AUTOTUNE="false", **settings) as server:
            server.event("ready")
            yield server

    return serve


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Good images in three folders, two of them alike, a broken one, and a file that is none."""
    folder = tmp_path / "photos"
    (folder / "cat" / "deep").mkdir(parents=True)
    for number, name in enumerate(["one.png", "cat/two.PNG", "cat/deep/three.png", f"cat/{ODD}"]):
        (folder / name).write_bytes(png(number))
    (folder / "cat" / "copy.png").write_bytes(png(1))
    (folder / "cat" / "broken.png").write_bytes(png(9)[:60])
    (folder / "notes.txt").write_text("no image")
    return folder


def many(folder: Path, count: int) -> Path:
    """A folder of small images."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.png").write_bytes(png(number))
    return folder


def add(*arguments: object) -> int:
    """The exit code of `candor index`."""
    try:
        index.main([str(each) for each in arguments])
    except SystemExit as left:
        return int(str(left.code))
    return 0


def stored(server: Server) -> dict[str, dict[str, Any]]:
    """Payloads by id."""
    with Client(base_url=server.url, timeout=PATIENCE_S) as client:
        page = client.get("/gallery", params={"limit": 1000}).json()
    return {item["id"]: item["payload"] for item in page["items"]}


def refused(report: Path) -> dict[str, str]:
    """Type of error by id."""
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert all(line["path"] and line["detail"] for line in lines)
    return {line["id"]: line["type"] for line in lines}


def test_a_folder_is_stored_and_what_cannot_be_is_reported(
    serve: Serve, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve() as server:
        arguments = [photos, "--server", server.url, "--report", tmp_path / "refused.jsonl"]
        assert add(*arguments) == 1
        first = capsys.readouterr()
        items = stored(server)
        assert add(*arguments) == 1
        second = capsys.readouterr()
        (photos / "cat" / "broken.png").write_bytes(png(9))
        (photos / "one.png").write_bytes(png(10))
        os.utime(photos / "one.png", ns=(1, 1))
        assert add(*arguments) == 0
        third = capsys.readouterr()
        assert add(*arguments, "--label-field", "about.label") == 0
        relabelled = stored(server)

    assert items == {
        "one.png": {"path": "one.png"},
        "cat/two.PNG": {"path": "cat/two.PNG", "label": "cat"},
        "cat/copy.png": {"path": "cat/copy.png", "label": "cat"},
        "cat/deep/three.png": {"path": "cat/deep/three.png", "label": "deep"},
        f"cat/{ODD}": {"path": f"cat/{ODD}", "label": "cat"},
    }
    assert first.out == "stored 5, stored before 0, refused 1\n"
    assert second.out == "stored 0, stored before 5, refused 1\n"
    assert third.out == "stored 2, stored before 4, refused 0\n"
    assert "added 6 of 6 images" in first.err
    assert "refused.jsonl" in first.err
    assert relabelled["cat/two.PNG"] == {"path": "cat/two.PNG", "about": {"label": "cat"}}
    assert (tmp_path / "refused.jsonl").read_text() == ""


def test_what_is_refused_is_listed_with_its_reason(serve: Serve, photos: Path, tmp_path: Path) -> None:
    (photos / "flat.png").write_bytes(flat())
    (photos / "gone.png").symlink_to(photos / "nowhere.png")
    (photos / "long.png").write_bytes(png(3, (400, 400)) + b"\0" * 30_000)
    journal = tmp_path / "journal.jsonl"
    with serve(CANDOR_MAX_BODY_BYTES="40000", CANDOR_MAX_IMAGES_PER_REQUEST="2") as server:
        assert add(photos, "--server", server.url, "--max-percentile", 0.9, "--journal", journal) == 1
        items = stored(server)
    assert refused(tmp_path / "journal.refused.jsonl") == {
        "cat/broken.png": "undecodable_image",
        "flat.png": "abstained",
        "gone.png": "unreadable",
        "long.png": "body_too_large",
    }
    assert len(items) == 5
    assert {json.loads(line)["id"] for line in journal.read_text().splitlines()} == items.keys()


def test_a_csv_names_ids_labels_and_fields(serve: Serve, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "path,id,label,price,count,code,note,wide\n"
        "photos/one.png,first,dog,1.5,3,007,,-2e3\n"
        'photos/cat/two.PNG,,cat,,,,"a, b",1e999\n'
        "photos/nowhere.png,,,,,,,\n",
        encoding="utf-8-sig",
    )
    with serve() as server:
        assert add(tmp_path / "list.csv", "--server", server.url, "--report", tmp_path / "report") == 1
        items = stored(server)
    assert items == {
        "first": {"path": "photos/one.png", "price": 1.5, "count": 3, "code": "007", "wide": -2000.0, "label": "dog"},
        "photos/cat/two.PNG": {"path": "photos/cat/two.PNG", "note": "a, b", "wide": "1e999", "label": "cat"},
    }
    assert refused(tmp_path / "report") == {"photos/nowhere.png": "unreadable"}


def test_a_busy_server_is_waited_for(serve: Serve, tmp_path: Path) -> None:
    folder = many(tmp_path / "many", 200)
    with serve(CANDOR_QUEUE_IMAGES="4", CANDOR_MAX_IMAGES_PER_REQUEST="4") as server:
        assert add(folder, "--server", server.url, "--concurrency", 12, "--batch", 4) == 0
        items = stored(server)
        with Client(base_url=server.url, timeout=PATIENCE_S) as client:
            metrics = client.get("/metrics").text
    assert len(items) == 200
    assert any(line.startswith("candor_") and '"429"' in line for line in metrics.splitlines())


def test_a_server_that_stays_busy_is_given_up(serve: Serve, tmp_path: Path) -> None:
    folder = many(tmp_path / "many", 2)
    with serve() as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as unfinished:  # which is drained for
            unfinished.sendall(
                b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 9\r\n\r\nx"
            )
            with Client(base_url=server.url, timeout=PATIENCE_S) as client:  # which counts itself
                wait_until(lambda: "candor_requests_in_flight 2.0" in client.get("/metrics").text)
            server.terminate()
            with pytest.raises(ApiError, match="answered 503"):
                add(folder, "--server", server.url, "--patience", 0.1)


def test_a_server_that_refuses_is_quoted(serve: Serve, tmp_path: Path) -> None:
    folder = many(tmp_path / "many", 2)
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text(give_key(tmp_path / "keys.txt", scopes="retrieve,write") + "\n")
    wrong.write_text("another key\n")
    with serve(CANDOR_API_KEYS=str(tmp_path / "keys.txt")) as server:
        with pytest.raises(UserError, match="answered 401"):
            add(folder, "--server", server.url, "--api-key-file", wrong)
        with pytest.raises(UserError, match="max_percentile"):
            add(folder, "--server", server.url, "--api-key-file", right, "--max-percentile", 2)
        assert add(folder, "--server", server.url, "--api-key-file", right) == 0
    with pytest.raises(UserError, match="no answer from"):
        add(folder, "--server", "http://127.0.0.1:9")


def test_what_is_killed_goes_on_where_it_stopped(serve: Serve, tmp_path: Path) -> None:
    folder = many(tmp_path / "many", 400)
    journal = tmp_path / "journal"
    with serve() as server:
        arguments = ["index", folder, "--server", server.url, "--journal", journal, "--batch", "4"]
        command = [sys.executable, "-c", "import candor; candor.main()", *map(str, arguments)]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            await_lines(journal, 20, running)
            running.kill()
        assert running.returncode == -9
        before = journal.read_bytes()
        journal.write_bytes(before[: before.rindex(b"{") + 9])  # as if the last line had been cut off
        result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
        items = stored(server)
    kept = before.count(b"\n") - 1
    assert 0 < kept < 400
    assert result.stdout == f"stored {400 - kept:,}, stored before {kept:,}, refused 0\n"
    assert len(items) == 400


def test_a_server_that_is_restarted_meanwhile_gets_the_rest(serve: Serve, tmp_path: Path) -> None:
    folder = many(tmp_path / "many", 400)
    journal = tmp_path / "journal"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    arguments = ["index", folder, "--server", f"http://127.0.0.1:{port}", "--journal", journal, "--batch", "4"]
    command = [sys.executable, "-c", "import candor; candor.main()", *map(str, arguments)]
    with serve(CANDOR_PORT=port):
        running = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        await_lines(journal, 20, running)
    with serve(CANDOR_PORT=port) as server:
        out, err = running.communicate(timeout=PATIENCE_S)
        items = stored(server)
    assert running.returncode == 0, err
    assert out == "stored 400, stored before 0, refused 0\n"
    assert len(items) == 400


def await_lines(path: Path, count: int, running: subprocess.Popen[Any]) -> None:
    """Return once a file has that many lines, which the process must not outlive."""
    end = time.monotonic() + PATIENCE_S
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert running.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_journal_of_a_gallery_that_was_emptied_is_begun_again(serve: Serve, tmp_path: Path) -> None:
    folder = many(tmp_path / "many", 5)
    with serve() as server:
        arguments = [folder, "--server", server.url]
        assert add(*arguments) == 0
        with Client(base_url=server.url, timeout=PATIENCE_S) as client:
            client.post("/gallery/delete", json={"ids": list(stored(server))}).raise_for_status()
        assert stored(server) == {}
        assert add(*arguments) == 0
        assert len(stored(server)) == 5
    assert len(list(tmp_path.glob("many.*.added.jsonl"))) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "needs a column path"),
        ("path\n", "no images"),
        ("path,id\na.png,1\nb.png,1\n", "1 ids are given twice"),
        ("path,path\na.png,b.png\n", "a name of its own"),
        ("path\na.png,b\n", "line 2: too many cells"),
        ("path,id\n,1\n", "line 2: no path"),
    ],
)
def test_a_csv_that_cannot_be_used_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_images(tmp_path / "list.csv", "label")
    with pytest.raises(UserError, match="cannot read"):
        read_images(tmp_path / "nowhere.csv", "label")


def test_a_label_goes_where_its_path_says() -> None:
    assert with_label({"a": 1}, "label", "cat") == {"a": 1, "label": "cat"}
    assert with_label({"a": {"b": 1}}, "a.c.d", "cat") == {"a": {"b": 1, "c": {"d": "cat"}}}
    assert with_label({"a": 1}, "a.b", "cat") == {"a": {"b": "cat"}}


def test_a_journal_knows_what_it_was_told_even_after_its_last_line_was_cut_off(tmp_path: Path) -> None:
    sent = [Sent(f"i{n}", n, n, "x") for n in range(3)]
    with Journal(tmp_path / "journal") as journal:
        journal.add(sent)
    text = (tmp_path / "journal").read_bytes()
    (tmp_path / "journal").write_bytes(text[:-5])
    with Journal(tmp_path / "journal") as journal:
        assert [each in journal for each in sent] == [True, True, False]
        journal.add(sent[2:])
    with Journal(tmp_path / "journal") as journal:
        assert all(each in journal for each in sent)
        assert Sent("i1", 1, 2, "x") not in journal

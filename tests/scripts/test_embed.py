"""`candor embed`: files, folders and patterns through a real server into every format, read back."""

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from models.errors import UserError
from scripts import embed
from scripts.client import Client, Embedded
from scripts.embed import as_row, find
from tests.scripts.client.scripted import EMBEDDED, Said, scripted
from tests.scripts.client.test_attempts import MODEL
from tests.service import process
from tests.service.bundle_factory import make_bundle
from tests.service.images import flat, png
from tests.service.process import PATIENCE_S, REPOSITORY

FORMATS = (".parquet", ".npz", ".csv", ".jsonl")
NUMBERS = ("uncertainty", "percentile", "novelty", "novelty_percentile")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with process.serving(make_bundle(folder / "bundle"), folder / "gallery", CANDOR_AUTOTUNE="false") as server:
        server.event("ready")
        yield server.url


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Good images in two folders, one flat, a broken one and a file that is none; the tests run above them."""
    folder = tmp_path / "photos"
    (folder / "cat").mkdir(parents=True)
    for number, name in enumerate(["a.png", "cat/b.PNG", 'cat/"c", ü.png']):
        (folder / name).write_bytes(png(number))
    (folder / "cat" / "flat.png").write_bytes(flat())
    (folder / "broken.png").write_bytes(png(9)[:60])
    (folder / "notes.txt").write_text("no image")
    monkeypatch.chdir(tmp_path)
    return folder


def run(*arguments: object) -> int:
    """The exit code of `candor embed`."""
    try:
        embed.main([str(each) for each in arguments])
    except SystemExit as left:
        return int(str(left.code))
    return 0


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, alike for every format."""
    match path.suffix:
        case ".parquet":
            return [dict(row) for row in pq.read_table(path).to_pylist()]
        case ".npz":
            with np.load(path) as columns:
                arrays = {name: columns[name].tolist() for name in columns if columns[name].ndim}
            return [as_told(dict(zip(arrays, row, strict=True))) for row in zip(*arrays.values(), strict=True)]
        case ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            texts = ("id", "error")
            return [
                {name: None if not text else text if name in texts else json.loads(text) for name, text in row.items()}
                for row in rows
            ]
        case _:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def as_told(row: dict[str, Any]) -> dict[str, Any]:
    """NaN and empty texts as None."""
    failed = row["error"] != ""
    missing = dict.fromkeys((*NUMBERS, "abstained", "embedding")) if failed else {}
    gone = {"embedding": None} if np.isnan(row["embedding"][0]) else {}
    return {**row, "error": row["error"] or None, **missing, **gone}


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_holds_what_the_server_says(
    server: str, photos: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"embeddings{suffix}"
    assert run("photos", "--server", server, "--out", out, "--max-percentile", 0.5, "--omit", "--batch", 2) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "embedded 4, of them abstained 1, failed 1" in told.err
    assert "embedded 5 of 5 images" in told.err

    rows = {row["id"]: row for row in read(out)}
    ids = ["photos/a.png", "photos/broken.png", 'photos/cat/"c", ü.png', "photos/cat/b.PNG", "photos/cat/flat.png"]
    assert list(rows) == ids
    with Client(server) as client:
        for path, row in rows.items():
            if path == "photos/broken.png":
                assert row["error"].startswith("undecodable_image: ")
                assert row["embedding"] is row["uncertainty"] is row["abstained"] is None
                continue
            asked = client.embed(path, max_percentile=0.5, on_abstain="omit")
            assert row["error"] is None
            assert [row[name] for name in NUMBERS] == [getattr(asked, name) for name in NUMBERS]
            assert row["abstained"] is asked.abstained is (path == "photos/cat/flat.png")
            if asked.embedding is None:
                assert row["embedding"] is None
            else:
                assert np.asarray(row["embedding"], np.float32) == pytest.approx(asked.embedding, abs=1e-6)
        model = client.model()
    if suffix == ".parquet":
        assert pq.read_schema(out).metadata[b"bundle_hash"] == model.bundle_hash.encode()
    if suffix == ".npz":
        with np.load(out) as columns:
            assert (columns["embedding"].shape, columns["embedding"].dtype) == ((5, 48), np.float32)
            assert str(columns["bundle_hash"]) == model.bundle_hash
    assert list(tmp_path.glob("*.partial")) == []


def test_lines_go_to_stdout_and_nothing_else_does(server: str, photos: Path) -> None:
    arguments = ["photos/**/*.PNG", "photos/a.png", "photos/a.png", "--out", "-"]
    command = [sys.executable, "-c", "import candor; candor.main()", "embed", *arguments]
    result = subprocess.run(
        command,
        capture_output=True,
        timeout=PATIENCE_S,
        check=True,
        env={"CANDOR_SERVER": server, "PYTHONPATH": str(REPOSITORY)},
        cwd=photos.parent,
    )
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["id"] for row in rows] == ["photos/cat/b.PNG", "photos/a.png"]
    assert all(row["bundle"] == "tiny" and len(row["embedding"]) == 48 for row in rows)


def test_a_file_that_is_not_there_is_a_row_too(server: str, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "e.jsonl"
    assert run("photos/a.png", "photos/gone.png", "--server", server, "--out", out) == 1
    assert [row["error"] for row in read(out)] == [None, "unreadable: photos/gone.png: No such file or directory"]
    assert run("photos/a.png", "--server", server, "--out", out) == 0
    assert len(read(out)) == 1


def test_more_rows_than_a_group_of_parquet_are_all_written(server: str, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(1003):
        (folder / f"{number:04}.png").write_bytes(png(number % 7))
    assert run(folder, "--server", server, "--out", tmp_path / "e.parquet", "--batch", 64) == 0
    rows = read(tmp_path / "e.parquet")
    assert [row["id"] for row in rows] == [f"{folder.as_posix()}/{number:04}.png" for number in range(1003)]
    assert rows[3]["embedding"] == pytest.approx(rows[10]["embedding"], abs=1e-6)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_failure_midway_leaves_what_was_there(photos: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"e{suffix}"
    out.write_bytes(b"before")
    model = Said(content={**MODEL, "dimension": 2, "bundle_hash": "sha256:b"})
    refused = Said(401, {"type": "unauthorized", "title": "t", "status": 401, "detail": "no such key"})
    with (
        scripted(Said(content={"status": "ready"}), model, model, EMBEDDED, refused) as server,
        pytest.raises(UserError, match="no such key"),
    ):
        run("photos", "--server", server.url, "--out", out, "--batch", 1, "--concurrency", 1)
    assert out.read_bytes() == b"before"
    assert list(tmp_path.glob("*.partial")) == []


def test_embeddings_of_two_bundles_are_not_mixed(photos: Path, tmp_path: Path) -> None:
    model = Said(content={**MODEL, "dimension": 2, "bundle_hash": "sha256:a"})
    with (
        scripted(Said(content={"status": "ready"}), model, model, EMBEDDED) as server,
        pytest.raises(UserError, match="another bundle"),
    ):
        run("photos/a.png", "--server", server.url, "--out", tmp_path / "e.jsonl")
    assert not (tmp_path / "e.jsonl").exists()


def test_a_name_that_is_no_text_is_written_all_the_same() -> None:
    with scripted(Said(content=MODEL)) as server, Client(server.url) as client:
        model = client.model()
    embedded = Embedded(np.ones(1, np.float32), 0.0, 0.0, 0.0, 0.0, False, "b", model.bundle_hash)
    assert as_row(Path("a\udcff.png"), embedded, model).id == "a\\udcff.png"


def test_places_are_files_folders_and_patterns(photos: Path) -> None:
    (photos / "[x].png").write_bytes(png(1))
    assert [path.as_posix() for path in find(["photos/cat", "photos/*.png", "photos/[x].png", "gone.png"])] == [
        'photos/cat/"c", ü.png',
        "photos/cat/b.PNG",
        "photos/cat/flat.png",
        "photos/[x].png",
        "photos/a.png",
        "photos/broken.png",
        "photos/[x].png",
        "gone.png",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photos", "--out", "e.txt", "--server", "http://127.0.0.1:9"], "name it .parquet"),
        (["photos/*.gif", "--out", "e.csv", "--server", "http://127.0.0.1:9"], "no images in photos"),
        (["photos", "--out", "e.csv", "--server", "127.0.0.1:9"], "no http or https URL"),
        (["photos", "--out", "e.csv", "--server", "http://127.0.0.1:9"], "no answer from"),
        (["photos", "--out", "e.csv", "--server", "http://x", "--api-key-file", "gone"], "--api-key-file"),
    ],
)
def test_what_cannot_be_done_is_told_at_once(photos: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(*arguments)


def test_a_folder_that_cannot_be_written_is_told(server: str, photos: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write nowhere.e\.csv: No such file"):
        run("photos", "--server", server, "--out", "nowhere/e.csv")

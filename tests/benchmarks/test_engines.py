import json
from pathlib import Path

import pytest

from benchmarks import engines
from benchmarks.retrieval.data import CONDITIONS, Corpus
from service.gallery import open_gallery
from tests.service.gallery.oracle import item


def test_an_engine_is_filled_and_searched(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    size = ["--items", "1000", "--dimension", "16", "--queries", "16", "--out", str(out)]
    engines.main(["--engine", "lancedb", *size])

    figures = json.loads(out.read_text())["engines"]["lancedb"]
    assert figures["disk_mib"] > 0
    assert figures["ingest_rows_per_second"] > 0
    assert figures["queries_per_second_at_8"] > 0
    assert figures["search"].keys() == {condition.name for condition in CONDITIONS}
    for search in figures["search"].values():
        assert search["recall_at_10"] >= 0.95
        assert search["short_answers"] == 0
        assert search["latency_ms"]["p50"] <= search["latency_ms"]["p99"]
    table = out.with_suffix(".md").read_text()
    assert "| | lancedb |" in table
    assert table.count("recall@10") == len(CONDITIONS)


async def test_a_place_that_holds_items_is_left_alone(tmp_path: Path) -> None:
    gallery = await open_gallery(str(tmp_path), dimension=16, bundle_hash=engines.BUNDLE)
    await gallery.upsert([item("a")])
    with pytest.raises(SystemExit, match="holds none"):
        await engines.run_at(str(tmp_path), Corpus(1000, 16), 8)
    assert await gallery.count() == 1
    await gallery.close()

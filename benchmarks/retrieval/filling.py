"""Fill candor's gallery as bulk loading does, build its index, and say how long that took; a killed fill goes on."""

import asyncio
import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.retrieval.corpus_files import Files, read_corpus
from benchmarks.retrieval.data import blocks, make_payload
from benchmarks.retrieval.measure import folder_mib
from benchmarks.retrieval.wire import item_id
from service.gallery.base import Item
from service.gallery.checked import CheckedGallery
from service.gallery.lance.engine import LanceEngine, LanceOptions, open_lance_engine
from service.gallery.lance.maintenance import Upkeep

NEVER = 10**9
RECORD_EVERY = 10  # blocks, between two records of how far the fill has come
FILLING = Upkeep(index_from_rows=NEVER)  # merges files as it does for everyone; the index is timed by itself
BY_HAND = Upkeep(optimize_every=NEVER, optimize_after_s=NEVER, tick_s=NEVER, keep_versions_s=1e-3)  # no one else reads


@dataclass(frozen=True)
class Progress:
    """How far a fill has come, and the seconds that its upserts and then its index have taken."""

    rows: int = 0
    fill_s: float = 0.0
    index_s: float | None = None
    indexed: bool = False
    disk_mib: float = 0.0
    disk_before_index_mib: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """As the result file has it."""
        return {
            "rows": self.rows,
            "fill_rows_per_second": self.rows / self.fill_s,
            "fill_s": self.fill_s,
            "index_build_s": self.index_s if self.indexed else None,
            "disk_mib": self.disk_mib,
            "disk_before_index_mib": self.disk_before_index_mib,
        }


def fill_gallery(corpus_folder: Path, rows: int, bundle_hash: str, folder: Path, *, keep_bare: bool) -> Progress:
    """Fill `folder`/indexed with the first rows of a corpus, then index it; what is done already is not done again.

    Args:
        corpus_folder: as `write_corpus` made it.
        rows: how many.
        bundle_hash: of the bundle the gallery is for.
        folder: for the gallery, and for the record of progress.
        keep_bare: whether to keep a copy from before there was an index, as `folder`/bare.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "progress.json"
    done = Progress(**json.loads(record.read_text())) if record.exists() else Progress()
    if done.index_s is not None:
        return done
    files = read_corpus(corpus_folder)
    done = asyncio.run(_fill(files, rows, bundle_hash, folder, done))
    if keep_bare:
        shutil.rmtree(folder / "bare", ignore_errors=True)
        shutil.copytree(folder / "indexed", folder / "bare")
    done = asyncio.run(_index(files.corpus.dimension, bundle_hash, folder, done))
    _write(record, done)
    return done


async def _fill(files: Files, rows: int, bundle_hash: str, folder: Path, done: Progress) -> Progress:
    gallery = CheckedGallery(await _open(files.corpus.dimension, bundle_hash, folder, FILLING), files.corpus.dimension)
    try:
        for number, (start, stop) in enumerate(blocks(rows, done.rows), start=1):
            items = make_items(files, start, stop)
            started = time.perf_counter()
            await gallery.upsert(items)
            done = replace(done, rows=stop, fill_s=done.fill_s + time.perf_counter() - started)
            if number % RECORD_EVERY == 0 or stop == rows:
                _write(folder / "progress.json", done)
    finally:
        await gallery.close()
    return done


async def _index(dimension: int, bundle_hash: str, folder: Path, done: Progress) -> Progress:
    before = folder_mib(folder / "indexed")
    engine = await _open(dimension, bundle_hash, folder, BY_HAND)
    try:
        started = time.perf_counter()
        await engine.maintain()
        index_s = time.perf_counter() - started
        indexed = engine.approximate
        await engine.maintain()  # which deletes what the first left behind
    finally:
        await engine.close()
    return replace(
        done,
        index_s=index_s,
        indexed=indexed,
        disk_before_index_mib=before,
        disk_mib=folder_mib(folder / "indexed"),
    )


async def _open(dimension: int, bundle_hash: str, folder: Path, upkeep: Upkeep) -> LanceEngine:
    options = LanceOptions(upkeep=upkeep)
    return await open_lance_engine(
        str(folder / "indexed"), dimension=dimension, bundle_hash=bundle_hash, options=options
    )


def make_items(files: Files, start: int, stop: int) -> list[Item]:
    """Rows of the corpus as items of a gallery."""
    return [
        Item(
            item_id(row),
            files.vectors[row],
            float(files.uncertainties[row]),
            make_payload(row, int(files.parts[row])),
        )
        for row in range(start, stop)
    ]


def _write(record: Path, done: Progress) -> None:
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps(done.__dict__))
    partial.replace(record)

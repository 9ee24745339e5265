"""Qdrant Edge: Qdrant's engine in this process, its vectors in full precision."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.retrieval.corpus_files import Files
from benchmarks.retrieval.data import Condition, K, blocks
from benchmarks.retrieval.measure import folder_mib
from benchmarks.retrieval.peer import EF_CONSTRUCTION, EF_SEARCH, Built, M, Search, payloads

edge: Any = import_module("qdrant_edge")  # only in the peers' environment

INDEXED = {"half": "Keyword", "tenth": "Keyword", "hundredth": "Keyword", "part": "Integer", "uncertainty": "Float"}
FULL_SCAN_KIB = 10_000  # its default: below this a filtered search reads everything


@contextmanager
def build(files: Files) -> Iterator[Built]:
    """Load the corpus into a temporary folder, and build the graph and an index of each filtered field."""
    with tempfile.TemporaryDirectory(prefix="candor-qdrant-") as folder:
        shard = edge.EdgeShard.create(folder, _config(files.corpus.dimension))
        for name, kind in INDEXED.items():
            shard.update(edge.UpdateOperation.create_field_index(name, getattr(edge.PayloadSchemaType, kind)))
        fill_s = _fill(shard, files)
        started = time.perf_counter()
        shard.optimize()
        shard.flush()
        figures = {
            "name": "Qdrant Edge",
            "version": version("qdrant-edge-py"),
            "index": {"m": M, "ef_construction": EF_CONSTRUCTION, "ef": EF_SEARCH, "precision": "float32"},
            "fill_rows_per_second": files.corpus.rows / fill_s,
            "index_build_s": time.perf_counter() - started,
            "vectors_in_graph": shard.info().indexed_vectors_count,
            "disk_mib": folder_mib(Path(folder)),
        }
        yield Built(os.getpid(), partial(_searches, shard, files), figures)
        shard.close()


def _config(dimension: int) -> Any:
    return edge.EdgeConfig(
        vectors=edge.EdgeVectorParams(size=dimension, distance=edge.Distance.Cosine),
        hnsw_config=edge.HnswIndexConfig(m=M, ef_construct=EF_CONSTRUCTION, full_scan_threshold=FULL_SCAN_KIB),
        optimizers=edge.EdgeOptimizersConfig(default_segment_number=1),
    )


def _fill(shard: Any, files: Files) -> float:
    """Seconds that the upserts took."""
    taken = 0.0
    for start, stop in blocks(files.corpus.rows):
        points = [
            edge.Point(row, files.vectors[row].tolist(), {**payload, "uncertainty": float(files.uncertainties[row])})
            for row, payload in zip(range(start, stop), payloads(files, start, stop), strict=True)
        ]
        started = time.perf_counter()
        shard.update(edge.UpdateOperation.upsert_points(points))
        taken += time.perf_counter() - started
    return taken


def _searches(shard: Any, files: Files, condition: Condition) -> Sequence[Search]:
    return [partial(_search, shard, _request(query.tolist(), condition)) for query in files.queries]


def _request(query: list[float], condition: Condition) -> Any:
    return edge.SearchRequest(
        query=edge.Query.Nearest(query),
        limit=K,
        filter=_filter(condition),
        params=edge.SearchParams(hnsw_ef=EF_SEARCH),
        with_payload=True,
    )


def _search(shard: Any, request: Any) -> list[int]:
    return [point.id for point in shard.search(request) if point.payload]


def _filter(condition: Condition) -> Any:
    conditions = [_condition(key, test) for key, test in condition.where.items()]
    if condition.max_uncertainty is not None:
        within = edge.RangeFloat(lte=condition.max_uncertainty)
        conditions.append(edge.FieldCondition("uncertainty", range=within))
    return edge.Filter(must=conditions) if conditions else None


def _condition(key: str, test: Any) -> Any:
    if isinstance(test, dict):
        return edge.FieldCondition(key, range=edge.RangeFloat(**test))
    return edge.FieldCondition(key, match=edge.MatchValue(test))

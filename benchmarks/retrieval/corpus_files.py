"""The corpus on disk, made once: what every process of the benchmark reads, the peers' included."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.retrieval.data import (
    BLOCK,
    CONDITIONS,
    Condition,
    Corpus,
    Ids,
    Vectors,
    blocks,
    exact_neighbours,
    make_parts,
    make_queries,
    make_uncertainties,
    make_vectors,
    selected,
)


@dataclass(frozen=True)
class Files:
    """A corpus and its queries with their true neighbours.

    Attributes:
        corpus: what it was made of.
        vectors: (n, D) float32, mapped from its file.
        queries: (q, D) float32.
        parts: (n,).
        uncertainties: (n,).
        truth: (q, k) rows per condition's name.
    """

    corpus: Corpus
    vectors: Vectors
    queries: Vectors
    parts: NDArray[np.int64]
    uncertainties: NDArray[np.float64]
    truth: dict[str, Ids]


def write_corpus(folder: Path, corpus: Corpus, queries: int, conditions: Sequence[Condition] = CONDITIONS) -> None:
    """Make the files where they are not there yet."""
    done = folder / "corpus.json"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    vectors = np.lib.format.open_memmap(
        folder / "vectors.npy", mode="w+", dtype=np.float32, shape=(corpus.rows, corpus.dimension)
    )
    for start, stop in blocks(corpus.rows):
        vectors[start:stop] = make_vectors(corpus, start, start + BLOCK)[: stop - start]
    vectors.flush()
    asked, parts, uncertainties = make_queries(corpus, queries), make_parts(corpus), make_uncertainties(corpus)
    masks = {condition.name: selected(condition, parts, uncertainties) for condition in conditions}
    np.save(folder / "queries.npy", asked)
    np.savez(folder / "truth.npz", **exact_neighbours(vectors, asked, masks))  # type: ignore[arg-type]
    done.write_text(json.dumps(asdict(corpus)))


def read_corpus(folder: Path) -> Files:
    """The files that `write_corpus` made.

    Raises:
        FileNotFoundError: where it has not, to its end.
    """
    corpus = Corpus(**json.loads((folder / "corpus.json").read_text()))
    with np.load(folder / "truth.npz") as truth:
        return Files(
            corpus=corpus,
            vectors=np.load(folder / "vectors.npy", mmap_mode="r"),
            queries=np.load(folder / "queries.npy"),
            parts=make_parts(corpus),
            uncertainties=make_uncertainties(corpus),
            truth=dict(truth),
        )

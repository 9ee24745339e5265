"""The items and queries of the retrieval benchmark, their exact neighbours, and how much of these a search has found.

Vectors are clustered as embeddings of images are: centres of a skewed popularity, around each a cloud that is wide in a
few shared directions and narrow in all others. Every block of rows has a generator of its own, so that the first n
rows are the same whatever is made after them. Needs numpy alone: the peers' environments hold little else.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Ids = NDArray[np.int64]

K = 10
BLOCK = 1000  # rows that one generator makes
CLUSTERS = 1000
WIDE_DIRECTIONS = 32
WIDE, NARROW = 0.7, 0.4  # length of a vector's offset from its centre, in the wide directions and in all others
UNCERTAINTY_BOUND = 1.678346990016661  # the median of gamma(2, 1): half of the items are within it
NOTHING = -1  # in a list of neighbours: there is no further one


@dataclass(frozen=True)
class Corpus:
    """So many rows of (D,) unit vectors, each with an uncertainty and a payload; the seed decides all of them."""

    rows: int
    dimension: int
    seed: int = 0


@dataclass(frozen=True)
class Condition:
    """What a match must meet besides being near: `where` in candor's filter language, or a bound on uncertainty."""

    name: str
    title: str
    where: Mapping[str, Any] = field(default_factory=dict)
    max_uncertainty: float | None = None


NO_CONDITION = Condition("none", "no filter")
CONDITIONS = (
    NO_CONDITION,
    Condition("half", "50 % pass", {"half": "even"}),
    Condition("tenth", "10 % pass", {"tenth": "t3"}),
    Condition("hundredth", "1 % pass", {"hundredth": "h37"}),
    Condition("tenth_by_range", "10 % pass, a range", {"part": {"lt": 10}}),
    Condition("uncertainty", "uncertainty ≤ median", max_uncertainty=UNCERTAINTY_BOUND),
)


def make_vectors(corpus: Corpus, start: int, stop: int) -> Vectors:
    """Rows `start` to `stop` of the corpus: (stop - start, D) of unit L2 norm.

    Raises:
        ValueError: unless both are whole blocks.
    """
    if start % BLOCK or stop % BLOCK:
        raise ValueError(f"rows are made in blocks of {BLOCK}: not {start} to {stop}")
    blocks = [_draw(corpus, (1, block), BLOCK) for block in range(start // BLOCK, stop // BLOCK)]
    return np.concatenate(blocks)  # (stop - start, D)


def make_queries(corpus: Corpus, count: int) -> Vectors:
    """(count, D) unit vectors from where the items are from, none of them an item."""
    return _draw(corpus, (2,), count)


def make_parts(corpus: Corpus) -> NDArray[np.int64]:
    """(rows,) from 0 to 99, independent of the vectors: what the filters select by."""
    return np.random.default_rng((corpus.seed, 3)).integers(0, 100, corpus.rows)


def make_uncertainties(corpus: Corpus) -> NDArray[np.float64]:
    """(rows,) that float32 holds exactly; half of them within `UNCERTAINTY_BOUND`."""
    drawn = np.random.default_rng((corpus.seed, 4)).gamma(2.0, 1.0, corpus.rows)
    return drawn.astype(np.float32).astype(np.float64)


def make_payload(row: int, part: int) -> dict[str, Any]:
    """What is stored with an item, and returned with a match."""
    return {
        "half": "odd" if part % 2 else "even",
        "tenth": f"t{part % 10}",
        "hundredth": f"h{part}",
        "part": part,
        "path": f"photos/{row // 1000:04}/{row:08}.jpg",
    }


def selected(condition: Condition, parts: NDArray[np.int64], uncertainties: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(rows,) whether each item meets a condition of `CONDITIONS`."""
    masks: dict[str, NDArray[np.bool_]] = {
        "none": np.ones(len(parts), dtype=bool),
        "half": parts % 2 == 0,
        "tenth": parts % 10 == 3,
        "hundredth": parts == 37,
        "tenth_by_range": parts < 10,
        "uncertainty": uncertainties <= UNCERTAINTY_BOUND,
    }
    return masks[condition.name]


def exact_neighbours(
    vectors: Vectors, queries: Vectors, masks: Mapping[str, NDArray[np.bool_]], k: int = K
) -> dict[str, Ids]:
    """The k nearest items by cosine in float64, per mask.

    Args:
        vectors: (n, D) of unit norm.
        queries: (q, D) of unit norm.
        masks: (n,) per name, which items count.
        k: how many to find.

    Returns:
        (q, k) rows per name, nearest first; `NOTHING` where fewer than k items count.
    """
    wide = queries.astype(np.float64)
    best = {name: (np.full((len(queries), k), -np.inf), np.full((len(queries), k), NOTHING)) for name in masks}
    for start in range(0, len(vectors), 10 * BLOCK):
        rows = np.arange(start, min(start + 10 * BLOCK, len(vectors)))
        scores = wide @ vectors[rows].astype(np.float64).T  # (q, chunk)
        for name, mask in masks.items():
            best[name] = _better(*best[name], scores[:, mask[rows]], rows[mask[rows]])
    return {name: ids for name, (_, ids) in best.items()}


def recall(found: Mapping[int, Sequence[int]], truth: Ids) -> float:
    """Mean share of each query's true neighbours that were found.

    Args:
        found: rows found, by the query's position in `truth`.
        truth: (q, k), as `exact_neighbours` gives it.

    Raises:
        ValueError: where nothing was asked.
    """
    if not found:
        raise ValueError("no query was answered")
    shares = []
    for position, rows in found.items():
        true = set(truth[position].tolist()) - {NOTHING}
        shares.append(len(true & set(rows)) / len(true) if true else 1.0)
    return float(np.mean(shares))


def short_answers(found: Mapping[int, Sequence[int]], truth: Ids) -> int:
    """How many queries got fewer matches than there are."""
    return sum(len(rows) < int((truth[position] != NOTHING).sum()) for position, rows in found.items())


def _draw(corpus: Corpus, stream: tuple[int, ...], count: int) -> Vectors:
    centres, basis, popularity = _structure(corpus)
    generator = np.random.default_rng((corpus.seed, *stream))
    own = centres[generator.choice(len(centres), count, p=popularity)]  # (count, D)
    wide = generator.standard_normal((count, len(basis))) @ basis * (WIDE / np.sqrt(len(basis)))  # (count, D)
    narrow = generator.standard_normal((count, corpus.dimension)) * (NARROW / np.sqrt(corpus.dimension))
    drawn = own + wide + narrow
    unit: Vectors = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(np.float32)
    return unit


def _structure(corpus: Corpus) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Centres (c, D) and wide directions (w, D) of unit norm, and how likely each centre is (c,)."""
    generator = np.random.default_rng((corpus.seed, 0))
    centres = generator.standard_normal((CLUSTERS, corpus.dimension))
    basis = np.linalg.qr(generator.standard_normal((corpus.dimension, min(WIDE_DIRECTIONS, corpus.dimension))))[0].T
    popularity = 1.0 / np.sqrt(np.arange(1, CLUSTERS + 1))
    return centres / np.linalg.norm(centres, axis=1, keepdims=True), basis, popularity / popularity.sum()


def _better(
    scores: NDArray[np.float64], ids: Ids, new_scores: NDArray[np.float64], new_ids: Ids
) -> tuple[NDArray[np.float64], Ids]:
    """The k best of (q, k) known and (q, m) new ones, best first."""
    all_scores = np.concatenate([scores, new_scores], axis=1)  # (q, k + m)
    all_ids = np.concatenate([ids, np.broadcast_to(new_ids, new_scores.shape)], axis=1)
    k = scores.shape[1]
    near = np.argpartition(-all_scores, k - 1, axis=1)[:, :k]  # (q, k), in no order
    near_scores = np.take_along_axis(all_scores, near, axis=1)
    order = np.argsort(-near_scores, axis=1)
    return np.take_along_axis(near_scores, order, axis=1), np.take_along_axis(
        np.take_along_axis(all_ids, near, axis=1), order, axis=1
    )


def blocks(rows: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """From row to row, block by block."""
    return ((first, min(first + BLOCK, rows)) for first in range(start, rows, BLOCK))

"""What a gallery must answer, in numpy and Python, and items to ask about."""

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.gallery.base import Item
from service.gallery.filters import parse_filter, passes

DIMENSION = 16
BUNDLE = "sha256:" + "a" * 64


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    """(..., D) of any scale -> (..., D) of unit norm."""
    scaled: NDArray[np.float32] = (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return scaled


def vector_of(name: str, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """(D,) a unit vector that only this name has."""
    return unit(np.random.default_rng(zlib.crc32(name.encode())).normal(size=dimension))


def item(item_id: str, uncertainty: float = 0.5, **payload: Any) -> Item:
    """An item whose vector follows from its id."""
    return Item(item_id, vector_of(item_id), uncertainty, payload)


def items_in_clusters(count: int, dimension: int = DIMENSION, clusters: int = 20, seed: int = 0) -> list[Item]:
    """Items around a few centres, uncertainty uniform in [0, 1], `rank` and `group` in the payload."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(clusters, dimension))
    vectors = unit(centres[random.integers(clusters, size=count)] + 0.4 * random.normal(size=(count, dimension)))
    ranks, uncertainty = random.permutation(count), random.random(count)
    return [
        Item(f"item-{n}", vectors[n], float(uncertainty[n]), {"rank": int(ranks[n]), "group": f"g{n % 10}"})
        for n in range(count)
    ]


def scores(items: Sequence[Item], query: NDArray[np.float32]) -> dict[str, float]:
    """Cosine similarity by id, in float64."""
    matrix = np.stack([one.embedding for one in items]).astype(np.float64)  # (n, D)
    cosine = matrix @ query.astype(np.float64) / np.linalg.norm(matrix, axis=1) / np.linalg.norm(query)
    return dict(zip((one.id for one in items), cosine.tolist(), strict=True))


def expected_scores(
    items: Sequence[Item],
    query: NDArray[np.float32],
    limit: int,
    where: Mapping[str, Any] | None = None,
    max_uncertainty: float = np.inf,
    min_score: float = -1.0,
) -> list[float]:
    """The scores of an exact search, best first."""
    by_id, condition = scores(items, query), parse_filter(where)
    passing = [one for one in items if passes(condition, one.payload) and one.uncertainty <= max_uncertainty]
    return sorted((by_id[one.id] for one in passing if by_id[one.id] >= min_score), reverse=True)[:limit]


def same_item(left: Item | None, right: Item | None) -> bool:
    """Whether both are there and equal to the last bit."""
    if left is None or right is None:
        return left is right
    return (left.id, left.uncertainty, json.dumps(left.payload)) == (
        right.id,
        right.uncertainty,
        json.dumps(right.payload),
    ) and np.array_equal(left.embedding, right.embedding)

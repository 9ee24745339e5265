"""Exact nearest neighbours by cosine, in blocks of rows so that the (n, n) matrix never exists."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from uncertainty.checks import Floats, require_matrix

BLOCK = 1024  # rows a block: 200 MB of float32 cosines against 50,000 images


def unit_rows(embeddings: Floats) -> Floats:
    """(n, d) -> (n, d) of unit L2 norm, in float64 where the input is float64 and else in float32.

    Raises:
        ValueError: unless the embeddings are finite, non-empty and (n, d), and no row is zero.
    """
    require_matrix("embeddings", embeddings)
    rows = embeddings if embeddings.dtype == np.float64 else embeddings.astype(np.float32)
    largest = np.abs(rows).max(axis=1, keepdims=True)  # (n, 1), keeps the squares from overflowing
    if not largest.all():
        raise ValueError(f"{int((largest == 0).sum())} embeddings are zero and have no direction")
    scaled = rows / largest
    unit: Floats = scaled / np.linalg.norm(scaled, axis=1, keepdims=True)
    return unit


def nearest_neighbour(embeddings: Floats, block: int = BLOCK) -> tuple[NDArray[np.int64], Floats]:
    """Index and cosine of each row's nearest other row.

    A row is excluded from its own search by its index, so an exact duplicate counts as a neighbour like any other.

    Args:
        embeddings: (n, d), n >= 2; normalised here.
        block: rows compared at a time.

    Returns:
        index (n,) and cosine (n,); of equal cosines the lowest index.
    """
    rows = unit_rows(embeddings)
    _require_enough(1, rows.shape[0] - 1)
    index = np.empty(rows.shape[0], dtype=np.int64)
    cosine = np.empty(rows.shape[0], dtype=rows.dtype)
    for part, cosines in _cosines(rows, None, block):
        index[part] = cosines.argmax(axis=1)
        cosine[part] = cosines.max(axis=1)
    return index, cosine


def k_nearest(
    embeddings: Floats, k: int, gallery: Floats | None = None, block: int = BLOCK
) -> tuple[NDArray[np.int64], Floats]:
    """Indices and cosines of the `k` nearest rows of the gallery, nearest first.

    Args:
        embeddings: (n, d) queries; normalised here.
        k: neighbours wanted.
        gallery: (g, d); without it the queries are their own gallery, each excluded from its own search by index.
        block: queries compared at a time.

    Returns:
        index (n, k) and cosine (n, k), descending; equal cosines by ascending index.

    Raises:
        ValueError: where there are fewer than `k` neighbours to find.
    """
    rows = unit_rows(embeddings)
    others = None if gallery is None else unit_rows(gallery)
    _require_enough(k, rows.shape[0] - 1 if others is None else others.shape[0])
    index = np.empty((rows.shape[0], k), dtype=np.int64)
    cosine = np.empty((rows.shape[0], k), dtype=rows.dtype)
    for part, cosines in _cosines(rows, others, block):
        index[part], cosine[part] = _largest(cosines, k)
    return index, cosine


def _cosines(rows: Floats, gallery: Floats | None, block: int) -> Iterator[tuple[slice, Floats]]:
    """Slices of rows and their (b, g) cosines; self is -inf where the rows are their own gallery."""
    columns = rows if gallery is None else gallery
    for start in range(0, rows.shape[0], block):
        part = slice(start, min(start + block, rows.shape[0]))
        cosines = rows[part] @ columns.T  # (b, g)
        if gallery is None:
            own = np.arange(part.start, part.stop)
            cosines[own - start, own] = -np.inf
        yield part, cosines


def _largest(cosines: Floats, k: int) -> tuple[NDArray[np.int64], Floats]:
    """(b, g) -> column and value of the k largest of each row, both (b, k), descending."""
    column = np.sort(np.argpartition(cosines, -k, axis=1)[:, -k:], axis=1)
    value = np.take_along_axis(cosines, column, axis=1)
    order = np.argsort(-value, axis=1, kind="stable")
    return np.take_along_axis(column, order, axis=1), np.take_along_axis(value, order, axis=1)


def _require_enough(k: int, available: int) -> None:
    if not 1 <= k <= available:
        raise ValueError(f"{k} neighbours asked for, {available} to choose from")

"""Checks at the boundary of this package: each raises a ValueError that names the array and what is wrong with it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
Booleans = NDArray[np.bool_]


def require_vector(name: str, values: NDArray[Any]) -> None:
    """Raise unless `values` is a finite, non-empty (n,) array."""
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"{name} must be a non-empty (n,) array, not of shape {values.shape}")
    _require_finite(name, values)


def require_matrix(name: str, values: NDArray[Any]) -> None:
    """Raise unless `values` is a finite, non-empty (n, d) array."""
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"{name} must be a non-empty (n, d) array, not of shape {values.shape}")
    _require_finite(name, values)


def require_paired(**arrays: NDArray[Any]) -> None:
    """Raise unless all named arrays are finite, non-empty and of one shape (n,)."""
    for name, values in arrays.items():
        require_vector(name, values)
    _require_one_length(arrays)


def require_rows(count: int, **arrays: NDArray[Any]) -> None:
    """Raise unless each named array is (count,) and finite: one value for each row of a matrix."""
    for name, values in arrays.items():
        require_vector(name, values)
        if values.size != count:
            raise ValueError(f"{name} has {values.size} values for {count} rows")


def require_binary(name: str, values: NDArray[Any]) -> None:
    """Raise unless `values` holds both of 0 and 1 (or False and True) and nothing else."""
    if not np.isin(values, (0, 1)).all():
        raise ValueError(f"{name} must be boolean, or hold only 0 and 1")
    if values.min() == values.max():
        raise ValueError(f"{name} is {bool(values[0])} everywhere; this statistic needs both values")


def require_unit_interval(name: str, values: NDArray[Any]) -> None:
    """Raise unless every value is in [0, 1]."""
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"{name} must be in [0, 1], not in [{values.min()}, {values.max()}]")


def _require_finite(name: str, values: NDArray[Any]) -> None:
    if np.issubdtype(values.dtype, np.inexact) and not np.isfinite(values).all():
        raise ValueError(f"{name} has {int((~np.isfinite(values)).sum())} values that are not finite")


def _require_one_length(arrays: Mapping[str, NDArray[Any]]) -> None:
    lengths = {name: values.size for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"arrays must have one length: {lengths}")

"""Rows: items checked on their way into an engine, with their payloads flattened for filters."""

import json
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.gallery.base import Item
from service.gallery.filters import Fields, flatten

MAX_ID_LENGTH = 512
UNIT_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Row:
    """A checked item, its payload as JSON and flattened for filters."""

    id: str
    embedding: NDArray[np.float32]
    uncertainty: float
    payload: str
    fields: Fields


def to_row(item: Item, dimension: int) -> Row:
    """Check an item and prepare it for an engine.

    Raises:
        ValueError: for an id, vector, uncertainty or payload that must not be stored.
    """
    if not math.isfinite(item.uncertainty):
        raise ValueError(f"uncertainty must be finite, not {item.uncertainty}")
    if not isinstance(item.payload, dict):
        raise ValueError("payload must be an object")
    fields = flatten(item.payload)
    return Row(
        id=check_id(item.id),
        embedding=check_vector(item.embedding, dimension),
        uncertainty=float(item.uncertainty),
        payload=json.dumps(item.payload, ensure_ascii=False, allow_nan=False),
        fields=fields,
    )


def check_id(item_id: str) -> str:
    """The id itself.

    Raises:
        ValueError: unless it is 1 to 512 characters of valid Unicode without NUL.
    """
    if not isinstance(item_id, str) or not 1 <= len(item_id) <= MAX_ID_LENGTH:
        raise ValueError(f"an id is a text of 1 to {MAX_ID_LENGTH} characters")
    if "\0" in item_id:
        raise ValueError("an id must not hold NUL")
    try:
        item_id.encode()
    except UnicodeEncodeError as error:
        raise ValueError("an id must be valid Unicode") from error
    return item_id


def check_vector(vector: NDArray[np.float32], dimension: int) -> NDArray[np.float32]:
    """(D,) of any scale -> (D,) float32 of unit L2 norm; one that has it already is left as it is.

    Raises:
        ValueError: for another shape, values that are not finite, or a vector of zeros.
    """
    wide = np.asarray(vector, dtype=np.float64)
    if wide.shape != (dimension,):
        raise ValueError(f"this gallery holds vectors of shape ({dimension},), not {wide.shape}")
    largest = np.abs(wide).max()
    if not np.isfinite(largest):
        raise ValueError("a vector must be finite")
    if largest == 0:
        raise ValueError("a vector of zeros has no direction")
    scaled = wide / largest  # so that no square overflows or vanishes
    norm = float(np.linalg.norm(scaled))
    unit: NDArray[np.float32] = (wide if abs(norm * largest - 1) < UNIT_TOLERANCE else scaled / norm).astype(np.float32)
    return unit

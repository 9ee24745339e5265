"""Embeddings as JSON holds them: lists of numbers, or base64 of little-endian float32."""

import base64
import binascii
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidVector

Encoding = Literal["float", "base64"]
MIN_NORM: Final = 1e-12


def encode_embedding(embedding: NDArray[np.float32], encoding: Encoding) -> NDArray[np.float32] | str:
    """A (D,) embedding as JSON takes it: an array for orjson, or base64 of little-endian float32."""
    if encoding == "float":
        return np.ascontiguousarray(embedding)
    return base64.b64encode(embedding.astype("<f4").tobytes()).decode()


def unit_vector(values: list[float] | str, dimension: int) -> NDArray[np.float32]:
    """Numbers, or base64 of little-endian float32, to a (D,) float32 array of unit L2 norm.

    Raises:
        InvalidVector: for another length, numbers that are not finite, or a vector of no length.
    """
    vector = np.asarray(values, dtype=np.float64) if isinstance(values, list) else _vector_from_text(values)
    if vector.shape != (dimension,):
        raise InvalidVector(f"the vector has {vector.size} numbers, and this bundle's embeddings have {dimension}")
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm) or norm < MIN_NORM:
        raise InvalidVector("the vector must be finite and not zero")
    return (vector / norm).astype(np.float32)


def _vector_from_text(text: str) -> NDArray[np.float64]:
    try:
        data = base64.b64decode(text, validate=True)
        return np.frombuffer(data, dtype="<f4").astype(np.float64)
    except (binascii.Error, ValueError) as error:
        raise InvalidVector(f"the vector is not base64 of float32: {error}") from error

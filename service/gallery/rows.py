"""How an item lies in the LanceDB table: columns, checks on the way in, and conversion both ways."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.gallery.base import Item
from service.gallery.filters import Fields, flatten

TABLE = "items"
FORMAT = "1"
MAX_ID_LENGTH = 512
UNIT_TOLERANCE = 1e-6
ITEM_COLUMNS = ["id", "embedding", "uncertainty", "payload"]
MATCH_COLUMNS = ["id", "uncertainty", "payload", "_distance"]

FORMAT_KEY = b"candor.format"
BUNDLE_KEY = b"candor.bundle_hash"
DIMENSION_KEY = b"candor.dimension"
_PRIMARY_KEY = {"lance-schema:unenforced-primary-key:position": "1"}


@dataclass(frozen=True)
class Row:
    """A checked item, its payload as JSON and flattened for filters."""

    id: str
    embedding: NDArray[np.float32]
    uncertainty: float
    payload: str
    fields: Fields


def schema(dimension: int, bundle_hash: str) -> pa.Schema:
    """The table's columns, and in its metadata whose embeddings it holds.

    The primary key lets the engine see two processes insert one id at the same moment, and retry one of them.
    """
    strings = pa.list_(pa.field("item", pa.string()))
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False, metadata=_PRIMARY_KEY),
            pa.field("embedding", pa.list_(pa.float32(), dimension)),
            pa.field("uncertainty", pa.float64()),
            pa.field("payload", pa.string()),
            pa.field("tokens", strings),
            pa.field("number_paths", strings),
            pa.field("numbers", pa.list_(pa.float64())),
            pa.field("text_paths", strings),
            pa.field("texts", strings),
        ],
        metadata={FORMAT_KEY: FORMAT, BUNDLE_KEY: bundle_hash, DIMENSION_KEY: str(dimension)},
    )


def to_row(item: Item, dimension: int) -> Row:
    """Check an item and prepare it for the table.

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


def to_arrow(rows: Sequence[Row], columns: pa.Schema) -> pa.Table:
    """Rows as a table of `schema`."""
    dimension = columns.field("embedding").type.list_size
    flat = np.concatenate([row.embedding for row in rows])  # (n * D,)
    return pa.table(
        {
            "id": [row.id for row in rows],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(flat), dimension),
            "uncertainty": [row.uncertainty for row in rows],
            "payload": [row.payload for row in rows],
            "tokens": [row.fields.tokens for row in rows],
            "number_paths": [row.fields.number_paths for row in rows],
            "numbers": [row.fields.numbers for row in rows],
            "text_paths": [row.fields.text_paths for row in rows],
            "texts": [row.fields.texts for row in rows],
        },
        schema=columns,
    )


def to_items(found: pa.Table) -> list[Item]:
    """A table of `ITEM_COLUMNS` as items."""
    embeddings = _vectors(found.column("embedding"), found.num_rows)
    rest = found.drop_columns(["embedding"]).to_pylist()
    return [_to_item(record, vector) for record, vector in zip(rest, embeddings, strict=True)]


def _to_item(record: dict[str, Any], vector: NDArray[np.float32]) -> Item:
    return Item(record["id"], vector, record["uncertainty"], json.loads(record["payload"]))


def _vectors(column: pa.ChunkedArray, count: int) -> NDArray[np.float32]:
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    flat: NDArray[np.float32] = np.concatenate(chunks) if chunks else np.empty(0, np.float32)
    return flat.reshape(count, -1) if count else flat.reshape(0, 0)  # (n, D)

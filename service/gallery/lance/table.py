"""How items lie in the LanceDB table: its columns, and conversion both ways."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from service.gallery.base import Item
from service.gallery.rows import Row

TABLE = "items"
FORMAT = "1"
ITEM_COLUMNS = ["id", "embedding", "uncertainty", "payload"]
MATCH_COLUMNS = ["id", "uncertainty", "payload", "_distance"]

FORMAT_KEY = b"candor.format"
BUNDLE_KEY = b"candor.bundle_hash"
DIMENSION_KEY = b"candor.dimension"
_PRIMARY_KEY = {"lance-schema:unenforced-primary-key:position": "1"}


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

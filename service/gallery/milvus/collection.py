"""How items lie in a Milvus collection: its fields, what they have room for, and conversion both ways."""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from pymilvus import AsyncMilvusClient, CollectionSchema, DataType

from service.gallery.base import Item, Match, TooLarge
from service.gallery.milvus.expressions import DIGEST_LENGTH, digest, sortable
from service.gallery.rows import MAX_ID_LENGTH, Row

FORMAT: Final = "1"
FORMAT_KEY: Final = "candor.format"
BUNDLE_KEY: Final = "candor.bundle_hash"
DIMENSION_KEY: Final = "candor.dimension"

ITEM_FIELDS: Final = ["id", "embedding", "uncertainty", "payload"]
MATCH_FIELDS: Final = ["id", "uncertainty", "payload"]
BUCKETS: Final = 64

MAX_BYTES: Final = 65_535  # of a text of Milvus's
MAX_TOKENS: Final = 4096  # elements of an array of Milvus's
UPSERT_BYTES: Final = 16_000_000  # of one request: Milvus refuses 64 MB
UPSERT_ROWS: Final = 1024


def schema(dimension: int) -> CollectionSchema:
    """The collection's fields; `bucket` is a number that follows from the id, the same for about 1 in `BUCKETS`."""
    fields = AsyncMilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
    fields.add_field("id", DataType.VARCHAR, is_primary=True, max_length=4 * MAX_ID_LENGTH)  # bytes of UTF-8
    fields.add_field("embedding", DataType.FLOAT_VECTOR, dim=dimension)
    fields.add_field("uncertainty", DataType.DOUBLE)
    fields.add_field("bucket", DataType.INT8)
    fields.add_field("payload", DataType.VARCHAR, max_length=MAX_BYTES)
    fields.add_field(
        "tokens",
        DataType.ARRAY,
        element_type=DataType.VARCHAR,
        max_capacity=MAX_TOKENS,
        max_length=DIGEST_LENGTH,
    )
    fields.add_field("numbers", DataType.JSON)
    fields.add_field("texts", DataType.JSON)
    return fields


def properties(dimension: int, bundle_hash: str) -> dict[str, str]:
    """Of the collection: whose embeddings it holds."""
    return {FORMAT_KEY: FORMAT, BUNDLE_KEY: bundle_hash, DIMENSION_KEY: str(dimension)}


def to_record(row: Row) -> dict[str, Any]:
    """A row as the collection keeps it.

    Raises:
        TooLarge: where it is longer than Milvus has room for.
    """
    fields = row.fields
    numbers = {digest(path): sortable(n) for path, n in zip(fields.number_paths, fields.numbers, strict=True)}
    texts = {digest(path): text for path, text in zip(fields.text_paths, fields.texts, strict=True)}
    _check_room(row, {"payload": row.payload, "its numbers": _json(numbers), "its texts": _json(texts)})
    return {
        "id": row.id,
        "embedding": row.embedding,
        "uncertainty": row.uncertainty,
        "bucket": bucket(row.id),
        "payload": row.payload,
        "tokens": [digest(one) for one in fields.tokens],
        "numbers": numbers,
        "texts": texts,
    }


def in_parts(records: Sequence[Mapping[str, Any]]) -> Iterator[list[Mapping[str, Any]]]:
    """Records in parts that one request holds."""
    part: list[Mapping[str, Any]] = []
    size = 0
    for record in records:
        own = _size(record)
        if part and (size + own > UPSERT_BYTES or len(part) == UPSERT_ROWS):
            yield part
            part, size = [], 0
        part.append(record)
        size += own
    if part:
        yield part


def to_item(record: Mapping[str, Any]) -> Item:
    """A record of `ITEM_FIELDS` as an item."""
    embedding = np.asarray(record["embedding"], dtype=np.float32)
    return Item(record["id"], embedding, record["uncertainty"], json.loads(record["payload"]))


def to_match(score: float, record: Mapping[str, Any]) -> Match:
    """A record of `MATCH_FIELDS` as a match, its score brought back into [-1, 1]."""
    clipped = min(1.0, max(-1.0, score))
    return Match(record["id"], clipped, record["uncertainty"], json.loads(record["payload"]))


def bucket(item_id: str) -> int:
    """One of `BUCKETS`, by id."""
    return zlib.crc32(item_id.encode()) % BUCKETS


def bucket_ranges(parts: int) -> list[str]:
    """Expressions that part all items in so many parts, of about one size; one part holds them all."""
    if parts == 1:
        return [""]
    width = BUCKETS // parts
    return [f"bucket >= {start} and bucket < {start + width}" for start in range(0, BUCKETS, width)]


def _check_room(row: Row, texts: Mapping[str, str]) -> None:
    if len(row.fields.tokens) > MAX_TOKENS:
        raise TooLarge(f"payload of {row.id!r} has {len(row.fields.tokens)} values; Milvus keeps {MAX_TOKENS} at most")
    for name, text in texts.items():
        if (size := len(text.encode())) > MAX_BYTES:
            what = "payload" if name == "payload" else f"payload (with {name} for filters)"
            raise TooLarge(f"{what} of {row.id!r} takes {size} bytes as JSON; Milvus keeps {MAX_BYTES} at most")


def _json(value: Mapping[str, str]) -> str:
    return json.dumps(value, ensure_ascii=False)


def _size(record: Mapping[str, Any]) -> int:
    """Bytes of a record, at most: the payload is there once more for filters."""
    size: int = (
        8 * len(record["payload"]) + record["embedding"].nbytes + 4 * DIGEST_LENGTH * len(record["tokens"]) + 4096
    )
    return size

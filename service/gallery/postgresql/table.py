"""How items lie in the table: its columns, its indexes, and conversion both ways."""

import json
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.gallery.base import GalleryError, Item, Match
from service.gallery.postgresql.sql import quote, stored_token, without_nul
from service.gallery.rows import Row

FORMAT: Final = "1"
MAX_NAME_BYTES: Final = 48  # of PostgreSQL's 63: the indexes' names begin with the table's
MAX_DIMENSION: Final = 16_000  # of pgvector's type
MAX_INDEXED_DIMENSION: Final = 4_000  # of its index, at half precision
M: Final = 16
EF_CONSTRUCTION: Final = 128
COLUMNS: Final = (
    "id",
    "embedding",
    "uncertainty",
    "payload",
    "tokens",
    "number_paths",
    "numbers",
    "text_paths",
    "texts",
)
ITEM_COLUMNS: Final = "id, embedding, uncertainty, payload"


def check_name(table: str) -> str:
    """The table's name itself.

    Raises:
        GalleryError: for one that PostgreSQL cannot hold.
    """
    if not table or "\0" in table or len(table.encode()) > MAX_NAME_BYTES:
        raise GalleryError(f"CANDOR_GALLERY_TABLE must be 1 to {MAX_NAME_BYTES} bytes, not {table!r}")
    return table


def create_statements(table: str, dimension: int) -> list[str]:
    """SQL that makes the table and the indexes that every gallery has, where they are not there.

    Texts are ordered by code point. Rows stay in one piece up to a page: with the embedding elsewhere, an exact search
    would have to fetch each one.
    """
    text = 'text COLLATE "C" NOT NULL'
    texts = 'text[] COLLATE "C" NOT NULL'
    return [
        f"CREATE TABLE IF NOT EXISTS {quote(table)} (id {text} PRIMARY KEY, embedding vector({dimension}) NOT NULL, "
        f"uncertainty float8 NOT NULL, payload json NOT NULL, tokens {texts}, number_paths {texts}, "
        f"numbers float8[] NOT NULL, text_paths {texts}, texts bytea[] NOT NULL) WITH (toast_tuple_target = 8160)",
        f"CREATE INDEX IF NOT EXISTS {quote(table + '_uncertainty')} ON {quote(table)} (uncertainty, id)",
        f"CREATE INDEX IF NOT EXISTS {quote(table + '_tokens')} ON {quote(table)} USING gin (tokens)",
    ]


def index_name(table: str) -> str:
    """Of the vector index."""
    return f"{table}_embedding"


def index_statement(table: str, dimension: int) -> str:
    """SQL that builds the vector index while writes go on."""
    return (
        f"CREATE INDEX CONCURRENTLY {quote(index_name(table))} ON {quote(table)} USING hnsw "
        f"((embedding::halfvec({dimension})) halfvec_cosine_ops) WITH (m = {M}, ef_construction = {EF_CONSTRUCTION})"
    )


def to_record(row: Row) -> tuple[Any, ...]:
    """The values of `COLUMNS`."""
    fields = row.fields
    tokens = [stored_token(one) for one in fields.tokens if "\0" not in one]
    text_paths, texts = without_nul(fields.text_paths, [text.encode() for text in fields.texts])
    numbers = without_nul(fields.number_paths, fields.numbers)
    return (row.id, row.embedding, row.uncertainty, row.payload, tokens, *numbers, text_paths, texts)


def to_item(record: Any) -> Item:
    """A record of `ITEM_COLUMNS`."""
    return Item(record["id"], record["embedding"], record["uncertainty"], json.loads(record["payload"]))


def to_match(record: Any) -> Match:
    """A record with the cosine distance."""
    score = min(1.0, max(-1.0, 1.0 - record["distance"]))
    return Match(record["id"], score, record["uncertainty"], json.loads(record["payload"]))


async def register_vector(connection: Any, schema: str) -> None:
    """Make a connection send and return (D,) float32 for pgvector's type, to the last bit."""
    await connection.set_type_codec("vector", schema=schema, encoder=_encode, decoder=_decode, format="binary")


def _encode(vector: NDArray[np.float32]) -> bytes:
    return len(vector).to_bytes(2, "big") + b"\0\0" + vector.astype(">f4").tobytes()


def _decode(data: bytes) -> NDArray[np.float32]:
    return np.frombuffer(data, dtype=">f4", offset=4).astype(np.float32)

"""Parts of an export: Parquet files of items, read and written some rows at a time."""

import json
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from models.bundle import file_sha256
from models.errors import UserError
from service.gallery.base import Item
from service.moving.content import added, checksum
from service.moving.manifest import PARTIAL, Part, rename_durably

MAX_ITEMS: Final = 10_000
MAX_BYTES: Final = 128 * 2**20  # of embeddings and payloads in one part, before compression


def schema(dimension: int) -> pa.Schema:
    """The columns of a part."""
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("embedding", pa.list_(pa.float32(), dimension), nullable=False),
            pa.field("uncertainty", pa.float64(), nullable=False),
            pa.field("payload", pa.string(), nullable=False),
        ]
    )


async def write_part(
    folder: Path, number: int, dimension: int, chunks: AsyncIterator[Sequence[Item]], max_items: int = MAX_ITEMS
) -> Part | None:
    """Write what `chunks` gives until the part is full: whole, on disk, under its own name; None where nothing came."""
    path = folder / f"part-{number:06}.parquet"
    partial = path.with_name(path.name + PARTIAL)
    ids: list[str] = []
    count, size, sums = 0, 0, []
    columns = schema(dimension)
    with (
        partial.open("wb") as file,
        pq.ParquetWriter(file, columns, compression="zstd", use_dictionary=False) as writer,
    ):
        async for chunk in chunks:
            rows = _to_arrow(chunk, dimension)
            writer.write_table(rows)
            ids = [ids[0] if ids else chunk[0].id, chunk[-1].id]
            count, size = count + len(chunk), size + rows.nbytes
            sums.append(checksum(chunk))
            if count >= max_items or size >= MAX_BYTES:
                break
        writer.close()
        file.flush()
        os.fsync(file.fileno())
    if not count:
        partial.unlink()
        return None
    sha256, length = file_sha256(partial), partial.stat().st_size
    rename_durably(partial, path)
    return Part(
        name=path.name,
        items=count,
        first_id=ids[0],
        last_id=ids[-1],
        bytes=length,
        sha256=sha256,
        checksum=added(sums),
    )


def check_file(folder: Path, part: Part) -> None:
    """Return if the file is the one the manifest describes.

    Raises:
        UserError: where it is missing, cut short or changed.
    """
    path = folder / part.name
    if not path.is_file():
        raise UserError(f"{path} is missing, and the manifest names it: copy the export again")
    if path.stat().st_size != part.bytes or file_sha256(path) != part.sha256:
        raise UserError(f"{path} is not the file that was exported (SHA-256 or size differ): copy the export again")


def read_part(folder: Path, part: Part, rows: int) -> Iterator[list[Item]]:
    """The items of a part, that many at a time."""
    with pq.ParquetFile(folder / part.name) as file:
        for batch in file.iter_batches(rows):
            yield _to_items(batch)


def _to_arrow(items: Sequence[Item], dimension: int) -> pa.Table:
    flat = np.concatenate([item.embedding for item in items])  # (n * D,)
    return pa.table(
        {
            "id": [item.id for item in items],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(flat), dimension),
            "uncertainty": [item.uncertainty for item in items],
            "payload": [json.dumps(item.payload, ensure_ascii=False, allow_nan=False) for item in items],
        },
        schema=schema(dimension),
    )


def _to_items(batch: Any) -> list[Item]:
    flat = batch.column("embedding").flatten().to_numpy(zero_copy_only=False)
    vectors = flat.reshape(batch.num_rows, -1)  # (n, D)
    columns = (batch.column(name).to_pylist() for name in ("id", "uncertainty", "payload"))
    return [
        Item(item_id, vector, uncertainty, json.loads(payload))
        for vector, item_id, uncertainty, payload in zip(vectors, *columns, strict=True)
    ]

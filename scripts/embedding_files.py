"""Files of embeddings: Parquet, NumPy's .npz, CSV, or JSON lines, with a row for every image, failed ones too."""

import csv
import io
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from models.errors import UserError
from scripts.client import Model

ROWS_OF_A_GROUP: Final = 1000


@dataclass(frozen=True, eq=False)
class Row:
    """An image: what is None is not known; `error` says why, and is None where nothing went wrong."""

    id: str
    uncertainty: float | None = None
    percentile: float | None = None
    novelty: float | None = None
    novelty_percentile: float | None = None
    abstained: bool | None = None
    embedding: NDArray[np.float32] | None = None
    error: str | None = None


COLUMNS: Final = tuple(field.name for field in fields(Row))
NUMBERS: Final = COLUMNS[1:5]
Add: TypeAlias = Callable[[Row], None]
Writer: TypeAlias = Callable[[BinaryIO, Model], AbstractContextManager[Add]]


@contextmanager
def writing(place: Path, model: Model) -> Iterator[Add]:
    """A function that adds a row to a file: the file is there, whole, once the block has ended well; `-` is stdout.

    Raises:
        UserError: for a name that says no format, and where the file cannot be written.
    """
    if str(place) == "-":
        with _json_lines(sys.stdout.buffer, model) as add:
            yield add
        return
    writer = _writer(place)
    partial = place.with_name(f"{place.name}.partial")
    try:
        with partial.open("wb") as file, writer(file, model) as add:
            yield add
        partial.replace(place)
    except OSError as error:
        raise UserError(f"cannot write {place}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def check_format(place: Path) -> None:
    """Refuse a name that says no format, before any work is done.

    Raises:
        UserError: for such a name.
    """
    if str(place) != "-":
        _writer(place)


def _writer(place: Path) -> Writer:
    try:
        return _writers()[place.suffix.lower()]
    except KeyError:
        raise UserError(f"{place}: name it .parquet, .npz, .csv or .jsonl, or - for JSON lines on stdout") from None


def _writers() -> Mapping[str, Writer]:
    return {".parquet": _parquet, ".npz": _npz, ".csv": _csv, ".jsonl": _json_lines}


@contextmanager
def _parquet(file: BinaryIO, model: Model) -> Iterator[Add]:
    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            *((name, pa.float64()) for name in NUMBERS),
            ("abstained", pa.bool_()),
            ("embedding", pa.list_(pa.float32(), model.dimension)),
            ("error", pa.string()),
        ],
        metadata=_of(model),
    )
    rows: list[Row] = []
    with pq.ParquetWriter(file, schema) as writer:

        def flush() -> None:
            writer.write_table(pa.Table.from_pylist([vars(row) for row in rows], schema))
            rows.clear()

        def add(row: Row) -> None:
            rows.append(row)
            if len(rows) == ROWS_OF_A_GROUP:
                flush()

        yield add
        flush()


@contextmanager
def _npz(file: BinaryIO, model: Model) -> Iterator[Add]:
    """One array a column; NaN where a number is None, an empty text where there was no error. All rows are kept."""
    rows: list[Row] = []
    yield rows.append
    missing = np.full(model.dimension, np.nan, np.float32)
    embedding = [missing if row.embedding is None else row.embedding for row in rows]
    columns: dict[str, Any] = {
        "id": np.array([row.id for row in rows], np.str_),
        **{name: np.array([getattr(row, name) for row in rows], np.float64) for name in NUMBERS},
        "abstained": np.array([bool(row.abstained) for row in rows]),
        "embedding": np.array(embedding, np.float32).reshape(len(rows), model.dimension),
        "error": np.array([row.error or "" for row in rows], np.str_),
    }
    np.savez(file, **columns, **_of(model))


@contextmanager
def _csv(file: BinaryIO, model: Model) -> Iterator[Add]:
    """Empty cells where a value is None; the embedding is a JSON list."""
    with io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        yield lambda row: writer.writerow([_cell(getattr(row, name)) for name in COLUMNS])


@contextmanager
def _json_lines(file: BinaryIO, model: Model) -> Iterator[Add]:
    def add(row: Row) -> None:
        file.write(orjson.dumps({**vars(row), **_of(model)}, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")

    yield add
    file.flush()


def _of(model: Model) -> dict[str, Any]:
    return {"bundle": model.bundle, "bundle_hash": model.bundle_hash}


def _cell(value: Any) -> Any:
    match value:
        case np.ndarray():
            return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY).decode()
        case bool():
            return str(value).lower()
        case _:
            return value

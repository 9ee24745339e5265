"""Which images there are: those of a folder, or those that a CSV lists, each with its id and payload."""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

from models.errors import UserError

IMAGES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")  # of JSON: 007 is a text


@dataclass(frozen=True)
class Image:
    """An image to store, and what is to stand beside it."""

    path: Path
    id: str
    payload: Mapping[str, Any]


def read_images(place: Path, label_field: str) -> list[Image]:
    """The images of a folder or a CSV, in its order.

    Raises:
        UserError: for a place without images, a CSV without the column `path`, or two images of one id.
    """
    images = list(_of_folder(place, label_field) if place.is_dir() else _of_csv(place, label_field))
    if not images:
        raise UserError(f"no images in {place}")
    twice = [item_id for item_id, count in Counter(image.id for image in images).items() if count > 1]
    if twice:
        raise UserError(f"{len(twice)} ids are given twice in {place}, the first of them {twice[0]!r}")
    return images


def below(folder: Path) -> Iterator[Path]:
    """Every image below a folder, by its name, in order."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(root, name) for name in sorted(names) if Path(name).suffix.lower() in IMAGES)


def with_label(payload: Mapping[str, Any], label_field: str, label: str) -> dict[str, Any]:
    """A payload with a label at a dotted path."""
    name, _, rest = label_field.partition(".")
    if not rest:
        return {**payload, name: label}
    inner = payload.get(name)
    return {**payload, name: with_label(inner if isinstance(inner, Mapping) else {}, rest, label)}


def _of_folder(folder: Path, label_field: str) -> Iterator[Image]:
    for path in below(folder):
        item_id = path.relative_to(folder).as_posix()
        label = "" if path.parent == folder else path.parent.name
        yield Image(path, item_id, _payload({"path": item_id}, label_field, label))


def _of_csv(path: Path, label_field: str) -> Iterator[Image]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            _check_columns(path, reader.fieldnames or ())
            for row in reader:
                yield _of_row(path, reader.line_num, row, label_field)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot read {path}: {error}") from error


def _check_columns(path: Path, names: Sequence[str]) -> None:
    if "path" not in names:
        raise UserError(f"{path} needs a column path")
    if len(set(names)) < len(names) or "" in names:
        raise UserError(f"{path}: every column needs a name of its own")


def _of_row(csv_path: Path, line: int, row: Mapping[str | None, Any], label_field: str) -> Image:
    if None in row or not row["path"]:
        raise UserError(f"{csv_path}, line {line}: {'too many cells' if None in row else 'no path'}")
    texts = {str(name): text for name, text in row.items() if text}
    name = PurePath(texts.pop("path")).as_posix()
    item_id, label = texts.pop("id", name), texts.pop("label", "")
    return Image(csv_path.parent / name, item_id, _payload({"path": name, **_with_numbers(texts)}, label_field, label))


def _payload(payload: Mapping[str, Any], label_field: str, label: str) -> Mapping[str, Any]:
    return with_label(payload, label_field, label) if label else payload


def _with_numbers(texts: Mapping[str, str]) -> dict[str, Any]:
    return {name: _number(text) if NUMBER.fullmatch(text) else text for name, text in texts.items()}


def _number(text: str) -> int | float | str:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        return text
    return int(text) if text.lstrip("-").isdigit() else number

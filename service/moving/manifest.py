"""The manifest of an export: whose items the folder holds, and which whole parts there are."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import UserError
from service.moving.content import added

MANIFEST: Final = "manifest.json"
PARTIAL: Final = ".partial"


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Part(_Strict):
    """One whole file of items, in order of id."""

    name: str = Field(pattern=r"^part-\d{6}\.parquet$")
    items: int = Field(ge=1)
    first_id: str
    last_id: str
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    checksum: str = Field(pattern=r"^[0-9a-f]{64}$")


class Manifest(_Strict):
    """`manifest.json`: `items` and `checksum` are those of all parts; `complete` once nothing is missing."""

    format: Literal["candor-gallery"] = "candor-gallery"
    version: Literal[1] = 1
    bundle: str
    bundle_hash: str
    dimension: int = Field(ge=1)
    engine: str
    source: str
    complete: bool = False
    items: int = 0
    checksum: str = added(())
    parts: tuple[Part, ...] = ()

    def grown(self, part: Part) -> "Manifest":
        """With one part more."""
        return self.model_copy(
            update={
                "items": self.items + part.items,
                "checksum": added((self.checksum, part.checksum)),
                "parts": (*self.parts, part),
            }
        )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder, whose sums are those of its parts.

    Raises:
        UserError: where there is none, or one that `candor gallery export` did not write.
    """
    path = folder / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{folder} holds no export: {error.strerror} ({MANIFEST})") from error
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:3])
        raise UserError(f"{path} is not a manifest of `candor gallery export`: {what}") from error
    items, sums = sum(part.items for part in manifest.parts), added(part.checksum for part in manifest.parts)
    if (items, sums) != (manifest.items, manifest.checksum):
        raise UserError(f"{path} contradicts itself: its totals are not those of its parts; export again")
    return manifest


def replace_durably(path: Path, data: bytes) -> None:
    """Write a file in one step: there, whole and on disk, or as it was before."""
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    rename_durably(partial, path)


def rename_durably(partial: Path, path: Path) -> None:
    """Give a file that is on disk its name, on disk too."""
    partial.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def at_work(folder: Path, *, writing: bool) -> Iterator[None]:
    """Keep exports that write a folder and imports that read it apart, as long as this process lives.

    Raises:
        UserError: where another is at work there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if writing else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise UserError(f"another export or import is at work in {folder}: wait until it is done") from error
    finally:
        os.close(descriptor)

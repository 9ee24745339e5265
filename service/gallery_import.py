r"""Fill a gallery of any engine from what `candor gallery export` wrote.

    candor gallery import backup --gallery milvus://milvus:19530/photos

Every file is checked against the manifest before anything is written. Items of the same id are replaced, others stay.
Stopped at any moment, the same command goes on after the last whole part. At the end each item is read back and
compared to the last bit; the exit code is 0 only if all agree.
"""

import argparse
import asyncio
import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from models.errors import UserError
from models.progress import Progress
from service.gallery.base import Gallery, GalleryError
from service.moving.content import MODULUS, item_hash
from service.moving.manifest import Manifest, Part, at_work, read_manifest, replace_durably
from service.moving.opening import Place, add_arguments, opened, read_place
from service.moving.parts import check_file, read_part
from service.moving.patience import patiently

ITEMS_PER_WRITE: Final = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """Which parts of one export are in one gallery, kept in a file."""

    path: Path
    owner: tuple[str, str]
    done: frozenset[str]

    def noted(self, done: frozenset[str]) -> "State":
        """With these parts done, on disk."""
        content = {"destination": self.owner[0], "export": self.owner[1], "parts": sorted(done)}
        replace_durably(self.path, json.dumps(content, indent=1).encode() + b"\n")
        return State(self.path, self.owner, done)


@dataclass(frozen=True)
class Compared:
    """How the items of a part are in the gallery: ids that are missing or differ, and the checksum of those found."""

    missing: tuple[str, ...]
    different: tuple[str, ...]
    total: int


def main(argv: Sequence[str] | None = None) -> None:
    """Import, or go on with an import."""
    options = _arguments().parse_args(argv)
    place = read_place(options)
    manifest = read_manifest(options.folder)
    _require_same(manifest, place, options.folder)
    with at_work(options.folder, writing=False):
        state = read_state(options.state or _state_path(options.folder, place), place.name, manifest)
        for part in manifest.parts:
            check_file(options.folder, part)
        asyncio.run(_run(place, options.folder, manifest, state))
    print(
        f"{place.name} holds all {manifest.items:,} items of {options.folder}, read back and equal to the last bit: "
        f"checksum {manifest.checksum}"
    )


async def import_all(gallery: Gallery, folder: Path, manifest: Manifest, state: State) -> None:
    """Write the parts not yet written, build indexes, and compare everything.

    Raises:
        UserError: where the gallery does not hold what the export does.
    """
    state = await _fill(gallery, folder, manifest, state)
    await _maintain(gallery)
    compared = await _compare_all(gallery, folder, manifest)
    agreeing = frozenset(name for name, each in compared.items() if not each.missing and not each.different)
    if len(agreeing) < len(manifest.parts):
        state.noted(agreeing)
        lines = [_told(name, each) for name, each in compared.items() if name not in agreeing]
        raise UserError(
            f"{state.owner[0]} does not hold what was exported: {'; '.join(lines[:5])}{' ...' if lines[5:] else ''}. "
            "The same command writes these parts again; other writers must rest meanwhile"
        )
    if f"{sum(each.total for each in compared.values()) % MODULUS:064x}" != manifest.checksum:
        raise UserError(
            f"the checksum of what {state.owner[0]} holds is not that of {folder}: an id is in two parts of it"
        )


def read_state(path: Path, destination: str, manifest: Manifest) -> State:
    """What an earlier run has done of this import: nothing, where the file is of another."""
    owner = (destination, manifest.checksum)
    try:
        content = json.loads(path.read_bytes())
        same = (content["destination"], content["export"]) == owner
        done = frozenset(content["parts"]) if same else frozenset()
    except (OSError, ValueError, KeyError, TypeError):
        done = frozenset()
    try:
        return State(path, owner, done).noted(done)
    except OSError as error:
        raise UserError(f"cannot keep the state of the import: {error}; name another file with --state") from error


async def _run(place: Place, folder: Path, manifest: Manifest, state: State) -> None:
    async with opened(place) as gallery:
        await import_all(gallery, folder, manifest, state)


async def _fill(gallery: Gallery, folder: Path, manifest: Manifest, state: State) -> State:
    before = sum(part.items for part in manifest.parts if part.name in state.done)
    with Progress("imported", "items", manifest.items, before) as progress:
        for part in manifest.parts:
            if part.name in state.done:
                continue
            for items in read_part(folder, part, ITEMS_PER_WRITE):
                await patiently(partial(gallery.upsert, items))
                progress.advance(len(items))
            state = state.noted(state.done | {part.name})
    return state


async def _maintain(gallery: Gallery) -> None:
    """Build indexes; a server that has the gallery open does so too, and may be in the way."""
    try:
        await gallery.maintain()
    except GalleryError as error:
        logger.warning("indexes are left to the server: %s", error)


async def _compare_all(gallery: Gallery, folder: Path, manifest: Manifest) -> dict[str, Compared]:
    with Progress("compared", "items", manifest.items) as progress:
        compared: dict[str, Compared] = {}
        for part in manifest.parts:
            compared[part.name] = await _compare(gallery, folder, part)
            progress.advance(part.items)
        return compared


async def _compare(gallery: Gallery, folder: Path, part: Part) -> Compared:
    missing: list[str] = []
    different: list[str] = []
    total = 0
    for items in read_part(folder, part, ITEMS_PER_WRITE):
        found = await patiently(partial(gallery.get_many, [item.id for item in items]))
        hashes = {item.id: item_hash(item) for item in found}
        missing += [item.id for item in items if item.id not in hashes]
        different += [item.id for item in items if hashes.get(item.id) not in (None, item_hash(item))]
        total += sum(hashes.values())
    return Compared(tuple(missing), tuple(different), total)


def _told(name: str, compared: Compared) -> str:
    parts = [
        f"{len(ids):,} {what} (the first {ids[0]!r})"
        for ids, what in ((compared.missing, "missing"), (compared.different, "different"))
        if ids
    ]
    return f"{name}: {', '.join(parts)}"


def _require_same(manifest: Manifest, place: Place, folder: Path) -> None:
    if not manifest.complete:
        raise UserError(f"the export in {folder} is not finished: run its `candor gallery export` again, which goes on")
    about = place.bundle
    if (manifest.bundle_hash, manifest.dimension) != (about.hash, about.manifest.dimension):
        raise UserError(
            f"{folder} holds embeddings of another bundle: of {manifest.bundle} {manifest.bundle_hash} (dimension "
            f"{manifest.dimension}), and this is {about.manifest.name} {about.hash} (dimension "
            f"{about.manifest.dimension}). Name that bundle with --bundle, or embed the images anew"
        )


def _state_path(folder: Path, place: Place) -> Path:
    return folder / f"import-{hashlib.sha256(place.name.encode()).hexdigest()[:12]}.json"


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="candor gallery import", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("folder", type=Path, metavar="DIR", help="what `candor gallery export` wrote")
    add_arguments(arguments)
    arguments.add_argument(
        "--state", type=Path, metavar="FILE", help="where to note what is done; beside the manifest if not given"
    )
    return arguments


if __name__ == "__main__":
    main()

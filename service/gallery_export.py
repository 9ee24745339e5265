r"""Write a gallery into a folder of Parquet files, from which any engine can be filled.

    candor gallery export --out backup
    candor gallery export --gallery postgresql://db/candor --bundle bundles/vit --out backup

Embeddings, uncertainty and payloads are written to the last bit, in order of id, with a manifest that holds the SHA-256
of every file and a checksum of the items. Stopped at any moment, the same command goes on after the last whole part.
The gallery may be in use: each item is written as it was when its part was read.
"""

import argparse
import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from models.errors import UserError
from models.progress import Progress
from service.gallery.base import Gallery, Item
from service.moving.manifest import MANIFEST, PARTIAL, Manifest, at_work, read_manifest, replace_durably
from service.moving.opening import Place, add_arguments, opened, read_place
from service.moving.parts import MAX_ITEMS, write_part
from service.moving.patience import patiently

ITEMS_PER_READ: Final = 1000


def main(argv: Sequence[str] | None = None) -> None:
    """Export, or go on with an export."""
    options = _arguments().parse_args(argv)
    place = read_place(options)
    if place.is_missing_folder:
        raise UserError(f"there is no gallery at {place.name}: name it with --gallery or CANDOR_GALLERY")
    options.out.mkdir(parents=True, exist_ok=True)
    with at_work(options.out, writing=True):
        before = begun(options.out, place, overwrite=options.overwrite)
        if before is not None and before.complete:
            print(f"{options.out} holds the whole export already ({summary(before)}); --overwrite makes it anew")
            return
        manifest = asyncio.run(_run(place, options.out, before, options.part_items))
    print(f"exported {place.name} to {options.out}: {summary(manifest)}")


def begun(out: Path, place: Place, *, overwrite: bool) -> Manifest | None:
    """The manifest of this very export, finished or not; None where it has not begun, and the folder is ready for it.

    Raises:
        UserError: where the folder holds anything else, unless that is to be overwritten.
    """
    if not any(out.iterdir()):
        return None
    try:
        manifest = read_manifest(out)
        if (manifest.source, manifest.bundle_hash) != (place.name, place.bundle.hash):
            raise UserError(f"{out} holds an export of {manifest.source} with bundle {manifest.bundle_hash}")
    except UserError as error:
        if not overwrite and not _only_debris(out):
            raise UserError(f"{error}; take an empty folder, or --overwrite") from error
    else:
        if not (manifest.complete and overwrite):
            _require_parts(out, manifest)
            return manifest
    _clear(out)
    return None


async def export(gallery: Gallery, out: Path, manifest: Manifest, part_items: int = MAX_ITEMS) -> Manifest:
    """Write the parts that a manifest lacks, each noted in it once it is on disk; the whole manifest."""
    _write(out, manifest)
    total = await patiently(gallery.count)
    chunks = _walk(gallery, manifest.parts[-1].last_id if manifest.parts else None, min(ITEMS_PER_READ, part_items))
    with Progress("exported", "items", total, manifest.items) as progress:
        while part := await write_part(out, len(manifest.parts) + 1, manifest.dimension, chunks, part_items):
            manifest = manifest.grown(part)
            _write(out, manifest)
            progress.advance(part.items)
    whole = manifest.model_copy(update={"complete": True})
    _write(out, whole)
    return whole


def summary(manifest: Manifest) -> str:
    """What it holds, in words."""
    return f"{manifest.items:,} items in {len(manifest.parts):,} parts, checksum {manifest.checksum}"


async def _run(place: Place, out: Path, before: Manifest | None, part_items: int) -> Manifest:
    async with opened(place) as gallery:
        return await export(gallery, out, before or _new(place, gallery), part_items)


async def _walk(gallery: Gallery, after: str | None, limit: int) -> AsyncIterator[list[Item]]:
    while items := await patiently(partial(gallery.walk, after, limit)):
        yield items
        after = items[-1].id


def _new(place: Place, gallery: Gallery) -> Manifest:
    about = place.bundle.manifest
    return Manifest(
        bundle=about.name,
        bundle_hash=place.bundle.hash,
        dimension=about.dimension,
        engine=gallery.engine,
        source=place.name,
    )


def _write(out: Path, manifest: Manifest) -> None:
    replace_durably(out / MANIFEST, manifest.model_dump_json(indent=1).encode() + b"\n")


def _require_parts(out: Path, manifest: Manifest) -> None:
    for part in manifest.parts:
        path = out / part.name
        if not path.is_file() or path.stat().st_size != part.bytes:
            raise UserError(f"{path} is missing or cut short: remove {out} and export again")


def _only_debris(out: Path) -> bool:
    """Whether there is nothing but what an export leaves that was killed before its first manifest."""
    return all(path.name == MANIFEST + PARTIAL for path in out.iterdir())


def _clear(out: Path) -> None:
    """Remove what exports write, the manifest first: parts without one are no export."""
    for pattern in (MANIFEST, "part-*.parquet", f"*{PARTIAL}", "import-*.json"):
        for path in sorted(out.glob(pattern)):
            path.unlink()


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="candor gallery export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    add_arguments(arguments)
    arguments.add_argument(
        "--overwrite", action="store_true", help="replace another or a finished export; one begun goes on"
    )
    arguments.add_argument("--part-items", type=int, default=MAX_ITEMS, metavar="N", help="most items in a file")
    return arguments


if __name__ == "__main__":
    main()

"""Exports of galleries that a test has open, and imports into them."""

from pathlib import Path

from service import gallery_export, gallery_import
from service.gallery.base import Gallery, Item
from service.moving.manifest import MANIFEST, Manifest, read_manifest
from tests.service.gallery.oracle import BUNDLE, DIMENSION, item

ODD = [
    item("a/ü \u2028 \U0001f9a4.jpg", 0.1, **{"naïve": "\u202e", "日本": ["ÿ", "\x01", '"\\'], "😀": {"": ""}}),
    item(" ", 1e-300, zero=0.0, whole=1.0, int=1, large=2**60, tiny=5e-324, none=None, yes=True, list=[[], {}]),
    item("'; DROP TABLE items; --", -3.5),
    item("\uffff", 0.25, after="the first of the astral plane, in UTF-16"),
    item("\U00010000", 1 / 3, text="x" * 5000),
    item("Z", 2.0, b=1, a=2),
]


def begin(gallery: Gallery, folder: Path) -> Manifest:
    """An export's manifest, before its first part."""
    folder.mkdir(exist_ok=True)
    return Manifest(
        bundle="tests", bundle_hash=BUNDLE, dimension=DIMENSION, engine=gallery.engine, source="a test's gallery"
    )


async def export(gallery: Gallery, folder: Path, part_items: int = 1000) -> Manifest:
    """A whole export."""
    return await gallery_export.export(gallery, folder, begin(gallery, folder), part_items)


async def import_into(gallery: Gallery, folder: Path) -> None:
    """A whole import, which goes on where one into the same gallery stopped."""
    manifest = read_manifest(folder)
    state = gallery_import.read_state(folder / "import-test.json", "a test's other gallery", manifest)
    await gallery_import.import_all(gallery, folder, manifest, state)


async def everything(gallery: Gallery) -> list[Item]:
    """All items, in order of id."""
    return await gallery.walk(None, 1_000_000)


def parts(folder: Path) -> list[str]:
    """Names of the files of a folder, less the manifest."""
    return sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)

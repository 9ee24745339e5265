"""Between engines: what comes out of one goes into another, to the last bit."""

from pathlib import Path

import numpy as np
import pytest

from models.errors import UserError
from service.gallery.checked import CheckedGallery
from service.moving.content import added, checksum
from tests.service.gallery.oracle import item, items_in_clusters, same_item
from tests.service.gallery.places import LancePlace, Place
from tests.service.moving.exports import ODD, everything, export, import_into, parts


async def test_every_engine_to_lancedb_and_back(
    place: Place, gallery: CheckedGallery, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = sorted([*ODD, *items_in_clusters(900)], key=lambda one: one.id)
    await gallery.upsert(items)
    there = await export(gallery, tmp_path / "there", part_items=250)
    lance = await LancePlace(tmp_path).open(str(tmp_path / "lance"))
    await import_into(lance, tmp_path / "there")
    back = await export(lance, tmp_path / "back", part_items=400)
    home = await place.open(place.fresh())
    await import_into(home, tmp_path / "back")

    assert there.engine == place.name
    assert back.engine == "lancedb"
    assert (there.items, len(there.parts), len(back.parts)) == (906, 4, 3)
    assert there.checksum == back.checksum == checksum(items)
    for moved in (await everything(lance), await everything(home)):
        assert len(moved) == len(items)
        assert all(same_item(left, right) for left, right in zip(moved, items, strict=True))
    assert "exported 906 of 906 items" in capsys.readouterr().err
    await lance.close()
    await home.close()


async def test_an_empty_gallery_is_an_export_too(place: Place, gallery: CheckedGallery, tmp_path: Path) -> None:
    manifest = await export(gallery, tmp_path / "out")
    other = await place.open(place.fresh())
    await import_into(other, tmp_path / "out")

    assert (manifest.complete, manifest.items, manifest.parts) == (True, 0, ())
    assert manifest.checksum == added(()) == "0" * 64
    assert parts(tmp_path / "out") == ["import-test.json"]
    assert await other.count() == 0
    await other.close()


async def test_an_import_replaces_items_of_the_same_id_and_leaves_others(
    place: Place, gallery: CheckedGallery, tmp_path: Path
) -> None:
    await gallery.upsert([item("a", 0.1, new=True), item("b", 0.2)])
    await export(gallery, tmp_path / "out")
    other = await place.open(place.fresh())
    await other.upsert([item("a", 0.9, old=True), item("c", 0.3)])
    await import_into(other, tmp_path / "out")

    assert [(one.id, one.uncertainty) for one in await everything(other)] == [("a", 0.1), ("b", 0.2), ("c", 0.3)]
    assert (await everything(other))[0].payload == {"new": True}
    await other.close()


async def test_what_is_missing_or_different_after_an_import_is_told_and_mended(
    place: Place, gallery: CheckedGallery, tmp_path: Path
) -> None:
    await gallery.upsert(items_in_clusters(30))
    manifest = await export(gallery, tmp_path / "out", part_items=10)
    other = await place.open(place.fresh())
    await import_into(other, tmp_path / "out")
    first, second = manifest.parts[0].first_id, manifest.parts[1].first_id
    changed = await other.get(second)
    assert changed is not None
    await other.delete([first])
    await other.upsert(
        [type(changed)(second, changed.embedding, np.nextafter(changed.uncertainty, 9), changed.payload)]
    )

    with pytest.raises(UserError) as told:
        await import_into(other, tmp_path / "out")
    assert f"part-000001.parquet: 1 missing (the first {first!r})" in str(told.value)
    assert f"part-000002.parquet: 1 different (the first {second!r})" in str(told.value)
    assert "part-000003" not in str(told.value)

    await import_into(other, tmp_path / "out")
    assert checksum(await everything(other)) == manifest.checksum
    await other.close()


def test_the_checksum_sees_every_bit_and_no_order() -> None:
    items = [item("a", 0.5, x=1, y=2), item("b", 0.5), item("b", 0.5)]
    assert checksum(items) == checksum(reversed(items)) == added([checksum(items[:1]), checksum(items[1:])])
    assert checksum(items) != checksum(items[:1])
    assert checksum([item("a", 0.5, y=2, x=1)]) == checksum(items[:1])
    for other in (item("a", 0.5, x=1, y=2.0), item("a", 0.5000000001, x=1, y=2), item("c", 0.5, x=1, y=2)):
        assert checksum([other]) != checksum(items[:1])
    flipped = item("a", 0.5, x=1, y=2)
    flipped.embedding[3] = np.nextafter(flipped.embedding[3], np.float32(1))
    assert checksum([flipped]) != checksum(items[:1])

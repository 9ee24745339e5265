"""Opening: what is kept is there again, and whose items may be served."""

import pytest

from service.gallery import open_gallery
from service.gallery.base import GalleryError
from tests.service.gallery.oracle import BUNDLE, DIMENSION, item, same_item
from tests.service.gallery.places import Place

OTHER = "sha256:" + "b" * 64


async def test_items_survive_closing(place: Place, location: str) -> None:
    for n in range(3):
        gallery = await place.open(location)
        assert gallery.engine == place.name
        assert await gallery.count() == n
        await gallery.upsert([item(f"i{n}", n=n)])
        await gallery.close()
    gallery = await place.open(location)
    for n in range(3):
        assert same_item(await gallery.get(f"i{n}"), item(f"i{n}", n=n))
    await gallery.close()


async def test_the_gallery_of_another_bundle_does_not_open(place: Place, location: str) -> None:
    gallery = await place.open(location)
    await gallery.upsert([item("a")])
    await gallery.close()
    for dimension, bundle_hash in ((DIMENSION, OTHER), (DIMENSION + 1, BUNDLE), (DIMENSION + 1, OTHER)):
        with pytest.raises(GalleryError) as refused:
            await place.open(location, dimension=dimension, bundle_hash=bundle_hash)
        for part in (BUNDLE, bundle_hash, f"dimension {DIMENSION}", f"dimension {dimension}", "CANDOR_GALLERY"):
            assert part in str(refused.value)
    gallery = await place.open(location)
    assert await gallery.count() == 1
    await gallery.close()


@pytest.mark.parametrize("location", ["mysql://host/db", "http://host", "s4://bucket"])
async def test_an_unknown_kind_of_place_is_refused(location: str) -> None:
    with pytest.raises(GalleryError, match="s3://"):
        await open_gallery(location, dimension=DIMENSION, bundle_hash=BUNDLE)

"""Every method of both clients, against a real server."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from httpx2 import Client as Http
from PIL import ExifTags, Image

from scripts.client import ApiError, Embedded, Labelled, NewItem, Stored, Target, Unreadable
from tests.scripts.client.conftest import value, values
from tests.service import process
from tests.service.images import encode, flat, picture, png
from tests.service.policies.factory import labelled


def raw(server: process.Server, method: str, path: str, **arguments: Any) -> Any:
    """What the server says to anybody."""
    with Http(base_url=server.url, timeout=process.PATIENCE_S) as http:
        return http.request(method, path, **arguments).raise_for_status().json()


async def test_an_image_is_embedded_as_the_server_says(client: Any, server: process.Server) -> None:
    told = raw(server, "POST", "/embed", content=png(1))
    embedded = await value(client.embed(png(1)))
    assert isinstance(embedded, Embedded)
    assert embedded.embedding is not None
    assert embedded.embedding.dtype == np.float32
    assert embedded.embedding.tolist() == np.asarray(told["results"][0]["embedding"], np.float32).tolist()
    for name in ("uncertainty", "percentile", "novelty", "novelty_percentile", "abstained"):
        assert getattr(embedded, name) == told["results"][0][name]
    assert (embedded.bundle, embedded.bundle_hash) == ("tiny", told["bundle_hash"])


async def test_an_image_may_be_a_path_bytes_pixels_or_a_picture(client: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    pixels = np.asarray(picture(1))
    forms = [png(1), tmp_path / "a.png", str(tmp_path / "a.png"), pixels, picture(1), picture(1).convert("CMYK")]
    first, *others = [await value(client.embed(form)) for form in forms]
    for other in others:
        assert np.array_equal(first.embedding, other.embedding)


async def test_a_picture_is_sent_upright(client: Any) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    lying = Image.open(io.BytesIO(encode(picture(1), "JPEG", exif=exif, quality=95, subsampling=0)))
    upright = await value(client.embed(np.asarray(lying.transpose(Image.Transpose.ROTATE_270))))
    lying_bytes = await value(client.embed(encode(picture(1), "JPEG", exif=exif, quality=95, subsampling=0)))
    embedded = await value(client.embed(lying))
    assert np.allclose(embedded.embedding, upright.embedding, atol=1e-6)
    assert np.allclose(embedded.embedding, lying_bytes.embedding, atol=0.02)  # JPEGs are decoded at a fraction there


async def test_what_is_too_uncertain_is_as_asked_for(client: Any) -> None:
    flagged = await value(client.embed(flat(), max_percentile=0.5))
    omitted = await value(client.embed(flat(), max_percentile=0.5, on_abstain="omit"))
    assert (flagged.abstained, flagged.embedding is None) == (True, False)
    assert (omitted.abstained, omitted.embedding is None) == (True, True)
    with pytest.raises(ApiError) as refused:
        await value(client.embed(flat(), max_uncertainty=0.1, on_abstain="error"))
    assert (refused.value.status, refused.value.type) == (422, "abstained")


async def test_images_of_a_list_fail_alone(client: Any, tmp_path: Path) -> None:
    good, broken, lost, array = await value(
        client.embed([png(1), b"no image", tmp_path / "nowhere.png", np.zeros((3, 3), np.uint8)])
    )
    assert isinstance(good, Embedded)
    assert isinstance(broken, ApiError)
    assert (broken.status, broken.type) == (415, "unsupported_format")
    assert isinstance(lost, Unreadable)
    assert "No such file" in lost.detail
    assert isinstance(array, Unreadable)
    assert "(H, W, 3)" in array.detail
    (alone,) = await value(client.embed([b"no image"]))
    assert isinstance(alone, ApiError)
    assert await value(client.embed([])) == []
    with pytest.raises(ApiError, match="known format"):
        await value(client.embed(b"no image"))
    with pytest.raises(Unreadable, match="No such file"):
        await value(client.embed(tmp_path / "nowhere.png"))


async def test_a_list_longer_than_a_request_may_be_is_sent_in_parts(client: Any) -> None:
    images = [png(seed) for seed in range(11)]
    embedded = await value(client.embed(images))
    single = [await value(client.embed(image)) for image in images]
    assert all(np.allclose(a.embedding, b.embedding, atol=1e-6) for a, b in zip(embedded, single, strict=True))


@pytest.mark.parametrize("ordered", [True, False])
async def test_any_number_of_images_streams_through(client: Any, ordered: bool) -> None:
    images = [png(seed) if seed % 10 else b"no image" for seed in range(60)]
    pairs = await values(client.embed_many(iter(images), batch=4, concurrency=3, ordered=ordered))
    assert sorted(image for image, _ in pairs) == sorted(images)
    if ordered:
        assert [image for image, _ in pairs] == images
    assert all(isinstance(outcome, Embedded) == (image != b"no image") for image, outcome in pairs)


async def test_no_more_images_are_read_than_are_under_way(client: Any) -> None:
    read: list[int] = []

    def images() -> Any:
        for seed in range(1000):
            read.append(seed)
            yield png(seed)

    seen, most = 0, 0
    pairs = client.embed_many(images(), batch=2, concurrency=2)
    if hasattr(pairs, "__aiter__"):
        async for _ in pairs:
            seen, most = seen + 1, max(most, len(read) - seen)
            if seen == 100:
                await pairs.aclose()
                break
    else:
        for _ in pairs:
            seen, most = seen + 1, max(most, len(read) - seen)
            if seen == 100:
                pairs.close()
                break
    assert most <= 2 * 2 + 2
    assert len(read) < 110


async def test_the_gallery_is_filled_searched_and_emptied(client: Any, server: process.Server) -> None:
    gallery = client.gallery
    odd = "a/../b c?#%ü"
    stored = await value(gallery.put(odd, png(1), payload={"label": "cat", "n": 1}))
    assert stored == Stored(odd, stored.uncertainty, stored.percentile)
    assert (await value(gallery.put("..", png(2), payload={"label": "dog"}))).id == ".."
    embedded = await value(client.embed(png(3)))
    await value(gallery.put("v", vector=embedded.embedding, uncertainty=0.5))

    item = await value(gallery.get(odd))
    assert (item.id, item.payload) == (odd, {"label": "cat", "n": 1})
    assert np.array_equal(item.embedding, (await value(client.embed(png(1)))).embedding)
    assert (await value(gallery.get(".."))).payload == {"label": "dog"}
    assert (await value(gallery.count()), await value(gallery.count({"label": "cat"}))) == (3, 1)
    described = await value(gallery.describe())
    told = raw(server, "GET", "/gallery")
    assert (described.count, described.bundle_hash) == (3, told["bundle_hash"])
    assert (described.dimension, described.engine) == (48, "lancedb")
    listed = await values(gallery.items(page=2))
    assert [each.id for each in listed] == [each["id"] for each in told["items"]]
    assert [each.id for each in await values(gallery.items({"label": "dog"}))] == [".."]

    found = await value(client.retrieve(png(1), limit=2))
    assert (found.decision, found.matches[0].id, len(found.matches)) == ("match", odd, 2)
    assert found.matches[0].payload == {"label": "cat", "n": 1}
    assert found.matches[0].score == pytest.approx(1.0, abs=1e-5)
    assert (await value(client.retrieve(id=odd))).matches[0].id != odd
    assert (await value(client.retrieve(vector=embedded.embedding, filter={"n": 1}))).matches[0].id == odd

    assert await value(gallery.delete_where({"label": "dog"})) == 1
    assert await value(gallery.delete(odd, "v", "never there")) == 2
    assert await value(gallery.count()) == 0
    with pytest.raises(ApiError) as unknown:
        await value(gallery.get(odd))
    assert (unknown.value.status, unknown.value.type) == (404, "unknown_id")
    assert unknown.value.request_id


async def test_abstaining_is_an_answer(client: Any) -> None:
    found = await value(client.retrieve(flat(), max_query_percentile=0.5))
    assert (found.decision, found.reasons, found.matches) == ("abstain", ("uncertain_query",), ())
    assert found.threshold.query.percentile == 0.5
    assert found.guarantee.status == "none"
    with pytest.raises(TypeError, match="exactly one"):
        await value(client.retrieve(png(1), id="a"))


async def test_many_items_are_stored_each_with_its_own_outcome(client: Any, tmp_path: Path) -> None:
    items = [NewItem(f"i{seed}", png(seed), payload={"seed": seed}) for seed in range(20)]
    items += [
        NewItem("broken", b"no image"),
        NewItem("lost", tmp_path / "nowhere.png"),
        NewItem("flat", flat()),
        NewItem("no JSON", png(1), payload={"x": object()}),
        NewItem("v", vector=[1.0] * 48, uncertainty=0.1),
    ]
    pairs = await values(client.gallery.add_many(items, batch=4, max_percentile=0.5))
    assert [item for item, _ in pairs] == items
    refused = {item.id: outcome.type for item, outcome in pairs if not isinstance(outcome, Stored)}
    assert refused == {
        "broken": "unsupported_format",
        "lost": "unreadable",
        "flat": "abstained",
        "no JSON": "unreadable",
    }
    assert await value(client.gallery.count()) == 21
    assert (await value(client.gallery.get("i7"))).payload == {"seed": 7}


async def test_a_policy_is_made_followed_judged_and_deleted(client: Any, server: process.Server) -> None:
    for seed in range(30):
        await value(client.gallery.put(str(seed), png(seed), payload={"label": f"l{seed}"}))
    inputs = ("top_score", "margin", "result_uncertainty")
    development, certification = (
        [Labelled({name: query.evidence[name] for name in inputs}, relevant=query.relevant) for query in queries]
        for queries in (labelled(400, 0), labelled(1500, 1))
    )
    made = await value(client.policies.create("shop", [Target(0.1, 0.1)], development, certification))
    assert (made.name, made.status, made.label_field, made.inputs[-1]) == ("shop", "valid", "label", "margin")
    assert made.targets[0].certificate.accepted > 0
    assert json.loads(json.dumps(made.quality)) == raw(server, "GET", "/policies/shop")["quality"]
    assert (await value(client.policies.get("shop"))).created == made.created
    assert [policy.name for policy in await value(client.policies.all())] == ["shop"]

    found = await value(client.retrieve(png(3), policy="shop"))
    assert (found.decision, found.guarantee.status, found.guarantee.alpha) == ("match", "valid", 0.1)
    assert 0.5 < found.p_correct <= 1.0
    judged = await value(client.policies.feedback(found.request_id, correct=True))
    assert (judged.policy, judged.counted, judged.audits, judged.alarm) == ("shop", True, 1, False)
    with pytest.raises(ApiError, match="judged otherwise"):
        await value(client.policies.feedback(found.request_id, relevant=[False]))
    assert await value(client.policies.delete("shop")) == 1
    with pytest.raises(ApiError) as unknown:
        await value(client.policies.get("shop"))
    assert unknown.value.type == "unknown_policy"


async def test_the_server_says_what_it_is(client: Any, server: process.Server) -> None:
    model = await value(client.model())
    told = raw(server, "GET", "/model")
    assert (model.bundle, model.dimension, model.backbone) == ("tiny", 48, told["backbone"])
    assert model.limits == told["limits"]
    assert await value(client.ready()) is True

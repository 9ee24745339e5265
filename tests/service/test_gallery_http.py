"""The `/gallery` calls, through the whole app."""

import base64
import json
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from httpx2 import Response

from service.schemas import GalleryPage, ItemWithEmbedding, StoredBody, StoredMany
from tests.service.bundle_factory import DIMENSION
from tests.service.conftest import Running
from tests.service.images import flat, png

PNG = {"content-type": "image/png"}
VECTOR = [1.0] + [0.0] * (DIMENSION - 1)


def text(image: bytes) -> str:
    return base64.b64encode(image).decode()


def kind(response: Response) -> tuple[int, str]:
    return response.status_code, response.json()["type"]


async def item(running: Running, name: str, **params: Any) -> dict[str, Any]:
    response = await running.client.get(f"/gallery/{name}", params=params)
    assert response.status_code == 200, response.text
    return ItemWithEmbedding.model_validate(response.json()).model_dump()


async def test_an_image_is_stored_with_the_numbers_embed_gives_it(running: Running) -> None:
    told = (await running.client.post("/embed", content=png(1), headers=PNG)).json()["results"][0]

    stored = await running.client.put(
        "/gallery/cat", content=png(1), headers=PNG, params={"payload": json.dumps({"camera": "north"})}
    )

    body = StoredBody.model_validate(stored.json())
    found = await item(running, "cat")
    assert stored.status_code == 200
    assert (body.id, body.uncertainty, body.percentile) == ("cat", told["uncertainty"], told["percentile"])
    assert found["uncertainty"] == told["uncertainty"]
    assert found["payload"] == {"camera": "north"}
    np.testing.assert_allclose(found["embedding"], told["embedding"], atol=1e-6)


async def test_every_form_of_put_stores_the_same(running: Running) -> None:
    payload = {"n": 1}
    await running.client.put("/gallery/a", content=png(1), headers=PNG, params={"payload": json.dumps(payload)})
    await running.client.put("/gallery/b", files={"image": png(1)}, data={"payload": json.dumps(payload)})
    await running.client.put("/gallery/c", json={"image": text(png(1)), "payload": payload})

    items = [await item(running, name) for name in "abc"]
    for other in items[1:]:
        np.testing.assert_allclose(other["embedding"], items[0]["embedding"], atol=1e-6)
        assert other["payload"] == payload
        assert other["uncertainty"] == pytest.approx(items[0]["uncertainty"], rel=1e-6)


async def test_a_vector_is_stored_at_unit_length_with_its_uncertainty(running: Running) -> None:
    response = await running.client.put(
        "/gallery/v", json={"vector": [3.0, 4.0] + [0.0] * (DIMENSION - 2), "uncertainty": 5.0}
    )

    assert response.json() == {"status": "ok", "id": "v", "uncertainty": 5.0, "percentile": 0.25}
    assert (await item(running, "v"))["embedding"][:3] == pytest.approx([0.6, 0.8, 0.0])


async def test_an_embedding_goes_out_and_comes_back_in_base64(running: Running) -> None:
    await running.client.put("/gallery/a", content=png(1), headers=PNG)
    first = await item(running, "a", encoding="base64")

    await running.client.put("/gallery/b", json={"vector": first["embedding"], "uncertainty": first["uncertainty"]})
    second = await item(running, "b", encoding="base64")

    one, two = (np.frombuffer(base64.b64decode(found["embedding"]), "<f4") for found in (first, second))
    np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("name", ["a/b/c.jpg", "día 1", "a?b#c", "100%", "delete", "..x"])
async def test_an_id_may_be_nearly_anything(running: Running, name: str) -> None:
    path = f"/gallery/{quote(name, safe='')}"
    assert (await running.client.put(path, json={"vector": VECTOR, "uncertainty": 1})).json()["id"] == name
    assert (await running.client.get(path)).json()["id"] == name
    assert (await running.client.delete(path)).json() == {"deleted": 1}
    assert (await running.client.get(path)).status_code == 404


@pytest.mark.parametrize("path", ["/gallery/", "/gallery/" + "x" * 513, "/gallery/a%00b", "/gallery/a%09b"])
async def test_an_id_that_cannot_be_stored_is_refused(running: Running, path: str) -> None:
    assert kind(await running.client.put(path, content=png(), headers=PNG)) == (400, "invalid_id")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, "malformed_request"),
        ({"image": "aGk=", "vector": VECTOR, "uncertainty": 1}, "malformed_request"),
        ({"vector": VECTOR}, "invalid_option"),
        ({"image": "aGk=", "uncertainty": 1}, "invalid_option"),
        ({"vector": VECTOR, "uncertainty": 1, "payload": [1]}, "invalid_option"),
        ({"vector": VECTOR, "uncertainty": 1, "payload": json.loads("[" * 40 + "]" * 40)}, "invalid_option"),
        ({"vector": VECTOR, "uncertainty": 1, "payload": {"a": json.loads("[" * 40 + "]" * 40)}}, "invalid_option"),
        ({"vector": VECTOR, "uncertainty": 1, "colour": "red"}, "invalid_option"),
        ({"vector": [1.0], "uncertainty": 1}, "invalid_vector"),
    ],
)
async def test_what_cannot_be_stored_is_refused(running: Running, body: dict[str, Any], expected: str) -> None:
    assert kind(await running.client.put("/gallery/a", json=body)) == (400, expected)
    assert running.gallery.items == {}


async def test_an_image_too_uncertain_is_not_stored(running: Running) -> None:
    refused = await running.client.put("/gallery/a", content=flat(), headers=PNG, params={"max_percentile": 0.9})
    stored = await running.client.put("/gallery/b", content=png(), headers=PNG, params={"max_percentile": 0.9})

    assert kind(refused) == (422, "abstained")
    assert stored.status_code == 200
    assert list(running.gallery.items) == ["b"]


async def test_many_items_have_each_their_own_outcome(running: Running) -> None:
    items = [
        {"id": "photo", "image": text(png(1)), "payload": {"n": 1}},
        {"id": "broken", "image": text(b"nonsense")},
        {"id": "vector", "vector": VECTOR, "uncertainty": 2.0},
        {"id": "short", "vector": [1.0], "uncertainty": 2.0},
        {"id": "unsure", "image": text(flat())},
        {"id": "", "image": text(png(2))},
        {"id": "misspelt", "imge": text(png(2))},
        "not an object",
        {"id": "last", "image": text(png(3))},
    ]

    response = await running.client.post("/gallery", json={"items": items, "max_percentile": 0.9})

    body = StoredMany.model_validate(response.json())
    outcomes = [(r.id, r.status if r.status == "ok" else r.error.type) for r in body.results]
    assert response.status_code == 200
    assert outcomes == [
        ("photo", "ok"),
        ("broken", "unsupported_format"),
        ("vector", "ok"),
        ("short", "invalid_vector"),
        ("unsure", "abstained"),
        ("", "invalid_id"),
        ("misspelt", "invalid_option"),
        ("items[7]", "invalid_option"),
        ("last", "ok"),
    ]
    assert (body.stored, body.failed) == (3, 6)
    assert sorted(running.gallery.items) == ["last", "photo", "vector"]
    np.testing.assert_allclose(
        running.gallery.items["last"].embedding,
        (await running.client.post("/embed", content=png(3), headers=PNG)).json()["results"][0]["embedding"],
        atol=1e-6,
    )


async def test_hundreds_of_vectors_go_in_at_once(running: Running) -> None:
    items = [{"id": str(n), "vector": VECTOR, "uncertainty": n / 50, "payload": {"n": n}} for n in range(300)]

    body = StoredMany.model_validate((await running.client.post("/gallery", json={"items": items})).json())

    assert (body.stored, body.failed) == (300, 0)
    assert [result.id for result in body.results] == [str(n) for n in range(300)]
    assert [found.payload["n"] for found in running.gallery.items.values()] == list(range(300))


async def test_a_form_of_files_is_stored_under_their_names(running: Running) -> None:
    files = [("images", (f"{name}.png", png(seed), "image/png")) for seed, name in enumerate("abc")]

    payloads = {"b.png": {"n": 2}, "c.png": {"deep": json.loads("[" * 40 + "]" * 40)}}
    response = await running.client.post("/gallery", files=files, data={"payloads": json.dumps(payloads)})

    assert [result["status"] for result in response.json()["results"]] == ["ok", "ok", "error"]
    assert {name: found.payload for name, found in running.gallery.items.items()} == {"a.png": {}, "b.png": {"n": 2}}


async def test_names_of_files_in_any_script_are_ids(running: Running) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="images"; filename="\xe7\x8c\xab \xc3\xbc.png"\r\n\r\n'
        + png()
        + b"\r\n--x--\r\n"
    )
    response = await running.client.post(
        "/gallery", content=body, headers={"content-type": "multipart/form-data; boundary=x"}
    )

    assert [(result["status"], result["id"]) for result in response.json()["results"]] == [("ok", "猫 ü.png")]


async def test_a_field_named_in_another_script_is_refused_by_its_name(running: Running) -> None:
    body = '--x\r\nContent-Disposition: form-data; name="猫"\r\n\r\n1\r\n--x--\r\n'.encode()
    response = await running.client.post(
        "/embed", content=body, headers={"content-type": "multipart/form-data; boundary=x"}
    )

    assert kind(response) == (400, "invalid_option")
    assert "猫" in response.json()["detail"]


@pytest.mark.parametrize("options", [{"max_percentile": True}, {"max_uncertainty": False}])
async def test_true_and_false_are_no_numbers(running: Running, options: dict[str, bool]) -> None:
    response = await running.client.post("/embed", json={"images": ["/9j/"], **options})

    assert kind(response) == (400, "invalid_option")
    assert "must not be" in response.json()["detail"]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"json": {}}, "invalid_option"),
        ({"json": {"items": []}}, "malformed_request"),
        ({"content": png(), "headers": PNG}, "malformed_request"),
        ({"files": {"photo": png()}}, "invalid_option"),
        ({"files": {"images": ("a", png())}, "data": {"payloads": '{"z": {}}'}}, "invalid_option"),
        ({"files": {"images": ("a", png())}, "data": {"payloads": '{"a": 1}'}}, "invalid_option"),
    ],
)
async def test_bad_bulk_requests_are_refused_whole(running: Running, request_: dict[str, Any], expected: str) -> None:
    assert kind(await running.client.post("/gallery", **request_)) == (400, expected)


async def test_pages_run_from_the_least_to_the_most_uncertain(running: Running) -> None:
    for n in (3, 1, 2, 0):
        body = {"vector": VECTOR, "uncertainty": n, "payload": {"even": n % 2 == 0}}
        await running.client.put(f"/gallery/{n}", json=body)

    whole = GalleryPage.model_validate((await running.client.get("/gallery")).json())
    page = GalleryPage.model_validate((await running.client.get("/gallery?limit=2&offset=1")).json())
    even = GalleryPage.model_validate((await running.client.get('/gallery?filter={"even": true}')).json())
    count = GalleryPage.model_validate((await running.client.get("/gallery?limit=0")).json())

    assert [found.id for found in whole.items] == ["0", "1", "2", "3"]
    assert (whole.count, whole.bundle, whole.engine, whole.dimension) == (4, "tiny", "fake", DIMENSION)
    assert [found.id for found in page.items] == ["1", "2"]
    assert ([found.id for found in even.items], even.passing, even.count) == (["0", "2"], 2, 4)
    assert (count.items, count.count) == ([], 4)


async def test_deleting_by_ids_and_by_filter(running: Running) -> None:
    for n in range(5):
        await running.client.put(f"/gallery/{n}", json={"vector": VECTOR, "uncertainty": n, "payload": {"n": n}})

    by_ids = await running.client.post("/gallery/delete", json={"ids": ["0", "nobody"]})
    by_filter = await running.client.post("/gallery/delete", json={"filter": {"n": {"gte": 3}}})

    assert by_ids.json() == {"deleted": 1}
    assert by_filter.json() == {"deleted": 2}
    assert sorted(running.gallery.items) == ["1", "2"]


@pytest.mark.parametrize(
    "body", [{}, {"ids": ["a"], "filter": {"n": 1}}, {"ids": "a"}, {"filter": 1}, {"ids": [], "all": True}]
)
async def test_bad_deletions_are_refused(running: Running, body: dict[str, Any]) -> None:
    assert kind(await running.client.post("/gallery/delete", json=body)) == (400, "invalid_option")


async def test_a_deletion_needs_json(running: Running) -> None:
    response = await running.client.post("/gallery/delete", content=b"x", headers={"content-type": "image/png"})
    assert kind(response) == (415, "unsupported_media_type")


async def test_the_gallery_is_closed_with_the_app(start: Any) -> None:
    async with start() as running:
        assert not running.gallery.closed
    assert running.gallery.closed


async def test_an_item_that_the_engine_has_no_room_for_is_refused_alone(running: Running) -> None:
    running.gallery.room = 100
    long, short = {"text": "x" * 200}, {"text": "x"}
    alone = await running.client.put("/gallery/long", json={"vector": VECTOR, "uncertainty": 0.5, "payload": long})
    several = await running.client.post(
        "/gallery",
        json={
            "items": [
                {"id": name, "vector": VECTOR, "uncertainty": 0.5, "payload": payload}
                for name, payload in (("short", short), ("long", long))
            ]
        },
    )
    assert kind(alone) == (413, "item_too_large")
    assert "too long" in alone.json()["detail"]
    assert StoredMany.model_validate(several.json()).stored == 1
    assert several.json()["results"][1]["error"]["type"] == "item_too_large"
    assert list(running.gallery.items) == ["short"]

"""Two candor servers on one engine: each sees what the other writes, and neither has to start again with the engine."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from httpx2 import Client

from tests.service.bundle_factory import make_bundle
from tests.service.gallery.places import SERVERS, ServerPlace
from tests.service.images import png
from tests.service.process import PATIENCE_S, Server, ready_client, serving
from tests.service.test_process import PNG, Ingest, check_survivors, wait_until

pytestmark = pytest.mark.parametrize("place", SERVERS, indirect=True)

PUTS = 60


def put(client: Client, name: str, seed: int = 1) -> int:
    return client.put(f"/gallery/{name}", content=png(seed), headers=PNG).status_code


def status(client: Client) -> int:
    return client.get("/gallery/other").status_code


def check_unavailable(client: Client) -> None:
    """Every kind of request to the gallery gets 503, and when to ask again; what needs no gallery is answered."""
    answers = [
        client.get("/gallery"),
        client.get("/gallery/other"),
        client.put("/gallery/late", content=png(1), headers=PNG),
        client.delete("/gallery/other"),
        client.post("/retrieve", content=png(1), headers=PNG),
    ]
    for answer in answers:
        assert answer.status_code == 503, answer.text
        assert answer.json()["type"] == "gallery_unavailable"
        assert int(answer.headers["retry-after"]) >= 1
    assert client.post("/embed", content=png(1), headers=PNG).status_code == 200


def write_through_both_until_the_first_dies(first: Server, other: Client) -> Ingest:
    """What was acknowledged by the first; the other's puts are all acknowledged."""
    ingest = Ingest(first, 0)
    with ThreadPoolExecutor(3) as threads:
        tasks = [threads.submit(ingest.run, writer) for writer in range(2)]
        others = threads.submit(lambda: [put(other, f"other-{n}") for n in range(PUTS)])
        wait_until(lambda: ingest.has_stored(50))
        first.kill()
        for task in tasks:
            task.result(PATIENCE_S)
        assert set(others.result(PATIENCE_S)) == {200}
    return ingest


def test_two_servers_share_an_engine_that_dies_and_comes_back(
    place: ServerPlace, location: str, bundle_path: Path, tmp_path: Path
) -> None:
    start = partial(serving, bundle_path, location, **place.settings)
    with start(CANDOR_POLICIES=str(tmp_path / "1")) as first, start(CANDOR_POLICIES=str(tmp_path / "2")) as second:
        with ready_client(first) as one, ready_client(second) as other:
            for n, (writer, reader) in enumerate([(one, other), (other, one)] * 5):
                assert put(writer, f"seen-{n}", seed=n) == 200
                assert reader.get(f"/gallery/seen-{n}").status_code == 200
                found = reader.post("/retrieve", content=png(n), headers=PNG).json()["matches"]
                assert found[0]["id"] == f"seen-{n}"
            ingest = write_through_both_until_the_first_dies(first, other)
            check_survivors(other, ingest.stored, ingest.deleted, kills=1)
            assert all(other.get(f"/gallery/other-{n}").status_code == 200 for n in range(PUTS))

            assert put(other, "other") == 200
            place.kill()
            try:
                check_unavailable(other)
            finally:
                place.start()
            wait_until(lambda: status(other) == 200)
            assert put(other, "late") == 200
            check_survivors(other, ingest.stored, ingest.deleted, kills=2)
        if place.options.password is not None:
            assert json.dumps(place.options.password)[1:-1] not in second.errors


def test_a_server_that_starts_before_its_engine_waits_for_it(
    place: ServerPlace, location: str, bundle_path: Path, tmp_path: Path
) -> None:
    place.kill()
    try:
        settings = {**place.settings, "CANDOR_POLICIES": str(tmp_path / "policies")}
        with serving(bundle_path, location, **settings) as server:
            server.event("waiting for the gallery")
            with Client(base_url=server.url, timeout=PATIENCE_S) as client:
                assert client.get("/readyz").status_code == 503
                place.start()
                server.event("ready")
                assert put(client, "a") == 200
                assert client.get("/readyz").status_code == 200
    finally:
        place.kill()
        place.start()


def test_one_server_keeps_a_gallery_of_each_version_of_each_bundle(
    place: ServerPlace, location: str, bundle_path: Path, tmp_path: Path
) -> None:
    changing = make_bundle(tmp_path / "changing", grid=2)
    settings = {**place.settings, "CANDOR_POLICIES": str(tmp_path / "p"), "CANDOR_GALLERY_TABLE": "of {bundle} {hash}"}
    if location.startswith("milvus://"):
        location += "_{bundle}_{hash}"
    with serving(f"{bundle_path},my-own={changing}", location, **settings) as server, ready_client(server) as client:
        own = {"bundle": "my-own"}
        assert put(client, "tiny") == 200
        assert client.put("/gallery/before", content=png(1), headers=PNG, params=own).status_code == 200
        make_bundle(changing, sign=-1)
        assert client.post("/admin/reload").status_code == 200
        assert client.get("/gallery", params=own).json()["count"] == 0
        assert client.put("/gallery/after", content=png(1), headers=PNG, params=own).status_code == 200
        make_bundle(changing, grid=2)
        assert client.post("/admin/reload").status_code == 200
        found = client.post("/retrieve", content=png(1), headers=PNG, params=own).json()["matches"]
        default = client.post("/retrieve", content=png(1), headers=PNG).json()["matches"]

    assert [match["id"] for match in found] == ["before"]
    assert [match["id"] for match in default] == ["tiny"]

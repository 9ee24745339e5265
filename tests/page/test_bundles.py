"""Several bundles: chosen on the page, each with its own numbers and reference set, and some without a gallery."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from httpx2 import Client
from playwright.sync_api import expect

from tests.page.conftest import Open
from tests.page.pictures import picture, pictures
from tests.service.bundle_factory import make_bundle
from tests.service.process import Server, ready_client, serving

PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def two(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of two bundles, of which the second is twice as unsure and has no gallery."""
    home = tmp_path_factory.mktemp("two")
    other = make_bundle(home / "other", name="other", scale=2.0)
    served = ("--bundle", f"tiny={bundle_path}", "--bundle", f"other={other}")
    gallery = f"tiny={home / 'gallery'},other=none"
    with serving(bundle_path, gallery, *served, CANDOR_AUTOTUNE="false") as server:
        server.event("ready")
        yield server


def test_another_bundle_reads_the_images_anew(open_page: Open, two: Server) -> None:
    visit = open_page(two.url)
    page, files = visit.page, pictures(3)
    visit.pick(*files)
    visit.answered(3)
    with ready_client(two) as client:
        for bundle in ("tiny", "other"):
            page.get_by_label("Bundle").select_option(bundle)
            expect(page.locator("#served")).to_contain_text(bundle)
            for name, data in files:
                result = client.post("/embed", content=data, headers=PNG, params={"bundle": bundle}).json()["results"][
                    0
                ]
                expect(visit.card(name).locator(".percentile")).to_have_text(f"{100 * result['percentile']:.1f} %")
    asked = [request.url for request in visit.sent("POST", "/embed")]
    assert sum("bundle=other" in url for url in asked) == 3


def test_a_bundle_without_a_gallery_says_so(open_page: Open, two: Server) -> None:
    page = open_page(two.url).page
    page.get_by_label("Bundle").select_option("other")
    expect(page.locator("#served")).to_contain_text("other")
    page.get_by_role("link", name="Gallery").click()
    expect(page.get_by_role("alert")).to_contain_text("This bundle has no gallery")


def test_one_bundle_is_no_choice(open_page: Open, server: Server, client: Client) -> None:
    expect(open_page(server.url).page.get_by_label("Bundle")).to_be_hidden()


def test_a_bundle_replaced_meanwhile_is_told(open_page: Open, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    gallery = str(tmp_path / "{hash}")
    with serving(bundle, gallery, CANDOR_AUTOTUNE="false") as server, ready_client(server) as client:
        visit = open_page(server.url)
        shutil.rmtree(bundle)
        make_bundle(bundle, scale=2.0)
        assert client.post("/admin/reload").status_code == 200
        visit.pick(("a.png", picture(1.0)))
        visit.answered(1)
        expect(visit.page.locator("#notice")).to_contain_text("another version of this bundle")

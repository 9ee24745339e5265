"""What goes wrong is shown where it went wrong, in the server's own words."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from httpx2 import Client
from PIL import Image
from playwright.sync_api import expect

from tests.page.conftest import Open
from tests.page.pictures import picture, pictures
from tests.service.callers import give_key
from tests.service.process import Server, serving


@pytest.fixture(scope="module")
def small(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes little, at a time and altogether."""
    limits = {
        "CANDOR_MAX_IMAGE_BYTES": "20000",
        "CANDOR_MAX_PIXELS": "10000",
        "CANDOR_QUEUE_IMAGES": "1",
        "CANDOR_MAX_IMAGES_PER_REQUEST": "1",
    }
    gallery = tmp_path_factory.mktemp("small") / "gallery"
    with serving(bundle_path, gallery, CANDOR_AUTOTUNE="false", **limits) as server:
        server.event("ready")
        yield server


def blank(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("photo.heic", b"\0\0\0\x18ftypheic" + b"0" * 40, "415 · unsupported_format"),
        ("cut.png", picture(1.0)[:-60], "422 · undecodable_image"),
        ("poster.png", blank(200, 100), "413 · image_too_large"),
        ("empty.png", b"", "400 · malformed_request"),
    ],
)
def test_an_image_that_the_server_refuses_says_why(
    open_page: Open, small: Server, name: str, data: bytes, kind: str
) -> None:
    visit = open_page(small.url)
    visit.pick((name, data), ("good.png", picture(1.0)))
    visit.answered(1)
    with Client(base_url=small.url) as client:
        problem = client.post("/embed", content=data, headers={"content-type": "application/octet-stream"}).json()
    card = visit.card(name)
    expect(card).to_contain_text(problem["title"])
    expect(card).to_contain_text(problem["detail"])
    expect(card).to_contain_text(kind)


def test_an_image_of_too_many_bytes_is_not_even_sent(open_page: Open, small: Server) -> None:
    visit = open_page(small.url)
    visit.pick(("large.png", picture(1.0) + b"0" * 30_000))
    expect(visit.card("large.png")).to_contain_text("413 · image_too_large")
    expect(visit.card("large.png")).to_contain_text("the limit is 20000")
    assert visit.sent("POST", "/embed") == []


def test_a_full_queue_is_waited_for(open_page: Open, small: Server) -> None:
    visit = open_page(small.url)
    visit.pick(*pictures(24))
    visit.answered(24)
    statuses = {response.status for request in visit.sent("POST", "/embed") if (response := request.response())}
    assert 429 in statuses  # four at a time are more than it takes


def test_a_server_that_went_away_is_told_and_tried_again(open_page: Open, bundle_path: Path, tmp_path: Path) -> None:
    with serving(bundle_path, tmp_path / "gallery", CANDOR_AUTOTUNE="false") as server:
        server.event("ready")
        url = server.url
        visit = open_page(url)
    visit.pick(("a.png", picture(1.0)))
    expect(visit.card("a.png")).to_contain_text("The server cannot be reached")
    port = url.rpartition(":")[2]
    with serving(bundle_path, tmp_path / "gallery", "--port", port, CANDOR_AUTOTUNE="false") as server:
        server.event("ready")
        visit.page.get_by_role("button", name="Retry a.png").click()
        visit.answered(1)


def test_a_server_that_is_loading_is_waited_for(open_page: Open, bundle_path: Path) -> None:
    unreachable = "postgresql://127.0.0.1:1/nowhere"
    with serving(bundle_path, unreachable, CANDOR_AUTOTUNE="false", CANDOR_POLICIES="/dev/null") as server:
        server.event("waiting for the gallery")
        visit = open_page(server.url, ready=False)
        expect(visit.page.locator("#notice")).to_contain_text("the server is loading")
        expect(visit.page.get_by_role("button", name="Choose images")).to_be_disabled()


@dataclass(frozen=True)
class Guarded:
    """A server that asks for an API key, and two keys of it."""

    url: str
    key: str
    embedding_only: str


@pytest.fixture(scope="module")
def guarded(bundle_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    home = tmp_path_factory.mktemp("guarded")
    file = home / "keys.txt"
    keys = give_key(file), give_key(file, "reader", "embed")
    with serving(bundle_path, home / "gallery", CANDOR_AUTOTUNE="false", CANDOR_API_KEYS=str(file)) as server:
        server.event("ready")
        yield Guarded(server.url, *keys)


def test_a_key_is_asked_for_once_and_kept_in_the_tab(open_page: Open, guarded: Guarded) -> None:
    visit = open_page(guarded.url, ready=False)
    page = visit.page
    dialog = page.get_by_role("dialog", name="This server asks for an API key")
    dialog.get_by_label("Key").fill("wrong-horse")
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("did not take the key")
    dialog.get_by_label("Key").fill(guarded.key)
    dialog.get_by_role("button", name="Use key").click()
    expect(page.locator("#version")).to_contain_text("candor")
    visit.pick(*pictures(3))
    visit.answered(3)
    page.reload()
    expect(page.locator("#version")).to_contain_text("candor")
    expect(dialog).to_be_hidden()
    assert page.evaluate("Object.values(localStorage).join()") == ""
    other = page.context.new_page()
    other.goto(guarded.url)
    expect(other.get_by_role("dialog")).to_be_visible()


def test_without_a_key_the_page_says_so_and_asks_again_when_wanted(open_page: Open, guarded: Guarded) -> None:
    page = open_page(guarded.url, ready=False).page
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.locator("#notice")).to_contain_text("An API key is needed")
    page.locator("#notice").click()
    expect(page.get_by_role("dialog")).to_be_visible()


def test_a_missing_scope_is_named(open_page: Open, guarded: Guarded) -> None:
    visit = open_page(guarded.url, ready=False)
    page = visit.page
    page.get_by_role("dialog").get_by_label("Key").fill(guarded.embedding_only)
    page.keyboard.press("Enter")
    expect(page.locator("#version")).to_contain_text("candor")
    visit.pick(("a.png", picture(1.0)))
    visit.answered(1)
    page.get_by_role("button", name="Add a.png to the gallery").click()
    page.get_by_role("dialog").get_by_role("button", name="Add").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("this needs a key with the scope write")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Search with a.png").click()
    expect(page.get_by_role("region", name="Answer").get_by_role("alert")).to_contain_text("the scope retrieve")
    page.get_by_role("link", name="Gallery").click()
    expect(page.locator("#gallery-items").get_by_role("alert")).to_contain_text("the scope retrieve")

"""The gallery on the page: add, look through, find, delete, and take a deletion back."""

import json

import pytest
from httpx2 import Client
from playwright.sync_api import Locator, Page, expect

from tests.page.pictures import picture
from tests.page.visit import Visit


def gallery_view(visit: Visit) -> Page:
    visit.page.get_by_role("link", name="Gallery").click()
    return visit.page


def names(page: Page) -> Locator:
    return page.locator("table.items .item-id .name")


@pytest.fixture
def many(client: Client) -> list[str]:
    """120 items, the surest first."""
    items = [
        {
            "id": f"item-{number:03}",
            "vector": [1.0, *[number / 1000] * 47],
            "uncertainty": number / 10,
            "payload": {"half": number % 2},
        }
        for number in range(120)
    ]
    assert client.post("/gallery", json={"items": items}).json()["stored"] == 120
    return [str(item["id"]) for item in items]


def test_a_card_is_added_under_an_id_with_a_payload(visit: Visit, client: Client) -> None:
    visit.pick(("a.png", picture(1.0)))
    visit.answered(1)
    page = visit.page
    page.get_by_role("button", name="Add a.png to the gallery").click()
    dialog = page.get_by_role("dialog", name="Add to the gallery")
    expect(dialog.get_by_label("Id")).to_have_value("a.png")
    dialog.get_by_label("Id").fill("cats/a 1?")
    dialog.get_by_label("Payload").fill("[1, 2]")
    dialog.get_by_role("button", name="Add").click()
    expect(dialog.get_by_role("alert")).to_contain_text("A JSON object is needed")
    dialog.get_by_label("Payload").fill('{"camera": "north"}')
    dialog.get_by_role("button", name="Add").click()
    expect(dialog).to_be_hidden()
    expect(visit.card("a.png")).to_contain_text("In gallery")
    (item,) = client.get("/gallery").json()["items"]
    assert (item["id"], item["payload"]) == ("cats/a 1?", {"camera": "north"})
    page.get_by_role("button", name="Show gallery").click()
    expect(names(page)).to_have_text(["cats/a 1?"])
    expect(page.locator("table.items .mini img")).to_be_visible()  # its own small picture: the server keeps none


def test_an_empty_gallery_says_how_to_fill_it(visit: Visit) -> None:
    expect(gallery_view(visit).get_by_text("The gallery is empty")).to_be_visible()


def test_items_are_paged_by_uncertainty_from_either_end(visit: Visit, many: list[str]) -> None:
    page = gallery_view(visit)
    expect(page.locator("#gallery-lead")).to_contain_text("120 items of bundle tiny")
    expect(names(page)).to_have_text(many[:50])
    page.get_by_role("button", name="Next").click()
    expect(names(page)).to_have_text(many[50:100])
    page.get_by_role("button", name="Next").click()
    expect(names(page)).to_have_text(many[100:])
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    page.get_by_label("Order").select_option("most uncertain first")
    expect(names(page)).to_have_text(many[:-51:-1])
    page.get_by_role("button", name="Next").click()
    page.get_by_role("button", name="Next").click()
    expect(names(page)).to_have_text(many[19::-1])
    expect(page.locator("#page-text")).to_have_text("101\u2013120 of 120")


def test_items_are_found_by_id_and_by_filter(visit: Visit, many: list[str]) -> None:
    page = gallery_view(visit)
    page.locator("#gallery-id").fill("item-077")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(names(page)).to_have_text(["item-077"])
    page.locator("#gallery-id").fill("nobody")
    page.keyboard.press("Enter")
    expect(page.locator("#gallery-items").get_by_role("alert")).to_contain_text("The gallery has no such item")
    page.locator("#gallery-id").fill("")
    page.locator("#gallery-filter").fill(json.dumps({"half": 1}))
    page.keyboard.press("Enter")
    expect(names(page)).to_have_text(many[1:100:2])
    expect(page.locator("#page-text")).to_have_text("1\u201350 of 60")
    page.locator("#gallery-filter").fill(json.dumps({"half": {"near": 1}}))
    page.keyboard.press("Enter")
    expect(page.locator("#gallery-items").get_by_role("alert")).to_contain_text("The filter cannot be read")


def test_a_deletion_can_be_taken_back(visit: Visit, client: Client, many: list[str]) -> None:
    before = client.get("/gallery/item-003").json()
    page = gallery_view(visit)
    page.get_by_role("button", name="Delete item-003").click()
    expect(names(page).first).to_have_text("item-000")
    expect(page.get_by_text("item-003 is deleted.")).to_be_visible()
    expect(names(page).filter(has_text="item-003")).to_have_count(0)
    assert client.get("/gallery/item-003").status_code == 404
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_text("item-003 is back.")).to_be_visible()
    expect(names(page).nth(3)).to_have_text("item-003")
    after = client.get("/gallery/item-003").json()
    assert after["embedding"] == pytest.approx(before["embedding"], abs=1e-6)
    assert (after["uncertainty"], after["payload"]) == (before["uncertainty"], before["payload"])


def test_an_item_is_searched_with_from_the_gallery(visit: Visit, many: list[str]) -> None:
    page = gallery_view(visit)
    page.get_by_role("button", name="Search with item-005").click()
    expect(page.get_by_role("heading", name="Match", exact=True)).to_be_visible()
    expect(page.locator(".match .name").first).to_have_text("item-004")

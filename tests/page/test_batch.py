"""Hundreds of images at once: all are answered, few at a time, and the page goes on working."""

from pathlib import Path

import pytest
from httpx2 import Client
from playwright.sync_api import Locator, Request, expect

from tests.page.pictures import pictures
from tests.page.visit import Visit

COUNT = 300
LANES = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for name, data in pictures(COUNT):
        (folder / name).write_bytes(data)
    return folder


def test_hundreds_of_dropped_images_are_answered_with_progress(visit: Visit, client: Client, folder: Path) -> None:
    page = visit.page
    waiting: set[Request] = set()
    most = [0]

    def sent(request: Request) -> None:
        if "/embed" in request.url:
            waiting.add(request)
            most[0] = max(most[0], len(waiting))

    page.on("request", sent)
    page.on("requestfinished", lambda request: waiting.discard(request))
    visit.drop([folder])
    bar = page.get_by_role("progressbar", name="Images answered")
    expect(bar).to_be_visible()
    expect(page.locator(".card")).to_have_count(COUNT)
    visit.set_threshold(30)  # while they come
    visit.answered(COUNT)
    expect(bar).to_be_hidden()
    expect(page.locator("#announcer")).to_have_text("Done: 300 of 300 images")
    assert 2 <= most[0] <= LANES
    embedded = visit.sent("POST", "/embed")
    assert len(embedded) == COUNT
    answered = int(page.locator("[data-count=answered]").inner_text())
    abstained = int(page.locator("[data-count=abstained]").inner_text())
    assert answered + abstained == COUNT
    expect(page.locator(".card.abstained")).to_have_count(abstained)
    assert 0 < abstained < COUNT
    page.get_by_label("Sort").select_option("most uncertain first")
    first, last = page.locator(".card .percentile").first, page.locator(".card .percentile").last
    expect(first).to_have_text(_most_uncertain(client))
    assert _number(first) > _number(last)


def _most_uncertain(client: Client) -> str:
    _, data = pictures(COUNT)[-1]
    result = client.post("/embed", content=data, headers={"content-type": "image/png"}).json()["results"][0]
    return f"{100 * result['percentile']:.1f} %"


def _number(share: Locator) -> float:
    return float((share.text_content() or "").replace("%", "").strip())


def test_thumbnails_are_made_of_what_is_in_view_only_and_given_back(visit: Visit, folder: Path) -> None:
    page = visit.page
    visit.drop([folder])
    visit.answered(COUNT)
    made = page.locator(".thumb img[src]")
    expect(made.first).to_be_attached()
    assert made.count() < COUNT / 2
    page.locator(".card").last.scroll_into_view_if_needed()
    expect(page.locator(".card").last.locator("img[src]")).to_be_attached()
    url = page.locator(".card").first.locator("img").get_attribute("src")
    page.get_by_role("button", name="Clear").click()
    loads = """url => new Promise((resolve) => {
        const image = new Image();
        image.onload = () => resolve(true);
        image.onerror = () => resolve(false);
        image.src = url;
    })"""
    assert not page.evaluate(loads, url)


def test_a_batch_can_be_cancelled_and_what_was_left_sent_later(visit: Visit, folder: Path) -> None:
    page = visit.page
    visit.drop([folder])
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.get_by_role("progressbar", name="Images answered")).to_be_hidden()
    left = page.locator(".card[data-state=cancelled]")
    expect(left.first).to_contain_text("Not sent")
    expect(page.locator(".card[data-state=waiting], .card[data-state=working]")).to_have_count(0)
    assert left.count() + page.locator(".card[data-state=done]").count() == COUNT
    page.get_by_role("button", name="Retry failed").click()
    visit.answered(COUNT)
    expect(page.get_by_role("button", name="Retry failed")).to_be_hidden()

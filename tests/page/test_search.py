"""Search: by a card, by a dropped image, by an item; with thresholds, filters and policies; and why it abstains."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from httpx2 import Client
from playwright.sync_api import Locator, Page, expect

from tests.page.certified import make_policy
from tests.page.pictures import picture, pictures
from tests.page.visit import Visit

PNG = {"content-type": "image/png"}


@pytest.fixture
def filled(client: Client) -> list[tuple[str, bytes]]:
    """A gallery of six pictures, told apart by their payload."""
    files = pictures(6)
    for number, (name, data) in enumerate(files):
        payload = json.dumps({"label": "even" if number % 2 == 0 else "odd", "number": number})
        client.put(f"/gallery/{name}", content=data, headers=PNG, params={"payload": payload})
    return files


def answer(page: Page) -> Locator:
    region = page.get_by_role("region", name="Answer")
    expect(region).not_to_have_attribute("aria-busy", "true")
    return region


def go(page: Page) -> Locator:
    with page.expect_response("**/retrieve*"):
        page.get_by_role("button", name="Search", exact=True).first.click()
    return answer(page)


def ids(region: Locator) -> Locator:
    return region.locator(".match .name")


def search_view(visit: Visit) -> Page:
    visit.page.get_by_role("link", name="Search").click()
    return visit.page


def test_a_card_finds_its_like(visit: Visit, client: Client, filled: list[tuple[str, bytes]]) -> None:
    visit.pick(filled[2])
    visit.answered(1)
    visit.page.get_by_role("button", name="Search with p002.png").click()
    region = answer(visit.page)
    expect(region.get_by_role("heading", name="Match")).to_be_visible()
    told = client.post("/retrieve", content=filled[2][1], headers=PNG).json()["matches"]
    expect(ids(region)).to_have_text([match["id"] for match in told])
    first = region.locator(".match").first
    expect(first.locator(".match-score b")).to_have_text("1.000")
    expect(first.locator(".match-doubt b")).to_have_text(f"{100 * told[0]['percentile']:.1f} %")
    expect(first.locator(".chips li")).to_have_text(["label even", "number 2"])


def test_an_image_dropped_on_the_search_view_is_the_query(
    visit: Visit, filled: list[tuple[str, bytes]], tmp_path: Path
) -> None:
    page = search_view(visit)
    (tmp_path / "query.png").write_bytes(filled[1][1])
    visit.drop([tmp_path / "query.png"])
    expect(ids(answer(page)).first).to_have_text("p001.png")
    expect(page.locator("#query")).to_contain_text("query.png")


def test_an_item_is_searched_with_by_its_id(visit: Visit, filled: list[tuple[str, bytes]]) -> None:
    page = search_view(visit)
    page.get_by_label("Or an item's id").fill("p003.png")
    page.get_by_label("Matches").fill("3")
    expect(ids(go(page))).to_have_count(3)
    expect(ids(answer(page)).filter(has_text="p003.png")).to_have_count(0)
    page.get_by_label("Or an item's id").fill("nobody")
    expect(go(page).get_by_role("alert")).to_contain_text("The gallery has no such item")


@pytest.mark.parametrize(
    ("percent", "conditions", "reason", "words"),
    [
        (20, {}, "uncertain_query", "the gallery was not searched"),
        (100, {"Least score": "1"}, "no_close_match", "No item is left"),
        (100, {"Filter on payloads": '{"label": "none"}'}, "no_close_match", "No item is left"),
    ],
)
def test_an_abstention_says_why(
    visit: Visit,
    filled: list[tuple[str, bytes]],
    percent: int,
    conditions: dict[str, str],
    reason: str,
    words: str,
) -> None:
    visit.pick(("query.png", picture(0.4, 99)))
    visit.answered(1)
    visit.set_threshold(percent)
    page = search_view(visit)
    for label, value in conditions.items():
        page.locator("#view-search").get_by_label(label).fill(value)
    page.get_by_role("link", name="Images").click()
    page.get_by_role("button", name="Search with query.png").click()
    region = answer(page)
    expect(region.get_by_role("heading", name="Abstained")).to_be_visible()
    expect(region.locator("[data-reason]")).to_have_attribute("data-reason", reason)
    expect(region).to_contain_text(words)
    expect(ids(region)).to_have_count(0)


def test_what_conditions_took_out_is_counted(visit: Visit, client: Client, filled: list[tuple[str, bytes]]) -> None:
    page = search_view(visit)
    page.get_by_label("Or an item's id").fill("p000.png")
    page.locator("#filter").fill('{"label": "even"}')
    page.get_by_label("Leave out items above the percentile").fill("15")
    region = go(page)
    asked = {"id": "p000.png", "filter": {"label": "even"}, "max_result_percentile": 0.15, "limit": 10}
    removed = client.post("/retrieve", json=asked).json()["removed"]
    assert removed["by_filter"] > 0
    assert removed["by_uncertainty"] > 0
    words = f"{removed['by_filter']} by the filter, {removed['by_uncertainty']} by uncertainty."
    expect(region).to_contain_text(words)


def test_a_filter_that_cannot_be_read_is_told(visit: Visit, filled: list[tuple[str, bytes]]) -> None:
    page = search_view(visit)
    page.get_by_label("Or an item's id").fill("p000.png")
    page.locator("#filter").fill("label = even")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(answer(page).get_by_role("alert")).to_contain_text("This is not JSON")
    assert visit.sent("POST", "/retrieve") == []
    page.locator("#filter").fill('{"label": {"near": 1}}')
    expect(go(page).get_by_role("alert")).to_contain_text("The filter cannot be read")


def vector(*weights: float) -> list[float]:
    values = np.zeros(48)
    values[: len(weights)] = weights
    return values.tolist()


@pytest.fixture
def certified(client: Client) -> list[dict[str, Any]]:
    """Items along the axes, one between them, and a policy certified against them."""
    items = [
        {"id": f"i{n}", "vector": np.eye(48)[n].tolist(), "uncertainty": 0.5, "payload": {"label": f"l{n}"}}
        for n in range(4)
    ]
    items += [{"id": "copy", "vector": vector(1.0), "uncertainty": 0.1, "payload": {"label": "l0"}}]
    items += [{"id": "between", "vector": vector(1, 1, 1, 1), "uncertainty": 0.9, "payload": {"label": "x"}}]
    assert client.post("/gallery", json={"items": items}).json()["failed"] == 0
    return make_policy(client)


def test_a_policy_accepts_or_abstains_and_says_what_it_promises(
    visit: Visit, client: Client, certified: list[dict[str, Any]]
) -> None:
    page = search_view(visit)
    page.get_by_label("Decide by").select_option("policy shop: at most 10 % wrong, 90 % confidence")
    expect(page.locator("#promise")).to_contain_text("Certified on 1,500 labelled queries")
    expect(page.get_by_label("Filter on payloads").first).to_be_disabled()
    infeasible = page.locator("#policy option").nth(2)
    expect(infeasible).to_be_disabled()

    for item, decision in (("copy", "Match"), ("between", "Abstained")):
        page.get_by_label("Or an item's id").fill(item)
        region = go(page)
        asked = {"id": item, "policy": "shop", "alpha": 0.1, "delta": 0.1, "limit": 10}
        told = client.post("/retrieve", json=asked).json()
        expect(region.get_by_role("heading", name=decision)).to_be_visible()
        expect(region.locator("[data-p-correct]")).to_have_text(f"{100 * told['p_correct']:.1f} %")
        expect(region.locator(".guarantee")).to_contain_text("At most 10 % of accepted answers are wrong")
        expect(region.locator(".guarantee .badge")).to_have_text(told["guarantee"]["status"])
        expect(ids(region)).to_have_text([match["id"] for match in told["matches"]])
        standing = {"valid": "The promise holds", "stale": "The promise may no longer hold"}
        expect(page.locator("#promise")).to_contain_text(standing[told["guarantee"]["status"]])
    expect(region.locator("[data-reason]")).to_have_attribute("data-reason", told["reasons"][0])

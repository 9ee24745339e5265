"""For everybody: accessible in both themes, by keyboard alone, on narrow screens, and without a network."""

import re
from collections.abc import Callable
from typing import Any, Final, Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from httpx2 import Client
from playwright.sync_api import Page, expect

from tests.page.certified import make_policy
from tests.page.conftest import Open
from tests.page.pictures import pictures
from tests.page.visit import Visit
from tests.service.process import Server

HEIC = ("photo-of-a-very-long-name-that-does-not-fit-into-any-card-at-all.heic", b"\0\0\0\x18ftypheic" + b"0" * 40)
THEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}


@pytest.fixture
def filled(client: Client) -> None:
    long = {"a-field-with-a-long-name": "and a value that goes on and on without any end in sight " * 3}
    for number, (name, data) in enumerate(pictures(4)):
        item = f"{name}-with-an-id-as-long-as-some-paths-of-files-are-in-practice/{number}"
        payload: dict[str, Any] = {"label": "x", **(long if number else {})}
        client.put(f"/gallery/{item}", content=data, headers={"content-type": "image/png"})
        body = {"vector": client.get(f"/gallery/{item}").json()["embedding"], "uncertainty": 3.0, "payload": payload}
        assert client.put(f"/gallery/{item}", json=body).status_code == 200
    make_policy(client, scale=20.0)


def walk(visit: Visit, look: Callable[[str], None]) -> None:
    """Look at every view and dialog, empty and full."""
    page = visit.page
    look("empty")
    visit.pick(*pictures(4), HEIC)
    visit.answered(4)
    expect(page.locator(".card[data-state=failed]")).to_have_count(1)
    visit.set_threshold(20)
    look("images")
    page.get_by_role("button", name="Add p001.png to the gallery").click()
    look("add")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Search with p003.png").click()
    expect(page.get_by_role("heading", name="Abstained")).to_be_visible()
    look("abstained")
    page.get_by_label("Decide by").select_option(index=1)
    page.get_by_role("button", name="Search", exact=True).first.click()
    expect(page.locator(".guarantee")).to_be_visible()
    look("policy")
    page.get_by_role("link", name="Gallery").click()
    expect(page.locator("table.items")).to_be_visible()
    page.get_by_role("button", name="Delete").first.click()
    expect(page.get_by_role("button", name="Undo")).to_be_visible()
    look("gallery")
    page.get_by_role("button", name="Close message").click()
    page.get_by_role("link", name="Health").click()
    expect(page.locator("#health-tiles .tile")).to_have_count(8)
    expect(page.locator("table.routes")).to_be_visible()
    look("health")


def test_axe_finds_nothing_in_any_view_of_either_theme(open_page: Open, server: Server, filled: None) -> None:
    visit = open_page(server.url, bypass_csp=True)  # axe is put into the page as a script
    axe = Axe()
    found: list[Any] = []

    def look(name: str) -> None:
        for theme in THEMES:
            visit.page.emulate_media(color_scheme=theme)
            response = axe.run(visit.page, options=RULES).response
            found.extend(
                (name, theme, rule["id"], node["target"], node["failureSummary"])
                for rule in response["violations"]
                for node in rule["nodes"]
            )

    walk(visit, look)
    assert found == []


def test_nothing_is_wider_than_the_screen(visit: Visit, filled: None) -> None:
    wide = []

    def look(name: str) -> None:
        for width in (1280, 768, 390, 320):
            visit.page.set_viewport_size({"width": width, "height": 740})
            extent = visit.page.evaluate("document.documentElement.scrollWidth")
            if extent > width:
                wide.append((name, width, extent))

    walk(visit, look)
    assert wide == []


def test_the_page_works_by_keyboard_alone(visit: Visit, client: Client) -> None:
    page = visit.page
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    visit.pick(*pictures(2))
    visit.answered(2)
    _tab_to(page, "Abstain above the percentile, slider")
    page.keyboard.press("Home")
    expect(page.locator(".card.abstained")).to_have_count(2)
    _tab_to(page, "Add p000.png to the gallery")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_label("Id")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Add p000.png to the gallery")).to_be_focused()
    assert client.get("/gallery/p000.png").status_code == 200
    _tab_to(page, "Search with p001.png")
    page.keyboard.press("Space")
    expect(page.get_by_role("heading", name="Abstained")).to_be_visible()


def _tab_to(page: Page, name: str) -> None:
    """Press Tab until what has that name has the focus, as somebody without a mouse would."""
    target = page.get_by_role("slider") if name.endswith("slider") else page.get_by_role("button", name=name)
    for _ in range(80):
        if target.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"no number of tabs leads to {name!r}")


def test_results_are_told_to_screen_readers(visit: Visit) -> None:
    visit.pick(*pictures(3))
    visit.answered(3)
    expect(visit.page.locator("#announcer")).to_have_text("Done: 3 of 3 images")
    expect(visit.page.locator(".strip").first).to_have_attribute(
        "aria-label", re.compile(r"^More uncertain than [\d.]+\s% of the reference set$")
    )


@pytest.mark.parametrize(("system", "other"), [("light", "dark"), ("dark", "light")])
def test_the_theme_is_the_systems_until_another_is_chosen(
    open_page: Open, server: Server, client: Client, system: Literal["light", "dark"], other: str
) -> None:
    page = open_page(server.url, color_scheme=system).page
    background = "getComputedStyle(document.body).backgroundColor"
    first = page.evaluate(background)
    button = page.get_by_role("button", name="Theme:")
    while button.inner_text() != f"Theme: {other}":
        button.click()
    assert page.evaluate(background) != first
    page.reload()
    expect(button).to_have_text(f"Theme: {other}")
    assert page.evaluate(background) != first


def test_nothing_moves_for_who_does_not_want_it(open_page: Open, server: Server, client: Client) -> None:
    page = open_page(server.url, reduced_motion="reduce").page
    moving = page.evaluate(
        "[...document.querySelectorAll('*')].filter((e) => getComputedStyle(e).transitionDuration !== '0s').length"
    )
    assert moving == 0

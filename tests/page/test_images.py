"""Images on the page: dropped, pasted, picked; read, decided by the threshold, sorted, kept as files."""

import base64
import csv
import io
import json
import re
from pathlib import Path

import pytest
from httpx2 import Client
from playwright.sync_api import Page, expect

from tests.page.certified import make_policy
from tests.page.conftest import Open
from tests.page.pictures import picture, pictures
from tests.page.visit import Visit
from tests.service.process import Server, serving

PNG = {"content-type": "image/png"}


def percentiles(client: Client, files: list[tuple[str, bytes]]) -> dict[str, float]:
    """What the server says of each, asked by itself."""
    answers = {name: client.post("/embed", content=data, headers=PNG).json() for name, data in files}
    return {name: answer["results"][0]["percentile"] for name, answer in answers.items()}


def text_of(share: float) -> str:
    return f"{100 * share:.1f} %"


def test_picked_images_are_read_as_the_server_reads_them(visit: Visit, client: Client) -> None:
    files = pictures(6)
    visit.pick(*files)
    visit.answered(6)
    for name, percentile in percentiles(client, files).items():
        card = visit.card(name)
        expect(card.locator(".percentile")).to_have_text(text_of(percentile))
        expect(card.locator("img")).to_have_attribute("src", re.compile("^blob:"))
        for fact in ("Raw", "Novelty", "Decode", "Queue", "Inference"):
            expect(card.get_by_text(fact, exact=True)).to_be_visible()


def test_dropped_images_are_read(visit: Visit, tmp_path: Path) -> None:
    paths = [tmp_path / name for name, _ in pictures(3)]
    for path, (_, data) in zip(paths, pictures(3), strict=True):
        path.write_bytes(data)
    visit.drop(paths)
    visit.answered(3)
    expect(visit.page.locator("#drop")).to_be_hidden()


def test_a_dropped_folder_is_read_with_all_that_is_in_it(visit: Visit, tmp_path: Path) -> None:
    for number, (name, data) in enumerate(pictures(4)):
        folder = tmp_path / "photos" / f"deep{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    (tmp_path / "photos" / ".hidden").write_bytes(b"not an image")
    visit.drop([tmp_path / "photos"])
    visit.answered(4)
    expect(visit.page.locator(".card")).to_have_count(4)


def test_a_pasted_image_is_read(visit: Visit) -> None:
    page = visit.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async (png) => {
            const image = new Blob([Uint8Array.from(atob(png), (c) => c.charCodeAt(0))], {type: "image/png"});
            await navigator.clipboard.write([new ClipboardItem({"image/png": image})]);
        }""",
        base64.b64encode(picture(1.0)).decode(),
    )
    page.keyboard.press("Control+V")
    visit.answered(1)


def test_the_threshold_abstains_by_the_servers_percentiles_without_asking_it_again(
    visit: Visit, client: Client
) -> None:
    files = pictures(9)
    known = percentiles(client, files)
    visit.pick(*files)
    visit.answered(9)
    sent = len(visit.requests)
    exactly = sorted(known.values())[4]
    for percent in (100.0, 50.0, round(100 * exactly, 1), 10.0, 0.0):
        visit.set_threshold(percent)
        abstained = {name for name, percentile in known.items() if percentile > percent / 100}
        expect(visit.page.locator(".card.abstained")).to_have_count(len(abstained))
        for name in known:
            expect(visit.card(name).locator(".verdict")).to_have_text("Abstained" if name in abstained else "Answered")
        answered = len(known) - len(abstained)
        expect(visit.tile("page")).to_contain_text(f"{text_of(answered / 9)}")
        expect(visit.tile("page")).to_contain_text(f"{answered} of 9 images answered")
        expect(visit.tile("reference")).to_contain_text(text_of(percent / 100))
    assert len(visit.requests) == sent


def test_the_slider_and_the_number_are_one_threshold(visit: Visit) -> None:
    visit.pick(("a.png", picture(1.0)))
    visit.answered(1)
    slider, number = visit.page.get_by_role("slider"), visit.page.get_by_label("Abstain above the percentile")
    expect(number).to_have_value("90")
    slider.focus()
    visit.page.keyboard.press("ArrowLeft")
    expect(number).to_have_value("89.9")
    visit.page.keyboard.press("Home")
    expect(number).to_have_value("0")
    expect(slider).to_have_attribute("aria-valuetext", "0 %")
    number.fill("42.5")
    expect(slider).to_have_value("42.5")


@pytest.mark.parametrize(("setting", "value"), [("CANDOR_MAX_PERCENTILE", "0.6"), ("CANDOR_MAX_UNCERTAINTY", "12")])
def test_the_threshold_begins_as_the_servers(
    open_page: Open, bundle_path: Path, tmp_path: Path, setting: str, value: str
) -> None:
    with serving(bundle_path, tmp_path / "gallery", CANDOR_AUTOTUNE="false", **{setting: value}) as server:
        server.event("ready")
        visit = open_page(server.url)
        visit.pick(("a.png", picture(1.0)))
        visit.answered(1)
        expect(visit.page.get_by_label("Abstain above the percentile")).to_have_value("60")  # 12 of 20 is that, too
        expect(visit.page.locator("#threshold-note")).to_contain_text("the server's own threshold")


def test_cards_are_shown_by_verdict_and_sorted(visit: Visit, client: Client) -> None:
    files = pictures(6)
    known = percentiles(client, files)
    visit.pick(*files, ("bad.heic", b"\0\0\0\x18ftypheic" + b"0" * 40))
    visit.answered(6)
    visit.set_threshold(50)
    page = visit.page
    names = page.locator(".card:visible h3")
    page.get_by_label("Sort").select_option("most uncertain first")
    ranked = sorted(known, key=lambda name: -known[name])
    expect(names).to_have_text([*ranked, "bad.heic"])
    page.get_by_label("Sort").select_option("surest first")
    expect(names).to_have_text([*ranked[::-1], "bad.heic"])
    abstained = [name for name in ranked if known[name] > 0.5]
    page.get_by_role("radio", name="Abstained").check()
    expect(names).to_have_text(abstained[::-1])
    expect(page.locator("[data-count=abstained]")).to_have_text(str(len(abstained)))
    page.get_by_role("radio", name="Failed").check()
    expect(names).to_have_text(["bad.heic"])


def test_results_are_exported_as_the_server_told_them(visit: Visit, client: Client) -> None:
    files = [*pictures(3), ('=odd, "name".png', picture(0.3))]
    known = percentiles(client, files)
    visit.pick(*files, ("bad.txt", b"nonsense"))
    visit.answered(4)
    expect(visit.page.locator(".card[data-state=failed]")).to_have_count(1)
    visit.set_threshold(50)
    rows = list(csv.DictReader(io.StringIO(_saved(visit.page, "Export CSV"), newline="")))
    told = json.loads(_saved(visit.page, "Export JSON"))
    assert [row["name"].removeprefix("'") for row in rows] == [each["name"] for each in told] == [*known, "bad.txt"]
    for row, each in zip(rows[:4], told[:4], strict=True):
        percentile = known[each["name"]]
        assert float(row["percentile"]) == each["percentile"] == percentile
        assert each["abstained"] == (percentile > 0.5) == (row["abstained"] == "true")
    assert rows[3]["name"].startswith("'=")  # no spreadsheet takes it for a formula
    assert (told[4]["status"], rows[4]["error"]) == ("error", "unsupported_format")


def _saved(page: Page, button: str) -> str:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return Path(download.value.path()).read_text()


def test_cards_can_be_removed_one_by_one_and_all_together(visit: Visit) -> None:
    visit.pick(*pictures(3))
    visit.answered(3)
    visit.page.get_by_role("button", name="Remove p001.png").click()
    visit.answered(2)
    expect(visit.tile("page")).to_contain_text("of 2 images")
    visit.page.get_by_role("button", name="Clear").click()
    expect(visit.page.locator(".card")).to_have_count(0)
    expect(visit.page.get_by_role("button", name="Choose images")).to_be_focused()


def test_a_policys_selective_risk_follows_the_threshold(visit: Visit, client: Client, server: Server) -> None:
    queries = make_policy(client, scale=20.0)
    visit.page.reload()
    visit.pick(("a.png", picture(1.0)))
    visit.answered(1)
    for percent in (30.0, 60.0, 100.0):
        visit.set_threshold(percent)
        within = [query for query in queries if query["evidence"]["uncertainty"] <= 20.0 * percent / 100]
        wrong = sum(not query["relevant"][0] for query in within) / len(within)
        shown = visit.tile("risk").locator(".value")
        expect(shown).to_have_text(_about(wrong))
        expect(visit.tile("risk")).to_contain_text("1,500 labelled queries")


def _about(share: float) -> re.Pattern[str]:
    """The curve has a hundred points: the nearest of them is within a percent of the queries."""
    choices = {f"{100 * share + step / 10:.1f}" for step in range(-8, 9)}
    return re.compile(f"^({'|'.join(map(re.escape, choices))})\\s%$")

"""The pictures of docs/page.md: `python -m tests.page.screenshots --photos FOLDER`, of a real server with real photos.

FOLDER is the `data` folder of the package scikit-image, whose photos used here are in the public domain or CC0.
"""

import argparse
import io
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from PIL import Image, ImageFilter
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from models.bundle import DEFAULT_BUNDLE
from tests.page.conftest import SWITCHES, find_chromium
from tests.page.visit import Visit
from tests.service.process import serving

THEMES: Final[tuple[Literal["light", "dark"], ...]] = ("light", "dark")
SIZE: Final[ViewportSize] = {"width": 1280, "height": 832}
COLOURS: Final = 256
OWN_COLOURS: Final = 96
PHOTOS: Final = (
    "coffee.png",
    "chelsea.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
    "grass.png",
    "brick.png",
    "gravel.png",
)
BLURRED: Final = {"chelsea.png": 12, "coffee.png": 7, "rocket.jpg": 9}
CLOSE: Final = {
    "chelsea.png": (100, 40, 380, 240),
    "coffee.png": (120, 60, 520, 380),
}


def photos(folder: Path) -> Iterator[tuple[str, bytes]]:
    """The photos, and blurred and cropped copies of some of them."""
    for name in PHOTOS:
        photo, stem = Image.open(folder / name).convert("RGB"), name.partition(".")[0].replace("_", "-")
        yield f"{stem}.jpg", jpeg(photo)
        if name in BLURRED:
            yield f"{stem}-blurred.jpg", jpeg(photo.filter(ImageFilter.GaussianBlur(BLURRED[name])))
        if name in CLOSE:
            yield f"{stem}-close.jpg", jpeg(photo.crop(CLOSE[name]))


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def take(page: Page, path: Path) -> None:
    """A picture of the window, in as many colours as a palette has: a third of the bytes."""
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    shot.quantize(palette=palette_of(shot), dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)


def palette_of(shot: Image.Image) -> Image.Image:
    """The page's own colours, which are the most frequent, as they are; and the best of all the others."""
    counts: list[tuple[int, tuple[int, int, int]]] = shot.getcolors(shot.width * shot.height)  # type: ignore[assignment]
    own = [colour for _, colour in sorted(counts, reverse=True)[:OWN_COLOURS]]
    others = shot.quantize(COLOURS - OWN_COLOURS, dither=Image.Dither.NONE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(part for colour in own for part in colour), *others[: 3 * (COLOURS - OWN_COLOURS)]])
    return palette


@contextmanager
def opened(browser: Browser, url: str, theme: Literal["light", "dark"]) -> Iterator[Visit]:
    context = browser.new_context(viewport=SIZE, color_scheme=theme)
    visit = Visit(context.new_page(), url)
    visit.page.goto(url)
    yield visit
    visit.check()
    context.close()


def show_images(visit: Visit, files: list[tuple[str, bytes]], path: Path) -> None:
    visit.pick(*files)
    visit.answered(len(files))
    visit.set_threshold(85)
    visit.page.get_by_role("heading", name="Threshold").click()
    for number in range(5):
        expect(visit.page.locator(".thumb").nth(number).locator("img[src]")).to_be_visible()
    take(visit.page, path)


def show_search(visit: Visit, files: list[tuple[str, bytes]], path: Path) -> None:
    page = visit.page
    for name, _ in files:
        page.get_by_role("button", name=f"Add {name} to the gallery").click()
        page.get_by_label("Payload, a JSON object").fill(
            json.dumps({"subject": name.partition(".")[0].partition("-")[0]})
        )
        page.get_by_role("dialog").get_by_role("button", name="Add").click()
        expect(page.get_by_role("dialog")).to_be_hidden()
    page.get_by_role("button", name="Close message").click()
    page.get_by_role("button", name="Search with coffee-close.jpg").click()
    expect(page.locator(".match").first).to_be_visible()
    page.get_by_label("Matches").fill("7")
    page.get_by_label("Leave out items above the percentile").fill("60")
    page.get_by_role("button", name="Search", exact=True).first.click()
    expect(page.get_by_text("Left out of the nearest items")).to_be_visible()
    page.evaluate("scrollTo(0, 0)")
    take(page, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    arguments = parser.parse_args()
    files = list(photos(arguments.photos))
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(DEFAULT_BUNDLE, Path(folder) / "gallery") as server,
        sync_playwright() as playwright,
    ):
        server.event("ready")
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=SWITCHES)
        for theme in THEMES:
            with opened(browser, server.url, theme) as visit:
                show_images(visit, files, arguments.out / f"page-images-{theme}.png")
                show_search(visit, files, arguments.out / f"page-search-{theme}.png")
        browser.close()


if __name__ == "__main__":
    main()

"""One visit to the page: what it does to it, what was sent on its behalf, and what went wrong."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Locator, Page, Request, expect

File = tuple[str, bytes]


class Visit:
    """A page and everything that the browser reported of it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.requests: list[Request] = []
        self.unanswered: list[str] = []
        self._faults: list[str] = []
        page.on("request", self._count)
        page.on("pageerror", lambda error: self._faults.append(f"uncaught: {error}"))
        page.on("requestfailed", lambda request: self.unanswered.append(f"{request.url}: {request.failure}"))
        page.on("console", lambda message: self._note(message.text))

    def _count(self, request: Request) -> None:
        if not request.url.startswith(("blob:", "data:")):  # which the page holds itself
            self.requests.append(request)

    def _note(self, text: str) -> None:
        if "Content Security Policy" in text or "Permissions Policy" in text:
            self._faults.append(text)

    def check(self) -> None:
        """Nothing was thrown, nothing broke the content security policy, and nobody else was asked for anything."""
        assert self._faults == []
        origin = urlsplit(self.url)
        assert {urlsplit(request.url)[:2] for request in self.requests} == {origin[:2]}

    def sent(self, method: str, path: str) -> list[Request]:
        """The requests of that method whose path is, or begins with, that one."""
        return [
            request
            for request in self.requests
            if request.method == method and urlsplit(request.url).path.startswith(path)
        ]

    def pick(self, *files: File) -> None:
        """Choose files in the system's dialog."""
        with self.page.expect_file_chooser() as chooser:
            self.page.get_by_role("button", name=re.compile("^(Choose|Add) images$")).click()
        chooser.value.set_files([payload(file) for file in files])

    def drop(self, paths: Sequence[Path]) -> None:
        """Drag files from outside onto the middle of the page, as the browser itself sees it."""
        session = self.page.context.new_cdp_session(self.page)
        size = self.page.viewport_size
        assert size is not None
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            where = {"x": size["width"] / 2, "y": size["height"] / 2}
            session.send("Input.dispatchDragEvent", {"type": kind, **where, "data": data})
        session.detach()

    def answered(self, count: int) -> Locator:
        """The cards that were answered, once they are so many."""
        cards = self.page.locator(".card[data-state=done]")
        expect(cards).to_have_count(count)
        return cards

    def card(self, name: str) -> Locator:
        """The card of that file."""
        return self.page.locator(".card").filter(has=self.page.get_by_role("heading", name=name, exact=True))

    def set_threshold(self, percent: float) -> None:
        self.page.get_by_label("Abstain above the percentile").fill(str(percent))

    def tile(self, name: str) -> Locator:
        return self.page.locator(f"[data-tile={name}]")


def payload(file: File) -> Any:
    """A file as the browser's dialog takes it."""
    name, data = file
    return {"name": name, "mimeType": "image/png", "buffer": data}

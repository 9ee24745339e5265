"""The page's files over HTTP: what they may do, how they are kept, and that the package has them all."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from httpx2 import AsyncClient

from service.routes.page import FOLDER
from tests.service.callers import give_key
from tests.service.conftest import Running, Start


def policy_of(header: str) -> dict[str, list[str]]:
    """Directive -> sources."""
    return {words[0]: words[1:] for words in (directive.split() for directive in header.split(";"))}


async def test_a_browser_is_told_to_run_only_what_the_server_itself_serves(running: Running) -> None:
    page = await running.client.get("/")

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = policy_of(page.headers["content-security-policy"])
    assert policy["default-src"] == ["'none'"]
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == ["'self'"]
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == ["'none'"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"


async def assets(client: AsyncClient) -> set[str]:
    """Every file that the page names, and those they name."""
    found: set[str] = set()
    left = set(re.findall(r'(?:src|href)="(page/[^"]+)"', (await client.get("/")).text))
    while left:
        name = left.pop()
        found.add(name)
        response = await client.get(f"/{name}")
        assert response.status_code == 200, name
        imported = re.findall(r'from "\./([\w-]+\.js)"', response.text)
        left |= {f"page/js/{each}" for each in imported} - found
    return found


async def test_every_file_that_the_page_names_is_there_and_none_is_left_over(running: Running) -> None:
    files = {f"page/{path.relative_to(FOLDER).as_posix()}" for path in FOLDER.rglob("*.*")}

    assert await assets(running.client) == files - {"page/index.html"}


async def test_a_module_says_what_it_is(running: Running) -> None:
    types = {
        name: (await running.client.get(f"/page/{name}")).headers["content-type"]
        for name in ("js/main.js", "css/base.css", "icon.svg")
    }

    assert list(types.values()) == ["text/javascript; charset=utf-8", "text/css; charset=utf-8", "image/svg+xml"]


async def test_what_a_browser_has_is_not_sent_again(running: Running) -> None:
    first = await running.client.get("/page/js/main.js")
    again = await running.client.get("/page/js/main.js", headers={"if-none-match": f'W/"x", {first.headers["etag"]}'})
    other = await running.client.get("/page/js/main.js", headers={"if-none-match": '"of-another-version"'})

    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert (other.status_code, other.content) == (200, first.content)


@pytest.mark.parametrize("name", ["", "nothing.js", "../routes/page.py", "%2e%2e/routes/page.py", "js", "/etc/passwd"])
async def test_nothing_but_its_files_can_be_had(running: Running, name: str) -> None:
    response = await running.client.get(f"/page/{name}")

    assert response.status_code == 404
    assert response.json()["type"] == "not_found"


async def test_the_page_needs_no_key_but_what_it_asks_does(start: Start, tmp_path: Path) -> None:
    give_key(tmp_path / "keys.txt")
    async with start(api_keys=tmp_path / "keys.txt") as running:
        statuses = [(await running.client.get(path)).status_code for path in ("/", "/page/js/main.js", "/model")]

    assert statuses == [200, 200, 401]


async def test_the_page_is_there_while_the_server_loads(start: Start) -> None:
    async with start(ready=False) as running:
        assert (await running.client.get("/")).status_code == 200
        assert (await running.client.head("/page/js/main.js")).status_code == 200


async def test_no_markup_has_scripts_or_styles_of_its_own(running: Running) -> None:
    text = (await running.client.get("/")).text

    assert re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]+src=)", text) == []


def test_the_package_has_every_file_of_the_page(repository: Path, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=repository, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())

    assert {path.relative_to(repository).as_posix() for path in FOLDER.rglob("*.*")} <= inside

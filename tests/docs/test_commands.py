"""Every command of the documentation runs, as its reader would type it."""

import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.docs.pages import RUNNABLE, blocks, steps
from tests.docs.reader import follow, prepare

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
SHELLS = ("sh", "bash", "shell", "zsh", "")  # a command in such a block would be run by nobody
TYPED = re.compile(r"^(\$ )?(candor|curl|docker|kubectl|make|podman|pip|promtool|python3?) ")


@pytest.mark.parametrize("page", [page for page in PAGES if steps(page)], ids=lambda page: page.name)
def test_what_a_page_says_to_run_runs(page: Path, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl, which the pages use")
    prepare(tmp_path, REPOSITORY)
    follow(steps(page), tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_hides_from_that_test(page: Path) -> None:
    hidden = [
        f"{page.name}:{block.line + offset}: {line}"
        for block in blocks(page.read_text())
        if block.language in SHELLS and block.not_run is None
        for offset, line in enumerate(block.lines, start=1)
        if TYPED.match(line)
    ]
    hidden += [
        f"{page.name}:{number}: {line}"
        for number, line in enumerate(page.read_text().splitlines(), start=1)
        if line.startswith("    ") and TYPED.match(line.strip())
    ]
    assert not hidden, "write these as ```console blocks with `$ `:\n" + "\n".join(hidden)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_only_what_could_be_run_is_marked_as_not_run(page: Path) -> None:
    marked = [block for block in blocks(page.read_text()) if block.not_run]
    assert all(block.language in RUNNABLE for block in marked)
    assert page.read_text().count("<!-- not run:") == len(marked), "a mark stands right above its block"

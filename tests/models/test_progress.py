"""Progress: lines for people and for logs."""

import io

import pytest

from models.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which only the test changes."""
    now = [100.0]
    monkeypatch.setattr("models.progress.time.monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_every_few_seconds_and_the_last(clock: list[float]) -> None:
    stream = io.StringIO()
    with Progress("added", "images", 10_000, done=1000, stream=stream) as progress:
        for _ in range(12):
            clock[0] += 1
            progress.advance(100)
    assert stream.getvalue().splitlines() == [
        "added 1,500 of 10,000 images, 100/s, 1 min 25 s left",
        "added 2,000 of 10,000 images, 100/s, 1 min 20 s left",
        "added 2,200 of 10,000 images, 100/s, 1 min 18 s left",
    ]


def test_a_terminal_gets_one_line_that_changes(clock: list[float]) -> None:
    stream = Terminal()
    with Progress("read", "items", None, stream=stream) as progress:
        clock[0] += 1
        progress.advance(5)
    assert stream.getvalue() == "\r\x1b[Kread 5 items, 5/s" * 2 + "\n"


@pytest.mark.parametrize(("left", "text"), [(9, "9 s"), (61, "1 min 01 s"), (3720, "1 h 02 min")])
def test_time_left_is_told_as_people_do(clock: list[float], left: int, text: str) -> None:
    progress = Progress("read", "items", left + 1, stream=io.StringIO())
    clock[0] += 1
    progress.advance(1)
    assert progress.line().endswith(f", {text} left")

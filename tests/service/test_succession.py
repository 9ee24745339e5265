"""Which generation a request has, and when what is its alone is taken apart."""

import io
from typing import Any

from service.generation import Generation
from service.settings import Settings
from service.succession import Succession
from service.telemetry import make_logger
from tests.service.waiting import until


class Part:
    """One bundle's services, of which only being closed matters."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.bundle = self
        self.hash = name
        self.closed = 0
        self.announced = 0

    async def close(self) -> None:
        self.closed += 1

    def announce(self) -> None:
        self.announced += 1

    def withdraw(self) -> None:
        assert self.closed


def generation(**parts: Any) -> Generation:
    return Generation(parts)


def succession() -> Succession:
    return Succession(make_logger(Settings(), io.StringIO()))


async def test_what_two_generations_share_outlives_the_first() -> None:
    served, shared, old, new = succession(), Part("shared"), Part("old"), Part("new")
    served.succeed(generation(a=old, b=shared))
    served.succeed(generation(a=new, b=shared))
    await until(lambda: old.closed == 1)
    await served.close()

    assert (old.closed, shared.closed, new.closed) == (1, 1, 1)


async def test_a_generation_lives_until_the_last_request_under_it_leaves() -> None:
    served, parts = succession(), [Part(str(number)) for number in range(3)]
    held = []
    for part in parts:
        served.succeed(generation(a=part))
        held.append((served.enter(), served.enter()))
    for first, _ in held:
        served.leave(first)
    assert [part.closed for part in parts] == [0, 0, 0]

    served.leave(held[1][1])
    await until(lambda: parts[1].closed == 1)
    assert [part.closed for part in parts] == [0, 1, 0]
    served.leave(held[0][1])
    served.leave(held[2][1])
    await until(lambda: parts[0].closed == 1)
    assert [part.closed for part in parts] == [1, 1, 0]
    await served.close()


async def test_a_part_that_skipped_generations_share_is_closed_with_the_last_of_them() -> None:
    served, kept = succession(), Part("kept")
    served.succeed(generation(a=Part("1"), b=kept))
    early = served.enter()
    served.succeed(generation(a=Part("2"), b=kept))
    served.succeed(generation(a=Part("3"), b=Part("4")))
    assert kept.closed == 0

    served.leave(early)
    await until(lambda: kept.closed == 1)
    await served.close()
    assert kept.closed == 1


async def test_a_request_that_is_cut_off_may_leave_after_the_end() -> None:
    served, part = succession(), Part("a")
    served.succeed(generation(a=part))
    held = served.enter()
    await served.close()
    served.leave(held)

    assert part.closed == 1
    assert served.enter() is None

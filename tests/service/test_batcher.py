"""The batcher's logic, with a `run` that obeys the test and a clock that stands still until told."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.batcher import Admission, Batcher
from service.errors import Overloaded, Unavailable
from tests.service.waiting import until


class Clock:
    """Time in seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Machine:
    """Squares numbers once the gate is open; negative ones raise."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.batches: list[list[int]] = []

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.entered.release()
        assert self.gate.wait(30)
        if any(item < 0 for item in items):
            raise ArithmeticError(f"negative: {min(items)}")
        return [item * item for item in items]


@asynccontextmanager
async def batching(run: Any, **options: Any) -> AsyncIterator[Batcher[int, int]]:
    batcher: Batcher[int, int] = Batcher(run, max_batch=4, **options)
    try:
        yield batcher
    finally:
        await batcher.close()


async def waiting(batcher: Batcher[int, int], count: int) -> None:
    await until(lambda: batcher.waiting == count)


async def hold_busy(machine: Machine, batcher: Batcher[int, int]) -> "asyncio.Task[Any]":
    """Send one item into the machine and keep it there."""
    machine.gate.clear()
    task = asyncio.create_task(batcher.submit(0))
    await asyncio.to_thread(machine.entered.acquire)
    return task


async def test_a_lone_item_never_waits() -> None:
    machine, clock = Machine(), Clock()
    async with batching(machine, clock=clock) as batcher:
        for item in (3, 4, 5):  # each runs at once, by itself, though the clock never moves
            assert await asyncio.wait_for(batcher.submit(item), 10) == item * item

    assert machine.batches == [[3], [4], [5]]


async def test_a_batch_grows_while_more_is_coming_until_it_is_full() -> None:
    machine = Machine()
    async with batching(machine, max_wait_s=60.0, coming=lambda: 1) as batcher:
        tasks = []
        for item in range(1, 5):
            tasks.append(asyncio.create_task(batcher.submit(item)))
            await waiting(batcher, item if item < 4 else 0)
        await asyncio.gather(*tasks)
    assert machine.batches == [[1, 2, 3, 4]]


async def test_a_batch_grows_no_longer_than_the_longest_wait() -> None:
    machine = Machine()
    async with batching(machine, max_wait_s=0.01, coming=lambda: 1) as batcher:
        assert await batcher.submit(3) == 9
    assert machine.batches == [[3]]


async def test_a_batch_does_not_wait_for_what_is_not_coming() -> None:
    machine = Machine()
    async with batching(machine, max_wait_s=3600.0) as batcher, asyncio.timeout(60):
        assert await batcher.submit(3) == 9


async def test_what_waits_while_busy_is_batched_in_order_up_to_the_most() -> None:
    machine = Machine()
    async with batching(machine) as batcher:
        first = await hold_busy(machine, batcher)
        others = [asyncio.create_task(batcher.submit(item)) for item in range(1, 8)]
        await waiting(batcher, 7)
        machine.gate.set()
        results = [await task for task in (first, *others)]

    assert machine.batches == [[0], [1, 2, 3, 4], [5, 6, 7]]
    assert results == [0, 1, 4, 9, 16, 25, 36, 49]


async def test_an_exception_in_place_of_a_result_is_that_items_error() -> None:
    def run(items: Sequence[int]) -> list[int | Exception]:
        calls.append(list(items))
        return [ValueError("odd") if item % 2 else item * item for item in items]

    calls: list[list[int]] = []
    async with batching(run) as batcher:
        outcomes = await asyncio.gather(*map(batcher.submit, (1, 2, 3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ValueError, int, ValueError]
    assert sorted(item for call in calls for item in call) == [1, 2, 3]  # nothing was run again


async def test_an_item_at_fault_fails_alone() -> None:
    machine = Machine()
    async with batching(machine) as batcher:
        first = await hold_busy(machine, batcher)
        tasks = [asyncio.create_task(batcher.submit(item)) for item in (1, -2, 3)]
        await waiting(batcher, 3)
        machine.gate.set()
        await first
        one, bad, three = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(bad, ArithmeticError)
        assert (one, three) == (1, 9)
        assert await batcher.submit(5) == 25

    assert machine.batches == [[0], [1, -2, 3], [1], [-2], [3], [5]]


async def test_too_few_results_are_an_error_not_a_shift() -> None:
    async with batching(lambda items: []) as batcher:
        with pytest.raises(RuntimeError, match="0 results for 1 items"):
            await batcher.submit(1)


async def test_a_cancelled_item_leaves_the_queue() -> None:
    machine = Machine()
    async with batching(machine) as batcher:
        first = await hold_busy(machine, batcher)
        tasks = [asyncio.create_task(batcher.submit(item)) for item in (1, 2, 3)]
        await waiting(batcher, 3)
        tasks[1].cancel()
        await waiting(batcher, 2)
        machine.gate.set()
        await first
        assert [await tasks[i] for i in (0, 2)] == [1, 9]

    assert machine.batches == [[0], [1, 3]]


async def test_an_item_cancelled_while_it_runs_troubles_nobody() -> None:
    machine = Machine()
    async with batching(machine) as batcher:
        first = await hold_busy(machine, batcher)
        second = asyncio.create_task(batcher.submit(2))
        await waiting(batcher, 1)
        first.cancel()
        machine.gate.set()
        assert await second == 4


async def test_the_death_of_the_loop_fails_whoever_waits_and_is_told() -> None:
    class Fatal(BaseException):
        """Not an error of one item."""

    entered, gate = threading.Event(), threading.Event()
    deaths: list[BaseException] = []

    def die(items: Sequence[int]) -> list[int]:
        entered.set()
        assert gate.wait(30)
        raise Fatal

    async with batching(die, on_death=deaths.append) as batcher:
        tasks = [asyncio.create_task(batcher.submit(item)) for item in (1, 2)]
        await asyncio.to_thread(entered.wait)
        assert batcher.alive
        gate.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        assert [type(result) for result in results] == [Unavailable, Unavailable]
        assert not batcher.alive
        assert [type(death) for death in deaths] == [Fatal]
        with pytest.raises(Unavailable):
            await batcher.submit(3)


async def test_closing_fails_whoever_still_waits() -> None:
    machine = Machine()
    async with batching(machine) as batcher:
        await hold_busy(machine, batcher)
        second = asyncio.create_task(batcher.submit(1))
        await waiting(batcher, 1)
        machine.gate.set()
    with pytest.raises(Unavailable):
        await second


async def test_lanes_run_batches_side_by_side() -> None:
    machine = Machine()
    machine.gate.clear()
    async with batching(machine, lanes=2) as batcher:
        first = [asyncio.create_task(batcher.submit(item)) for item in range(5)]
        for _ in range(2):
            await asyncio.to_thread(machine.entered.acquire)
        last = asyncio.create_task(batcher.submit(5))
        await waiting(batcher, 1)  # both lanes are taken
        machine.gate.set()
        results = [await task for task in (*first, last)]

    assert sorted(map(len, machine.batches)) == [1, 2, 3]  # five are shared by two, the sixth comes later
    assert results == [0, 1, 4, 9, 16, 25]


async def test_the_oldest_running_batch_says_how_long_it_has_been_busy() -> None:
    machine, clock = Machine(), Clock()
    machine.gate.clear()
    async with batching(machine, lanes=2, clock=clock) as batcher:
        tasks = []
        for now in (1.0, 3.0):
            clock.now = now
            tasks.append(asyncio.create_task(batcher.submit(1)))
            await asyncio.to_thread(machine.entered.acquire)
        clock.now = 4.0
        assert batcher.busy_s() == 3.0
        machine.gate.set()
        await asyncio.gather(*tasks)
        assert batcher.busy_s() == 0.0


async def test_the_death_of_one_lane_is_that_of_all() -> None:
    class Fatal(BaseException):
        """Not an error of one item."""

    machine, deaths = Machine(), list[BaseException]()
    machine.gate.clear()

    def run(items: Sequence[int]) -> list[int]:
        if items == [9]:
            raise Fatal
        return machine(items)

    async with batching(run, lanes=2, on_death=deaths.append) as batcher:
        slow = asyncio.create_task(batcher.submit(2))
        await asyncio.to_thread(machine.entered.acquire)
        with pytest.raises(Unavailable):
            await batcher.submit(9)
        with pytest.raises(Unavailable):
            await slow
        assert not batcher.alive
        assert [type(death) for death in deaths] == [Fatal]
        machine.gate.set()


def test_admission_counts_images_and_takes_all_or_none() -> None:
    admission = Admission(10)
    with admission.hold(6):
        with pytest.raises(Overloaded), admission.hold(5):
            pass
        assert admission.images == 6
        with admission.hold(4):
            assert admission.images == 10
            with pytest.raises(Overloaded):
                admission.refuse_if_full()
        admission.refuse_if_full()
    assert admission.images == 0


def test_admission_gives_the_room_back_when_the_request_fails() -> None:
    admission = Admission(1)
    with pytest.raises(ZeroDivisionError), admission.hold(1):
        raise ZeroDivisionError
    with admission.hold(1):
        assert admission.images == 1


def test_retry_after_is_when_there_should_be_room_at_the_measured_rate() -> None:
    clock = Clock()
    admission = Admission(10, clock)
    with admission.hold(4):
        clock.now = 8.0  # 2 s an image
    clock.now = 1000.0  # idle seconds say nothing of the rate

    with admission.hold(9):
        with pytest.raises(Overloaded) as refused, admission.hold(6):  # five must go
            pass
        assert refused.value.headers == {"Retry-After": "10"}
        with admission.hold(1), pytest.raises(Overloaded) as full:
            admission.refuse_if_full()
        assert full.value.headers == {"Retry-After": "2"}


def test_the_rate_follows_what_happened_of_late() -> None:
    clock = Clock()
    admission = Admission(1, clock)
    for seconds in [5.0] + [0.5] * 100:
        with admission.hold(1):
            clock.now += seconds

    assert admission.wait_s(3) == pytest.approx(2 * 0.5, rel=0.1)


def test_before_any_answer_the_wait_is_not_known() -> None:
    assert Admission(1).wait_s(100) == 0.0

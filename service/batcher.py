"""One session shared by every request: what waits while it is busy becomes the next batch."""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.errors import Overloaded, Unavailable, retry_after

Item = TypeVar("Item")
Result = TypeVar("Result")

RATE_MEMORY_S = 10.0  # after which an answered image counts a third in the measured rate
UNHEALTHY_RETRY_S = 5.0


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    future: "asyncio.Future[Result]"


class Admission:
    """Images accepted and not yet answered, never more than `capacity`, and the rate at which they are answered."""

    def __init__(self, capacity: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.capacity = capacity
        self.images = 0
        self._clock = clock
        self._since = clock()
        self._answered, self._busy_s = 0.0, 0.0  # of late: older images and seconds count less

    def refuse_if_full(self) -> None:
        """Spare a client an upload that would be refused at its end.

        Raises:
            Overloaded: where not even one more image would be taken.
        """
        if self.images >= self.capacity:
            raise Overloaded(
                f"{self.images} images are in progress, the most there may be", headers=retry_after(self.wait_s(1))
            )

    @contextmanager
    def hold(self, images: int) -> Iterator[None]:
        """Take room for the images of one request, all or none, until the block ends.

        Raises:
            Overloaded: where there is no room; its Retry-After is when there should be.
        """
        if self.images + images > self.capacity:
            raise Overloaded(
                f"{self.images} of {self.capacity} images are in progress and this request has {images}; try again",
                headers=retry_after(self.wait_s(images)),
            )
        self._pass_time()
        self.images += images
        try:
            yield
        finally:
            self._pass_time()
            self._answered += images
            self.images -= images

    def wait_s(self, images: int) -> float:
        """Seconds until there should be room for so many images, by the rate measured of late; 0 before any."""
        too_many = max(0, self.images + images - self.capacity)
        return too_many * self._busy_s / self._answered if self._answered else 0.0

    def _pass_time(self) -> None:
        """Count the seconds since the last change as busy if any images were there, and let older ones fade."""
        now = self._clock()
        elapsed, self._since = now - self._since, now
        if self.images:
            fading = math.exp(-elapsed / RATE_MEMORY_S)
            self._answered *= fading
            self._busy_s = self._busy_s * fading + elapsed


@dataclass(eq=False)
class _Running(Generic[Item, Result]):
    entries: list[_Waiting[Item, Result]]
    since: float


class Batcher(Generic[Item, Result]):
    """Runs `run` on `lanes` threads, each of them a batch at a time.

    A batch is whatever waits at the moment a thread is free, at most `max_batch`, or its share of that where several
    threads are free. A free thread may wait for `max_wait_s` so that its batch grows, but only as long as more items
    are `coming`: a lone item never waits.
    `run` gives an exception in place of a result that cannot be had. Where it raises instead, its items are run again
    one by one, so that only those at fault fail. Were a lane itself to die, every waiting item fails, `alive` turns
    False for good, and the health check tells the supervisor to start a new process.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result | Exception]],
        *,
        max_batch: int,
        lanes: int = 1,
        max_wait_s: float = 0.0,
        coming: Callable[[], int] = lambda: 0,
        on_batch: Callable[[int], None] = lambda size: None,
        on_death: Callable[[BaseException], None] = lambda error: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._run = run
        self._max_batch = max_batch
        self._max_wait_s = max_wait_s
        self._coming = coming
        self._on_batch = on_batch
        self._on_death = on_death
        self._clock = clock
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._running: list[_Running[Item, Result]] = []
        self._arrived = asyncio.Event()
        self._one_more = asyncio.Event()
        self._threads = ThreadPoolExecutor(lanes, thread_name_prefix="candor-session")
        self._lanes = [asyncio.create_task(self._serve(), name=f"candor-lane-{number}") for number in range(lanes)]
        for lane in self._lanes:
            lane.add_done_callback(self._fail_all)

    @property
    def alive(self) -> bool:
        """Whether items given to `submit` are still being run."""
        return not any(lane.done() for lane in self._lanes)

    @property
    def waiting(self) -> int:
        """Items that wait for a thread, those in one not counted."""
        return len(self._waiting)

    def busy_s(self) -> float:
        """Seconds that the oldest of the batches now running has taken so far; 0 when idle."""
        return self._clock() - min(running.since for running in self._running) if self._running else 0.0

    async def submit(self, item: Item) -> Result:
        """Run one item; a caller that is cancelled takes its item out of the queue.

        Raises:
            Unavailable: when a lane has died.
            Exception: what `run` raised for this item.
        """
        if not self.alive:
            raise _dead()
        entry = _Waiting[Item, Result](item, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        self._arrived.set()
        self._one_more.set()
        try:
            return await entry.future
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            raise

    async def close(self) -> None:
        """Stop taking batches, and let those that run finish."""
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            while self._waiting:
                if self._max_wait_s:
                    await self._let_batch_grow()
                if self._waiting:  # another lane may have taken them meanwhile
                    await self._serve_batch()
            self._arrived.clear()

    async def _let_batch_grow(self) -> None:
        """Until the batch is full, nothing more is coming, or it has waited long enough."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._max_wait_s):
                while len(self._waiting) < self._max_batch and self._coming():
                    self._one_more.clear()
                    await self._one_more.wait()

    async def _serve_batch(self) -> None:
        free = len(self._lanes) - len(self._running)  # this one among them: what waits is shared out
        count = min(self._max_batch, -(-len(self._waiting) // free))
        entries = [self._waiting.popleft() for _ in range(count)]
        running = _Running(entries, self._clock())
        self._running.append(running)
        self._on_batch(len(entries))
        items = [entry.item for entry in entries]
        outcomes = await asyncio.get_running_loop().run_in_executor(self._threads, self._run_isolated, items)
        for entry, outcome in zip(entries, outcomes, strict=True):
            _settle(entry, outcome)
        self._running.remove(running)

    def _run_isolated(self, items: Sequence[Item]) -> list[Result | Exception]:
        """Run a batch; where it raises, run its items one by one so that only those at fault fail."""
        try:
            results = list(self._run(items))
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results for {len(items)} items")
        except Exception as error:
            return [error] if len(items) == 1 else [self._run_isolated([item])[0] for item in items]
        return [*results]

    def _fail_all(self, lane: "asyncio.Task[None]") -> None:
        """Nobody waits for an answer that cannot come: without one lane, none goes on."""
        for other in self._lanes:
            other.cancel()
        running = [entry for batch in self._running for entry in batch.entries]
        for entry in (*running, *self._waiting):
            if not entry.future.done():
                entry.future.set_exception(_dead())
        self._running.clear()
        self._waiting.clear()
        error = None if lane.cancelled() else lane.exception()
        if error is not None:
            self._on_death(error)


def _settle(entry: _Waiting[Item, Result], outcome: Result | Exception) -> None:
    if entry.future.done():  # its caller is gone
        return
    if isinstance(outcome, Exception):
        entry.future.set_exception(outcome)
    else:
        entry.future.set_result(outcome)


def _dead() -> Unavailable:
    detail = "the inference loop has stopped; the server must be restarted"
    return Unavailable(detail, headers=retry_after(UNHEALTHY_RETRY_S))

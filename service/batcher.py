"""One session shared by every request: what waits while it is busy becomes the next batch."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from service.errors import Overloaded, Unavailable, retry_after

Item = TypeVar("Item")
Result = TypeVar("Result")

SMOOTHING = 0.1  # weight of the newest batch in the running mean of seconds per image
UNHEALTHY_RETRY_S = 5.0


@dataclass(frozen=True)
class Batched(Generic[Result]):
    """A result, how long its item waited, and how long the batch it was in took, both in seconds."""

    value: Result
    queue_s: float
    run_s: float


@dataclass(eq=False)
class _Waiting(Generic[Item, Result]):
    item: Item
    future: "asyncio.Future[Batched[Result]]"
    since: float


class Admission:
    """Images accepted and not yet answered, never more than `capacity`."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.images = 0

    def refuse_if_full(self) -> None:
        """Spare a client an upload that would be refused at its end.

        Raises:
            Overloaded: where not even one more image would be taken.
        """
        if self.images >= self.capacity:
            raise Overloaded(f"{self.images} images are in progress, the most there may be", headers=retry_after(1))

    @contextmanager
    def hold(self, images: int, seconds_per_image: float) -> Iterator[None]:
        """Take room for the images of one request, all or none, until the block ends.

        Raises:
            Overloaded: where there is no room; its Retry-After is when the images before it should be done.
        """
        if self.images + images > self.capacity:
            raise Overloaded(
                f"{self.images} of {self.capacity} images are in progress and this request has {images}; try again",
                headers=retry_after(self.images * seconds_per_image),
            )
        self.images += images
        try:
            yield
        finally:
            self.images -= images


class Batcher(Generic[Item, Result]):
    """Runs `run` on one thread, a batch at a time.

    A batch is whatever waits at the moment the thread is free, at most `max_batch`: a lone item never waits for others.
    An item that makes `run` raise fails alone. Were the loop itself to die, every waiting item fails, `alive` turns
    False for good, and the health check tells the supervisor to start a new process.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        max_batch: int,
        on_batch: Callable[[int], None] = lambda size: None,
        on_death: Callable[[BaseException], None] = lambda error: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.seconds_per_image = 0.0
        self._run = run
        self._max_batch = max_batch
        self._on_batch = on_batch
        self._on_death = on_death
        self._clock = clock
        self._waiting: deque[_Waiting[Item, Result]] = deque()
        self._running: list[_Waiting[Item, Result]] = []
        self._running_since: float | None = None
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="candor-session")
        self._loop = asyncio.create_task(self._serve(), name="candor-batcher")
        self._loop.add_done_callback(self._fail_all)

    @property
    def alive(self) -> bool:
        """Whether items given to `submit` are still being run."""
        return not self._loop.done()

    @property
    def waiting(self) -> int:
        """Items that wait for the thread, those in it not counted."""
        return len(self._waiting)

    def busy_s(self) -> float:
        """Seconds that the batch now running has taken so far; 0 when idle."""
        return 0.0 if self._running_since is None else self._clock() - self._running_since

    async def submit(self, item: Item) -> Batched[Result]:
        """Run one item; a caller that is cancelled takes its item out of the queue.

        Raises:
            Unavailable: when the loop has died.
            Exception: what `run` raised for this item.
        """
        if not self.alive:
            raise _dead()
        entry = _Waiting[Item, Result](item, asyncio.get_running_loop().create_future(), self._clock())
        self._waiting.append(entry)
        self._arrived.set()
        try:
            return await entry.future
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            raise

    async def close(self) -> None:
        """Stop taking batches, and let the one that runs finish."""
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)
        await asyncio.to_thread(self._thread.shutdown)

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            while self._waiting:
                await self._serve_batch()
            self._arrived.clear()

    async def _serve_batch(self) -> None:
        self._running = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
        self._running_since = started = self._clock()
        self._on_batch(len(self._running))
        items = [entry.item for entry in self._running]
        outcomes = await asyncio.get_running_loop().run_in_executor(self._thread, self._run_isolated, items)
        run_s = self._clock() - started
        self.seconds_per_image += SMOOTHING * (run_s / len(items) - self.seconds_per_image)
        for entry, outcome in zip(self._running, outcomes, strict=True):
            _settle(entry, outcome, started - entry.since, run_s)
        self._running, self._running_since = [], None

    def _run_isolated(self, items: Sequence[Item]) -> list[Result | Exception]:
        """Run a batch; where it raises, run its items one by one so that only those at fault fail."""
        try:
            results = list(self._run(items))
            if len(results) != len(items):
                raise RuntimeError(f"{len(results)} results for {len(items)} items")
        except Exception as error:
            return [error] if len(items) == 1 else [self._run_isolated([item])[0] for item in items]
        return [*results]

    def _fail_all(self, loop: "asyncio.Task[None]") -> None:
        """Nobody waits for an answer that cannot come."""
        for entry in (*self._running, *self._waiting):
            if not entry.future.done():
                entry.future.set_exception(_dead())
        self._running, self._running_since = [], None
        self._waiting.clear()
        error = None if loop.cancelled() else loop.exception()
        if error is not None:
            self._on_death(error)


def _settle(entry: _Waiting[Item, Result], outcome: Result | Exception, queue_s: float, run_s: float) -> None:
    if entry.future.done():  # its caller is gone
        return
    if isinstance(outcome, Exception):
        entry.future.set_exception(outcome)
    else:
        entry.future.set_result(Batched(outcome, queue_s, run_s))


def _dead() -> Unavailable:
    detail = "the inference loop has stopped; the server must be restarted"
    return Unavailable(detail, headers=retry_after(UNHEALTHY_RETRY_S))

"""The client of programs with an event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar, Unpack, overload

import httpx2
from numpy.typing import ArrayLike

from scripts.client import calls
from scripts.client.attempts import Patience, Reply, Send, Steps, Wait, attempts, readiness
from scripts.client.connection import Certificate, Verify, arguments, as_answer, as_unreachable, settings
from scripts.client.errors import Unreadable
from scripts.client.gallery import AsyncGallery
from scripts.client.images import ONE, Image, image_bytes
from scripts.client.many import (
    Failure,
    Loaded,
    Make,
    Pair,
    groups,
    load_image,
    outcomes,
    room_of,
)
from scripts.client.options import EmbedOptions, RetrieveOptions
from scripts.client.policies import AsyncPolicies
from scripts.client.results import Embedded, Model, Models, Retrieval
from scripts.client.wire import Call

Source = TypeVar("Source")
Value = TypeVar("Value")


class AsyncClient:
    """A candor server, for an event loop: arguments, methods and errors are those of `Client`. Threads read files."""

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        *,
        bundle: str | None = None,
        timeout_s: float = 60.0,
        retries: int | None = 5,
        patience_s: float = 120.0,
        verify: Verify = True,
        cert: Certificate | None = None,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.url = url
        self.gallery = AsyncGallery(self)
        self.policies = AsyncPolicies(self)
        self._http = httpx2.AsyncClient(**settings(url, api_key, bundle, verify, cert))
        self._timeout_s = timeout_s
        self._patience = Patience(retries, patience_s)
        self._sleep = sleep

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    @overload
    async def embed(  # type: ignore[overload-overlap]  # a str is one path, though a sequence of texts too
        self, image: Image, **options: Unpack[EmbedOptions]
    ) -> Embedded: ...

    @overload
    async def embed(self, image: Sequence[Image], **options: Unpack[EmbedOptions]) -> list[Embedded | Failure]: ...

    async def embed(
        self, image: Image | Sequence[Image], **options: Unpack[EmbedOptions]
    ) -> Embedded | list[Embedded | Failure]:
        """As `Client.embed`."""
        if isinstance(image, ONE):
            call = calls.embed_one(await asyncio.to_thread(image_bytes, image), options)
            return await self._run(attempts(call, self._patience))
        loaded = await asyncio.to_thread(lambda: [Loaded(each, load_image(each)) for each in image])
        steps = outcomes(loaded, partial(calls.embed, options=options), self._patience)
        return [outcome for _, outcome in await self._run(steps)]

    def embed_many(
        self,
        images: Iterable[Image],
        *,
        batch: int = 16,
        concurrency: int = 4,
        ordered: bool = True,
        **options: Unpack[EmbedOptions],
    ) -> AsyncIterator[Pair[Image, Embedded]]:
        """As `Client.embed_many`."""
        return self.stream(images, load_image, partial(calls.embed, options=options), batch, concurrency, ordered)

    async def retrieve(
        self,
        image: Image | None = None,
        *,
        vector: ArrayLike | None = None,
        id: str | None = None,
        **options: Unpack[RetrieveOptions],
    ) -> Retrieval:
        """As `Client.retrieve`."""
        return await self.ask(await asyncio.to_thread(calls.retrieve, image, vector, id, options))

    async def model(self) -> Model:
        """As `Client.model`."""
        return await self.ask(calls.model())

    async def models(self) -> Models:
        """As `Client.models`."""
        return await self.ask(calls.models())

    async def ready(self) -> bool:
        """As `Client.ready`."""
        return await self._run(readiness())

    async def ask(self, call: Call[Value]) -> Value:
        """As `Client.ask`."""
        return await self._run(attempts(call, self._patience))

    async def stream(
        self,
        sources: Iterable[Source],
        load: Callable[[Source], bytes | Unreadable],
        make: Make[Value],
        batch: int,
        concurrency: int,
        ordered: bool,
    ) -> AsyncIterator[Pair[Source, Value]]:
        """As `Client.stream`."""
        waiting = groups(sources, load, room_of(await self.model(), batch))
        flying: list[asyncio.Task[list[Pair[Source, Value]]]] = []
        try:
            while group := await asyncio.to_thread(next, waiting, None):
                flying.append(asyncio.create_task(self._run(outcomes(group, make, self._patience))))
                if len(flying) >= concurrency:
                    for pair in await _landed(flying, ordered):
                        yield pair
            while flying:
                for pair in await _landed(flying, ordered):
                    yield pair
        finally:
            for task in flying:
                task.cancel()
            await asyncio.gather(*flying, return_exceptions=True)

    async def _run(self, steps: Steps[Value]) -> Value:
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as done:
                value: Value = done.value
                return value
            reply = await self._take(step)

    async def _take(self, step: Send | Wait) -> Reply:
        if isinstance(step, Wait):
            await self._sleep(step.seconds)
            return None
        try:
            return as_answer(await self._http.send(self._http.build_request(**arguments(step, self._timeout_s))))
        except httpx2.RequestError as error:
            return as_unreachable(error, self.url)


async def _landed(flying: list["asyncio.Task[list[Pair[Source, Value]]]"], ordered: bool) -> list[Pair[Source, Value]]:
    """As in `sync`."""
    done = flying if ordered else (await asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED))[0]
    first = next(task for task in flying if task in done)
    flying.remove(first)
    return await first

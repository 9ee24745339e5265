"""The client of programs without an event loop; several threads may use one at once."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import TypeVar, Unpack, overload

import httpx2
from numpy.typing import ArrayLike

from scripts.client import calls
from scripts.client.attempts import Patience, Reply, Send, Steps, Wait, attempts, readiness
from scripts.client.connection import Certificate, Verify, arguments, as_answer, as_unreachable, settings
from scripts.client.errors import Unreadable
from scripts.client.gallery import Gallery
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
from scripts.client.policies import Policies
from scripts.client.results import Embedded, Model, Models, Retrieval
from scripts.client.wire import Call

Source = TypeVar("Source")
Value = TypeVar("Value")


class Client:
    """A candor server.

    Args:
        url: where it is, such as `http://127.0.0.1:8000`.
        api_key: where it asks for one.
        bundle: which of its bundles answers; None for its default.
        timeout_s: for connecting, and longest silence while a request is sent or its answer awaited.
        retries: how often a request is made again, where that does no harm: a busy server's 429 and 503 no sooner than
            `Retry-After` says, broken connections and a gateway's 502 after waits that double; None for any number.
        patience_s: how long after a request was first made the last retry may begin.
        verify: whom to trust with TLS: the system's authorities, a PEM file's, a context's, or (False) anybody.
        cert: PEM files of a certificate and its key, for a server that asks for them.
        sleep: how to wait.

    Raises:
        ApiError: by every method, where the server refuses.
        Unreachable: by every method, where nobody answers.
        ServerError: by every method, the base of all that can go wrong with a server.
        Unreadable: where an image cannot be read before it is sent.
    """

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
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.url = url
        self.gallery = Gallery(self)
        self.policies = Policies(self)
        self._http = httpx2.Client(**settings(url, api_key, bundle, verify, cert))
        self._timeout_s = timeout_s
        self._patience = Patience(retries, patience_s)
        self._sleep = sleep

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    @overload
    def embed(  # type: ignore[overload-overlap]  # a str is one path, though a sequence of texts too
        self, image: Image, **options: Unpack[EmbedOptions]
    ) -> Embedded: ...

    @overload
    def embed(self, image: Sequence[Image], **options: Unpack[EmbedOptions]) -> list[Embedded | Failure]: ...

    def embed(
        self, image: Image | Sequence[Image], **options: Unpack[EmbedOptions]
    ) -> Embedded | list[Embedded | Failure]:
        """An image's embedding; of a list, each image's embedding or the error that it alone failed with.

        A list is one request, and several only where the server finds it too large: `embed_many` is for any number.
        """
        if isinstance(image, ONE):
            return self.ask(calls.embed_one(image_bytes(image), options))
        loaded = [Loaded(each, load_image(each)) for each in image]
        steps = outcomes(loaded, partial(calls.embed, options=options), self._patience)
        return [outcome for _, outcome in self._run(steps)]

    def embed_many(
        self,
        images: Iterable[Image],
        *,
        batch: int = 16,
        concurrency: int = 4,
        ordered: bool = True,
        **options: Unpack[EmbedOptions],
    ) -> Iterator[Pair[Image, Embedded]]:
        """Each image and its embedding, or the error that it alone failed with, as they become known.

        Images are read as they are needed, `concurrency` requests of at most `batch` are under way at a time, and no
        more is kept. They come in the order they were given, or unless `ordered` as answers come.
        """
        return self.stream(images, load_image, partial(calls.embed, options=options), batch, concurrency, ordered)

    def retrieve(
        self,
        image: Image | None = None,
        *,
        vector: ArrayLike | None = None,
        id: str | None = None,
        **options: Unpack[RetrieveOptions],
    ) -> Retrieval:
        """The items nearest to an image, a vector (D,) or an item, or an abstention, which is no error."""
        return self.ask(calls.retrieve(image, vector, id, options))

    def model(self) -> Model:
        """The bundle that answers."""
        return self.ask(calls.model())

    def models(self) -> Models:
        """Every bundle that is served."""
        return self.ask(calls.models())

    def ready(self) -> bool:
        """Whether the server takes requests now; asked once, so that Unreachable comes at once."""
        return self._run(readiness())

    def ask(self, call: Call[Value]) -> Value:
        """The value of a call, tried as often as this client does."""
        return self._run(attempts(call, self._patience))

    def stream(
        self,
        sources: Iterable[Source],
        load: Callable[[Source], bytes | Unreadable],
        make: Make[Value],
        batch: int,
        concurrency: int,
        ordered: bool,
    ) -> Iterator[Pair[Source, Value]]:
        """What became of each of many; `load` says what is sent of one, `make` is the call of some."""
        threads = ThreadPoolExecutor(concurrency)
        flying: list[Future[list[Pair[Source, Value]]]] = []
        try:
            for group in groups(sources, load, room_of(self.model(), batch)):
                flying.append(threads.submit(self._run, outcomes(group, make, self._patience)))
                if len(flying) >= concurrency:
                    yield from _landed(flying, ordered)
            while flying:
                yield from _landed(flying, ordered)
        finally:
            threads.shutdown(cancel_futures=True)

    def _run(self, steps: Steps[Value]) -> Value:
        reply: Reply = None
        while True:
            try:
                step = steps.send(reply)
            except StopIteration as done:
                value: Value = done.value
                return value
            reply = self._take(step)

    def _take(self, step: Send | Wait) -> Reply:
        if isinstance(step, Wait):
            self._sleep(step.seconds)
            return None
        try:
            return as_answer(self._http.send(self._http.build_request(**arguments(step, self._timeout_s))))
        except httpx2.RequestError as error:
            return as_unreachable(error, self.url)


def _landed(flying: list[Future[list[Pair[Source, Value]]]], ordered: bool) -> list[Pair[Source, Value]]:
    """What the first of these came to, or of those that are done; it is taken out."""
    done = flying if ordered else wait(flying, return_when=FIRST_COMPLETED).done
    first = next(future for future in flying if future in done)
    flying.remove(first)
    return first.result()

"""Sending images to a server, as many at a time as it takes, and again where it was busy or gone for a moment."""

import base64
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from models.errors import UserError
from scripts.client import Answer, NoAnswer, Server
from scripts.ingest.images import Image
from scripts.ingest.journal import Sent

BUSY: Final = (429, 503)
TOO_LARGE: Final = 413
FAILED: Final = (408, 500, 502, 504)  # of which another try, or half as many images, may make something
TRIES: Final = 6
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 30.0
REFUSALS_BEFORE_HALVING: Final = 4


@dataclass(frozen=True)
class Outcome:
    """What became of an image: `error` is None where it is stored, else a type and a detail."""

    image: Image
    sent: Sent | None
    error: tuple[str, str] | None


@dataclass(frozen=True)
class Loaded:
    """An image and its bytes."""

    image: Image
    sent: Sent
    data: bytes


class Limits:
    """How much goes into one request: less once the server has refused as much."""

    def __init__(self, images: int, size: int) -> None:
        self.images = images
        self.bytes = size

    def lower(self, answer: Answer, images: int, size: int) -> None:
        """Take note of a 413."""
        if answer.problem[0] == "too_many_images":
            self.images = max(1, min(self.images, images // 2))
        else:
            self.bytes = max(1, min(self.bytes, size // 2))


def batches(images: Sequence[tuple[Image, Sent]], limits: Limits) -> Iterator[list[tuple[Image, Sent]]]:
    """Images in groups within the limits as they are by then, one image at least."""
    batch: list[tuple[Image, Sent]] = []
    size = 0
    for image, sent in images:
        if batch and (len(batch) >= limits.images or size + sent.size > limits.bytes):
            yield batch
            batch, size = [], 0
        batch.append((image, sent))
        size += sent.size
    if batch:
        yield batch


class Sender:
    """Sends batches to one server.

    Args:
        server: where to.
        options: of every request, such as `max_percentile`.
        limits: lowered as the server refuses.
        patience_s: how long one request may be refused as too busy until all is given up.
    """

    def __init__(self, server: Server, options: Mapping[str, Any], limits: Limits, patience_s: float) -> None:
        self._server = server
        self._options = options
        self.limits = limits
        self._patience_s = patience_s

    def describe(self) -> Any:
        """The server's gallery, in JSON, once it is ready; where nobody answers, there is no point in waiting."""
        answer = self._patiently(lambda: self._server.request("GET", "/gallery?limit=0", None, None), tries=1)
        if answer.status != 200:
            raise UserError(f"GET /gallery was answered {answer.status}: {answer.problem[1]}")
        return json.loads(answer.body)

    def send(self, batch: Sequence[tuple[Image, Sent]]) -> list[Outcome]:
        """Read and send images; what became of each.

        Raises:
            UserError: where the server cannot be reached, is too busy for too long, or refuses every request.
        """
        loaded: list[Loaded] = []
        outcomes: list[Outcome] = []
        for image, sent in batch:
            try:
                loaded.append(Loaded(image, sent, image.path.read_bytes()))
            except OSError as error:
                outcomes.append(Outcome(image, None, ("unreadable", error.strerror or str(error))))
        return outcomes + (self._send(loaded) if loaded else [])

    def _send(self, loaded: Sequence[Loaded]) -> list[Outcome]:
        body = _body(loaded, self._options)
        answer = self._patiently(
            lambda: self._server.request("POST", "/gallery", body, "application/json"), may_be_halved=len(loaded) > 1
        )
        if answer.status == 200:
            results = json.loads(answer.body)["results"]
            return [_outcome(each, result) for each, result in zip(loaded, results, strict=True)]
        if answer.status not in (*BUSY, TOO_LARGE, *FAILED):
            raise UserError(f"POST /gallery was answered {answer.status}: {answer.problem[1]}")
        if len(loaded) == 1:
            return [Outcome(loaded[0].image, None, answer.problem)]
        if answer.status == TOO_LARGE:
            self.limits.lower(answer, len(loaded), sum(len(each.data) for each in loaded))
        half = len(loaded) // 2
        return self._send(loaded[:half]) + self._send(loaded[half:])

    def _patiently(self, ask: Callable[[], Answer], *, tries: int = TRIES, may_be_halved: bool = False) -> Answer:
        """An answer that another try would not change, or that asks for fewer images at a time."""
        failures = refusals = 0
        ends = time.monotonic() + self._patience_s
        while True:
            try:
                answer = ask()
            except NoAnswer:
                failures += 1
                if failures >= tries:
                    raise
                _wait(FIRST_WAIT_S * 2**failures)
                continue
            if answer.status in BUSY:
                refusals += 1
                if may_be_halved and refusals >= REFUSALS_BEFORE_HALVING:
                    return answer
                if time.monotonic() > ends:
                    raise UserError(f"the server was too busy for {self._patience_s:g} s: {answer.problem[1]}")
                _wait(_retry_after(answer))
            elif answer.status in FAILED and failures < tries - 1:
                failures += 1
                if may_be_halved and failures > 1:
                    return answer
                _wait(FIRST_WAIT_S * 2**failures)
            else:
                return answer


def _body(loaded: Sequence[Loaded], options: Mapping[str, Any]) -> bytes:
    """JSON rather than a form: an id may hold any character."""
    items = [
        {"id": each.image.id, "image": base64.b64encode(each.data).decode(), "payload": each.image.payload}
        for each in loaded
    ]
    return json.dumps({**options, "items": items}).encode()


def _outcome(loaded: Loaded, result: Mapping[str, Any]) -> Outcome:
    if result["status"] == "ok":
        return Outcome(loaded.image, loaded.sent, None)
    return Outcome(loaded.image, None, (str(result["error"]["type"]), str(result["error"]["detail"])))


def _retry_after(answer: Answer) -> float:
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else FIRST_WAIT_S


def _wait(seconds: float) -> None:
    """About that long, so that those who wait do not all come back at once."""
    time.sleep(min(LONGEST_WAIT_S, seconds) * random.uniform(0.8, 1.2))

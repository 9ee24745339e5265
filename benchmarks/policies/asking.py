"""A real server asked over HTTP: fill its gallery, gather evidence, certify, follow a policy, judge its answers."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from httpx2 import Client

from benchmarks.policies.sets import Picture
from benchmarks.server_process import serving

AT_A_TIME: Final = 8
PER_REQUEST: Final = 32
DEPTH: Final = 50  # matches of a query whose labels are looked at
Pixels = Callable[[Picture], bytes]


@dataclass(frozen=True)
class Asked:
    """What a search said of a query: the evidence, and of each of the first `DEPTH` matches whether it is right."""

    evidence: dict[str, float]
    relevant: tuple[bool, ...]


@dataclass(frozen=True)
class Decided:
    """An answer under a policy."""

    request_id: str
    accepted: bool
    correct: bool
    status: str


class Candor:
    """A server, and how it is asked."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def fill(self, pictures: Sequence[Picture], pixels: Pixels, prefix: str = "") -> None:
        """Put images into the gallery, labelled."""
        batches = [pictures[start : start + PER_REQUEST] for start in range(0, len(pictures), PER_REQUEST)]

        def send(batch: Sequence[Picture]) -> int:
            named = {f"{prefix}{picture.place}": picture for picture in batch}
            files = [("images", (name, pixels(picture), "image/png")) for name, picture in named.items()]
            payloads = {name: {"label": picture.label} for name, picture in named.items()}
            form = {"payloads": json.dumps(payloads)}
            stored: int = self._checked(self._client.post("/gallery", files=files, data=form))["stored"]
            return stored

        if (stored := sum(self._each(send, batches))) != len(pictures):
            raise RuntimeError(f"{stored} of {len(pictures)} images were stored")

    def evidence(self, queries: Sequence[Picture], pixels: Pixels) -> list[Asked]:
        """Ask every query for evidence."""

        def ask(query: Picture) -> Asked:
            answer = self._retrieve(pixels(query), {"limit": DEPTH, "evidence": "true"})
            return Asked(answer["evidence"], tuple(_right(match, query) for match in answer["matches"]))

        return list(self._each(ask, queries))

    def certify(self, content: dict[str, Any]) -> Any:
        """Make a policy: `POST /policies`."""
        return self._checked(self._client.post("/policies", json=content))

    def policy(self, name: str) -> Any:
        """What is said of a policy."""
        return self._checked(self._client.get(f"/policies/{name}"))

    def follow(self, queries: Sequence[Picture], pixels: Pixels, run: str, **options: Any) -> list[Decided]:
        """Ask every query under a policy; `run` makes the request ids unique."""

        def ask(numbered: tuple[int, Picture]) -> Decided:
            number, query = numbered
            request_id = f"{run}-{number}"
            answer = self._retrieve(pixels(query), options, {"X-Request-ID": request_id})
            correct = bool(answer["matches"]) and _right(answer["matches"][0], query)
            return Decided(request_id, answer["decision"] == "match", correct, answer["guarantee"]["status"])

        return list(self._each(ask, enumerate(queries)))

    def judge(self, answer: Decided) -> Any:
        """Say whether an answer was right."""
        content = {"request_id": answer.request_id, "correct": answer.correct}
        return self._checked(self._client.post("/feedback", json=content))

    def _retrieve(self, image: bytes, options: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
        own = {"Content-Type": "image/png", **(headers or {})}
        return self._checked(self._client.post("/retrieve", content=image, params=options, headers=own))

    def _each(self, work: Callable[[Any], Any], things: Iterable[Any]) -> Iterator[Any]:
        with ThreadPoolExecutor(AT_A_TIME) as threads:
            yield from threads.map(work, things)

    def _checked(self, response: Any) -> Any:
        if response.status_code >= 300:
            raise RuntimeError(f"{response.request.url} was answered {response.status_code}: {response.text[:300]}")
        return response.json()


@contextmanager
def candor(bundle: Path, folder: Path) -> Iterator[Candor]:
    """A server of its own with an empty gallery in the folder."""
    settings = {"bundle": bundle, "gallery": str(folder / "gallery"), "label_field": "label", "device": "cpu"}
    with serving(settings, folder) as server, Client(base_url=server.url, timeout=120.0) as client:
        yield Candor(client)


def _right(match: Any, query: Picture) -> bool:
    label: str = match["payload"]["label"]
    return label == query.label

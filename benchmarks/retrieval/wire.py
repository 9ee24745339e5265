"""Requests to candor as bytes, and what its answers say."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from benchmarks.retrieval.data import Condition, K, Vectors

Encoding = Literal["base64", "float"]
FOREIGN = -2  # a row that is none of the corpus: an item written meanwhile


def item_id(row: int) -> str:
    """The id of a row of the corpus."""
    return f"i{row:08}"


def row_of(item: str) -> int:
    """The row of an id, `FOREIGN` for an item that is not of the corpus."""
    return int(item[1:]) if item.startswith("i") else FOREIGN


def get(url: str, path: str) -> bytes:
    """A GET request."""
    return f"GET {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n\r\n".encode()


def post(url: str, path: str, content: Any) -> bytes:
    """A POST request with a JSON body."""
    body = json.dumps(content, separators=(",", ":")).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def retrieve_requests(url: str, queries: Vectors, condition: Condition, encoding: Encoding) -> list[bytes]:
    """`POST /retrieve` by vector, one request for each of (q, D) queries."""
    options: dict[str, Any] = {"limit": K}
    if condition.where:
        options["filter"] = condition.where
    if condition.max_uncertainty is not None:
        options["max_result_uncertainty"] = condition.max_uncertainty
    return [post(url, "/retrieve", {"vector": written(query, encoding), **options}) for query in queries]


def upsert_request(
    url: str,
    ids: Sequence[str],
    vectors: Vectors,
    uncertainties: Sequence[float],
    payloads: Sequence[Mapping[str, Any]],
) -> bytes:
    """`POST /gallery` of (n, D) vectors."""
    items = [
        {"id": name, "vector": written(vector, "base64"), "uncertainty": uncertainty, "payload": payload}
        for name, vector, uncertainty, payload in zip(ids, vectors, uncertainties, payloads, strict=True)
    ]
    return post(url, "/gallery", {"items": items})


def written(vector: Vectors, encoding: Encoding) -> str | list[float]:
    """A (D,) vector as JSON holds it: base64 of little-endian float32, or numbers in the fewest digits."""
    if encoding == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(str(value)) for value in vector]


def rows_found(bodies: Mapping[int, bytes]) -> dict[int, list[int]]:
    """The rows that each answer of `/retrieve` names, by the query's position."""
    return {
        position: [row_of(match["id"]) for match in json.loads(body)["matches"]] for position, body in bodies.items()
    }


def search_ms(bodies: Mapping[int, bytes]) -> list[float]:
    """How long the server says its gallery took, in milliseconds, per answer of `/retrieve`."""
    return [float(json.loads(body)["timing_ms"]["search"]) for body in bodies.values()]

"""Requests with photos in them, as bytes to send: each server in the form that it takes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from benchmarks.photos import CONTENT_TYPES

BOUNDARY = "photo-boundary"

Form = Literal["raw", "multipart", "kserve"]


@dataclass(frozen=True)
class Target:
    """Where requests go, and what they look like.

    `raw`: the photo is the body. `multipart`: `images_per_request` photos as the files `images`. `kserve`: one photo as
    a BYTES tensor `image`, in the binary form of the Open Inference Protocol; the answer is asked for as JSON.
    """

    url: str
    path: str = "/embed"
    form: Form = "raw"
    images_per_request: int = 1


def make_requests(target: Target, photos: Sequence[Path]) -> list[bytes]:
    """One request per photo, or per full group of `images_per_request`."""
    if target.form == "raw":
        return [raw_request(target.url, photo, target.path) for photo in photos]
    if target.form == "kserve":
        return [kserve_request(target, photo) for photo in photos]
    size = target.images_per_request
    groups = [photos[start : start + size] for start in range(0, len(photos) - size + 1, size)]
    return [multipart_request(target, group) for group in groups]


def raw_request(url: str, photo: Path, path: str = "/embed") -> bytes:
    """The photo as the body."""
    return _request(url, path, {"Content-Type": CONTENT_TYPES[photo.suffix.lower()]}, photo.read_bytes())


def multipart_request(target: Target, photos: Sequence[Path]) -> bytes:
    """Photos as files of a form."""
    parts = []
    for photo in photos:
        disposition = f'form-data; name="images"; filename="{photo.name}"'
        kind = CONTENT_TYPES[photo.suffix.lower()]
        head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\nContent-Type: {kind}\r\n\r\n"
        parts.append(head.encode() + photo.read_bytes() + b"\r\n")
    body = b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])
    return _request(target.url, target.path, {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}, body)


def kserve_request(target: Target, photo: Path) -> bytes:
    """The photo as a tensor of one element: a JSON head, then the length in 4 bytes and the bytes."""
    data = photo.read_bytes()
    tensor = len(data).to_bytes(4, "little") + data
    image = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(tensor)}}
    head = json.dumps({"inputs": [image]}, separators=(",", ":")).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return _request(target.url, target.path, headers, head + tensor)


def _request(url: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    lines = [f"POST {path} HTTP/1.1", f"Host: {urlsplit(url).netloc}", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body

"""The page at `/`: files that ship with candor; a browser runs them as they are, and they ask this server alone."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response

from service.errors import NotFound

FOLDER: Final = Path(__file__).parent.parent / "page"
INDEX: Final = "index.html"
MEDIA_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SOURCES: Final = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' blob: data:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
)
HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "; ".join(SOURCES),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # kept, and asked about each time: an old module never meets a new one
}

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True)
class Asset:
    """One file of the page, and what tells its versions apart."""

    content: bytes
    media_type: str
    etag: str


@router.api_route("/", methods=["GET", "HEAD"])
async def index(request: Request) -> Response:
    """The page."""
    return _respond(request, INDEX)


@router.api_route("/page/{name:path}", methods=["GET", "HEAD"])
async def asset(request: Request, name: str) -> Response:
    """A script, a style sheet or an icon of the page."""
    return _respond(request, name)


def _respond(request: Request, name: str) -> Response:
    found = _assets().get(name)
    if found is None:
        raise NotFound(f"the page has no file {name!r}")
    headers = {**HEADERS, "ETag": found.etag}
    if found.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(found.content, media_type=found.media_type, headers=headers)


@lru_cache(maxsize=1)
def _assets() -> Mapping[str, Asset]:
    """Every file of the page by its path in the folder: a request chooses one of these, never a path."""
    return {
        path.relative_to(FOLDER).as_posix(): _read(path)
        for path in FOLDER.rglob("*")
        if path.is_file() and path.suffix in MEDIA_TYPES
    }


def _read(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')

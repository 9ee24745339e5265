"""The gallery: where items are kept and found again."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from service.gallery.base import Gallery, GalleryError

if TYPE_CHECKING:
    from service.gallery.lance import LanceOptions

__all__ = ["open_gallery"]

_OBJECT_STORES = ("s3", "gs", "az")


async def open_gallery(
    location: str, *, dimension: int, bundle_hash: str, options: "LanceOptions | None" = None
) -> Gallery:
    """Open or create the gallery at a folder or URL, for embeddings of one bundle.

    Args:
        location: a folder, `file://`, or an object store: `s3://`, `gs://`, `az://` (LanceDB in all four cases).
        dimension: D of the bundle's embeddings.
        bundle_hash: the bundle's `hash`.
        options: how to keep the table, where the defaults do not fit.

    Raises:
        GalleryError: for another kind of URL, a place that cannot be used, or the gallery of another bundle.
    """
    place = _place(location)
    open_engine = await asyncio.to_thread(_import_lance)
    return await open_engine(place, dimension=dimension, bundle_hash=bundle_hash, options=options)


def _import_lance() -> Callable[..., Awaitable[Gallery]]:
    """The engine's package takes seconds to import: not before it is needed, and not on the event loop."""
    from service.gallery.lance import open_lance_gallery

    return open_lance_gallery


def _place(location: str) -> str:
    """The location as the engine takes it: an absolute path, or the URL of an object store."""
    scheme, separator, _ = location.partition("://")
    if not separator:
        return str(Path(location).expanduser().absolute())
    if scheme == "file":
        return unquote(urlsplit(location).path)
    if scheme in _OBJECT_STORES:
        return location
    supported = ", ".join(f"{name}://" for name in ("file", *_OBJECT_STORES))
    raise GalleryError(f"no gallery engine for {location}: give a folder or one of {supported}")

"""The gallery: where items are kept and found again."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

from service.gallery.base import Gallery, GalleryError
from service.gallery.lance import LanceOptions, open_lance_gallery

__all__ = ["open_gallery"]

_OBJECT_STORES = ("s3", "gs", "az")


async def open_gallery(
    location: str, *, dimension: int, bundle_hash: str, options: LanceOptions | None = None
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
    return await open_lance_gallery(_place(location), dimension=dimension, bundle_hash=bundle_hash, options=options)


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

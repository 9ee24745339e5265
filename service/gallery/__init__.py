"""The gallery: where items are kept and found again."""

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from service.gallery.base import Gallery, GalleryError
from service.gallery.checked import CheckedGallery
from service.gallery.engine import Engine
from service.gallery.options import EngineOptions

__all__ = ["folder_of", "open_gallery"]

ENGINES: Final = {
    "file": "lance",
    "s3": "lance",
    "gs": "lance",
    "az": "lance",
    "postgresql": "postgresql",
    "milvus": "milvus",
}
EXTRAS: Final = ("postgresql", "milvus")  # each installs what the engine of that name needs


async def open_gallery(
    location: str, *, dimension: int, bundle_hash: str, options: EngineOptions | None = None
) -> Gallery:
    """Open or create the gallery at a folder or URL, for embeddings of one bundle.

    Args:
        location: a folder, `file://`, or an object store: `s3://`, `gs://`, `az://` (LanceDB in all four cases);
            `postgresql://` with pgvector; or `milvus://host:19530/collection`.
        dimension: D of the bundle's embeddings.
        bundle_hash: the bundle's `hash`.
        options: how the engine is reached and kept, where the defaults do not fit.

    Raises:
        GalleryError: for another kind of URL, a place that cannot be used, or the gallery of another bundle.
        GalleryUnavailable: where the engine cannot be reached now.
    """
    module, place = _engine_of(location)
    engine: Engine = await (await asyncio.to_thread(_opener, module))(
        place, dimension=dimension, bundle_hash=bundle_hash, options=options or EngineOptions()
    )
    return CheckedGallery(engine, dimension)


def folder_of(location: str) -> Path | None:
    """The absolute path of a gallery that is a folder of this machine; None for any other."""
    scheme, separator, _ = location.partition("://")
    if not separator:
        return Path(location).expanduser().absolute()
    return Path(unquote(urlsplit(location).path)) if scheme == "file" else None


def _opener(module: str) -> Callable[..., Awaitable[Engine]]:
    """An engine's package takes seconds to import: not before it is needed, and not on the event loop."""
    try:
        opener: Callable[..., Awaitable[Engine]] = importlib.import_module(module).open_engine
    except ModuleNotFoundError as error:
        engine = module.rpartition(".")[2]
        if error.name is None or error.name.startswith("service") or engine not in EXTRAS:
            raise
        raise GalleryError(f"{engine}:// needs {error.name}: pip install 'candor[{engine}]'") from error
    return opener


def _engine_of(location: str) -> tuple[str, str]:
    """The engine's module, and the location as it takes it: an absolute path, or a URL."""
    if (folder := folder_of(location)) is not None:
        return _module("file"), str(folder)
    scheme = location.partition("://")[0]
    if scheme not in ENGINES:
        supported = ", ".join(f"{name}://" for name in ENGINES)
        raise GalleryError(f"no gallery engine for {scheme}://: give a folder or one of {supported}")
    return _module(scheme), location


def _module(scheme: str) -> str:
    return f"service.gallery.{ENGINES[scheme]}"

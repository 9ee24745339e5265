"""The gallery: where items are kept and found again."""

import asyncio
import importlib
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from service.gallery.base import Gallery, GalleryError
from service.gallery.checked import CheckedGallery
from service.gallery.engine import Engine
from service.gallery.options import EngineOptions
from service.gallery.survey import Survey

__all__ = ["folder_of", "open_gallery", "survey_gallery"]

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
    package = await asyncio.to_thread(_package, module)
    engine: Engine = await package.open_engine(
        place, dimension=dimension, bundle_hash=bundle_hash, options=options or EngineOptions()
    )
    return CheckedGallery(engine, dimension)


async def survey_gallery(
    location: str, *, dimension: int, bundle_hash: str, options: EngineOptions | None = None
) -> Survey:
    """What `open_gallery` would find: nothing is made or changed; the arguments and errors are the same."""
    module, place = _engine_of(location)
    package = await asyncio.to_thread(_package, module)
    found: Survey = await package.survey(
        place, dimension=dimension, bundle_hash=bundle_hash, options=options or EngineOptions()
    )
    return found


def folder_of(location: str) -> Path | None:
    """The absolute path of a gallery that is a folder of this machine; None for any other."""
    scheme, separator, _ = location.partition("://")
    if not separator:
        return Path(location).expanduser().absolute()
    return Path(unquote(urlsplit(location).path)) if scheme == "file" else None


def _package(module: str) -> Any:
    """An engine's package takes seconds to import: not before it is needed, and not on the event loop."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        engine = module.rpartition(".")[2]
        if error.name is None or error.name.startswith("service") or engine not in EXTRAS:
            raise
        raise GalleryError(f"{engine}:// needs {error.name}: pip install 'candor[{engine}]'") from error


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

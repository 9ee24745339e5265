"""Places where a test's galleries can be: one for each engine, behind which a real server runs where it needs one."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Final

from service.gallery import open_gallery
from service.gallery.checked import CheckedGallery
from service.gallery.lance.engine import LanceOptions, open_lance_engine
from service.gallery.lance.maintenance import Upkeep
from service.gallery.options import EngineOptions
from tests.service.gallery.oracle import BUNDLE, DIMENSION

BY_HAND = LanceOptions(upkeep=Upkeep(index_from_rows=1000, optimize_every=1_000_000, keep_versions_s=0.05))


class Place(ABC):
    """Where galleries of one engine can be opened, of D = `DIMENSION` and the bundle `BUNDLE` unless said."""

    name: str
    options: EngineOptions = EngineOptions()
    files: Path | None = None
    """Where the engine keeps its files, if they can be seen."""

    @abstractmethod
    def fresh(self) -> str:
        """A location where there is no gallery yet."""

    async def open(self, location: str, *, dimension: int = DIMENSION, bundle_hash: str = BUNDLE) -> CheckedGallery:
        """The gallery there, whose upkeep happens only in `maintain`, if the engine can wait for that."""
        gallery = await open_gallery(location, dimension=dimension, bundle_hash=bundle_hash, options=self.options)
        assert isinstance(gallery, CheckedGallery)
        return gallery


class ServerPlace(Place):
    """Where a server of the engine's own keeps the galleries: a real one, run by the tests."""

    @property
    def settings(self) -> dict[str, str]:
        """Variables that make a candor server reach the engine as `options` do."""
        named = {"USER": self.options.user, "PASSWORD": self.options.password}
        return {f"CANDOR_GALLERY_{name}": value for name, value in named.items() if value is not None}

    @abstractmethod
    def kill(self) -> None:
        """End every process of the server at once, with SIGKILL; return once they are gone."""

    @abstractmethod
    def start(self) -> None:
        """Start the server again at the same address, with what it has on disk; return once it answers."""


class LancePlace(Place):
    """Folders within one."""

    name = "lancedb"

    def __init__(self, folder: Path) -> None:
        self.files = folder
        self._folder = folder
        self._numbers = itertools.count()

    def fresh(self) -> str:
        """A folder that is not there yet."""
        return str(self._folder / f"gallery-{next(self._numbers)}")

    async def open(self, location: str, *, dimension: int = DIMENSION, bundle_hash: str = BUNDLE) -> CheckedGallery:
        """The gallery there."""
        engine = await open_lance_engine(location, dimension=dimension, bundle_hash=bundle_hash, options=BY_HAND)
        return CheckedGallery(engine, dimension)


@contextmanager
def lance(folder: Path) -> Iterator[Place]:
    """LanceDB, which needs no server."""
    yield LancePlace(folder)


def server(engine: str) -> Callable[[Path], AbstractContextManager[Place]]:
    """What the module of that name in `servers` makes of a folder; imported only when it is asked for."""

    def run(folder: Path) -> AbstractContextManager[Place]:
        place: AbstractContextManager[Place] = getattr(
            import_module(f"tests.service.gallery.servers.{engine}"), engine
        )(folder)
        return place

    return run


PLACES: Final[dict[str, Callable[[Path], AbstractContextManager[Place]]]] = {
    "lancedb": lance,
    "postgresql": server("postgresql"),
}
SERVERS: Final = tuple(engine for engine in PLACES if engine != "lancedb")

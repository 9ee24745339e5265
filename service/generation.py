"""What the server serves at one moment, as a whole: every bundle with all that is opened for it."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass

from models.bundle import Bundle
from models.hub import Located
from service.errors import NoGallery, UnknownBundle
from service.evidence import Grouping
from service.gallery.base import Gallery
from service.pipeline import Pipeline
from service.places import GalleryPlace
from service.policies.desk import Policies
from service.session import Session
from service.settings import Settings
from service.telemetry import BundleMetrics, Logger


@dataclass(frozen=True)
class Kept:
    """A bundle's gallery, where it is, and the policies certified on it."""

    place: GalleryPlace
    gallery: Gallery
    policies: Policies


@dataclass(frozen=True, eq=False)
class Services:
    """Everything an endpoint works with, of one bundle, complete and checked."""

    name: str
    settings: Settings
    located: Located
    bundle: Bundle
    session: Session
    pipeline: Pipeline
    kept: Kept | None
    grouping: Grouping
    metrics: BundleMetrics
    logger: Logger
    loaded_at: float  # seconds of the epoch

    def require_gallery(self) -> Kept:
        """The gallery and what belongs to it.

        Raises:
            NoGallery: where the bundle is served without one.
        """
        if self.kept is None:
            raise NoGallery(f"bundle {self.name!r} is served without a gallery: CANDOR_GALLERY names none for it")
        return self.kept

    @property
    def gallery(self) -> Gallery:
        """The gallery; errors as `require_gallery`."""
        return self.require_gallery().gallery

    @property
    def policies(self) -> Policies:
        """The policies; errors as `require_gallery`."""
        return self.require_gallery().policies

    async def close(self) -> None:
        """Finish what was accepted, and let go of threads, files and connections."""
        async with AsyncExitStack() as stack:
            if self.kept is not None:
                stack.push_async_callback(self.kept.gallery.close)
            stack.push_async_callback(self.pipeline.close)
            if self.kept is not None:
                stack.push_async_callback(self.kept.policies.close)

    def announce(self) -> None:
        """Let the gauges say that this is what is served."""
        self._tell(1.0)
        if self.kept is not None:
            self.kept.policies.publish()

    def withdraw(self) -> None:
        """Let the gauges say that this is served no more."""
        self._tell(0.0)
        self.metrics.queue.set(0)
        self.metrics.gallery_items.set(0)
        if self.kept is not None:
            self.kept.policies.withdraw()

    def _tell(self, served: float) -> None:
        backbone, device, tuning = self.bundle.manifest.backbone.name, self.session.device.value, self.session.tuning
        self.metrics.model_info.labels(self.bundle.hash, backbone, device).set(served)
        self.metrics.loaded.set(served * self.loaded_at)
        for what in ("threads", "lanes", "max_batch"):
            self.metrics.tuning.labels(what).set(served * getattr(tuning, what))


@dataclass(frozen=True, eq=False)
class Generation:
    """The served bundles by name, the default one first."""

    by_name: Mapping[str, Services]

    @property
    def default(self) -> Services:
        """What a request without a name works with."""
        return next(iter(self.by_name.values()))

    def of(self, name: str | None) -> Services:
        """The bundle of that name, or the default one.

        Raises:
            UnknownBundle: where none of that name is served.
        """
        if name is None:
            return self.default
        services = self.by_name.get(name)
        if services is None:
            raise UnknownBundle(f"no bundle {name!r} is served here: there is {', '.join(map(repr, self.by_name))}")
        return services

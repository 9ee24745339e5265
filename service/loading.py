"""From settings to what is served: each bundle found, checked and made ready, and its gallery opened.

Nothing that is served already is touched: what is the same is taken over, what has changed is opened beside it, and
where any of it fails, all that was opened is closed again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from typing import Any

from models.bundle import Bundle, BundleError, load_bundle
from service.discovery import Found, find_bundles
from service.evidence import Grouping
from service.gallery import open_gallery
from service.gallery.base import Gallery
from service.generation import Generation, Kept, Services
from service.pipeline import Pipeline
from service.places import GalleryPlace
from service.policies.desk import Policies
from service.policies.store import PolicyStore
from service.session import Session, open_session
from service.settings import Settings
from service.telemetry import BundleMetrics, Logger, Metrics


async def _open_gallery(bundle: Bundle, place: GalleryPlace) -> Gallery:
    return await open_gallery(
        place.location, dimension=bundle.manifest.dimension, bundle_hash=bundle.hash, options=place.options
    )


@dataclass(frozen=True)
class Openers:
    """How the two heavy parts are opened; tests put fakes here."""

    session: Callable[[Bundle, Settings], Session] = open_session
    gallery: Callable[[Bundle, GalleryPlace], Awaitable[Gallery]] = _open_gallery


@dataclass(frozen=True)
class Loader:
    """What loading needs beside what is on disk."""

    settings: Settings
    openers: Openers
    metrics: Metrics
    logger: Logger

    async def load(self, before: Generation | None = None) -> Generation:
        """What the settings name, as it is now; of `before`, which is being served, all that is the same.

        Raises:
            BundleError, SessionError, GalleryError, PolicyStoreError: for what cannot be served, and why.
        """
        found = await asyncio.to_thread(find_bundles, self.settings)
        served = {}
        async with AsyncExitStack() as opened:
            for each in found:
                same = _unchanged(before, each)
                if same is None:
                    same = await self._open(each)
                    opened.push_async_callback(same.close)
                served[each.name] = same
            opened.pop_all()
        return Generation(served)

    async def _open(self, found: Found) -> Services:
        settings, bundle, metrics = self.settings, found.bundle, self.metrics.of(found.name)
        session = await asyncio.to_thread(self.openers.session, bundle, settings)
        if (await asyncio.to_thread(load_bundle, bundle.path)).manifest != bundle.manifest:
            raise BundleError(f"{bundle.path} was changed while it was loaded: load it again")
        async with AsyncExitStack() as opened:
            kept = None
            if found.place is not None:
                kept = await self._open_gallery(bundle, found.place, metrics, opened)
            pipeline = Pipeline(bundle, session, settings, metrics, self.logger)
            opened.pop_all()
        services = Services(
            name=found.name,
            settings=settings,
            located=found.located,
            bundle=bundle,
            session=session,
            pipeline=pipeline,
            kept=kept,
            grouping=Grouping(settings.label_field, settings.group_field),
            metrics=metrics,
            logger=self.logger,
            loaded_at=time.time(),
        )
        log_loaded(services)
        return services

    async def _open_gallery(
        self, bundle: Bundle, place: GalleryPlace, metrics: BundleMetrics, opened: AsyncExitStack
    ) -> Kept:
        gallery = await self.openers.gallery(bundle, place)
        opened.push_async_callback(gallery.close)
        store, max_change = PolicyStore(place.policies), self.settings.policy_max_change
        policies = Policies(store, gallery, bundle.hash, metrics, self.logger, max_change=max_change)
        await policies.start()
        opened.push_async_callback(policies.close)
        return Kept(place, gallery, policies)


def log_loaded(services: Services) -> None:
    """Say what was loaded, and how it was tuned."""
    session, tuning, hub = services.session, services.session.tuning, services.located.hub
    for point in tuning.points:
        services.logger.debug("tuning", bundle=services.name, **asdict(point))
    origin: dict[str, Any] = {"hub": f"{hub.repository}@{hub.revision}", "commit": hub.commit} if hub else {}
    services.logger.info(
        "bundle loaded",
        bundle=services.name,
        hash=services.bundle.hash,
        **origin,
        device=session.device,
        threads=tuning.threads,
        lanes=tuning.lanes,
        max_batch=tuning.max_batch,
    )


def _unchanged(before: Generation | None, found: Found) -> Services | None:
    """What is served under that name, where it is all the same."""
    served = before.by_name.get(found.name) if before else None
    if served is None or served.located != found.located or served.bundle.manifest != found.bundle.manifest:
        return None
    return served if (served.kept.place if served.kept else None) == found.place else None

"""A gallery, and the policies certified against it, looked at without opening either for writing."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from models.bundle import Bundle
from service.checks.findings import Finding, Kind
from service.gallery import folder_of, survey_gallery
from service.gallery.base import GalleryError, GalleryUnavailable
from service.gallery.survey import Survey
from service.places import GalleryPlace
from service.policies.policy import Policy
from service.policies.reading import read_policies
from service.policies.store import PolicyStoreError
from service.settings import Settings


def examine(place: GalleryPlace, bundle: Bundle, settings: Settings) -> Iterator[Finding]:
    """What a server with this bundle would find."""
    items = None
    try:
        found = asyncio.run(_survey(place, bundle))
        items = found.items
        yield from _describe(found, place.location)
    except GalleryUnavailable as error:
        yield Finding(Kind.GALLERY_UNREACHABLE, str(error))
    except GalleryError as error:
        yield Finding(Kind.GALLERY_REFUSED, str(error))
    yield from examine_policies(place.policies, bundle, items, settings.policy_max_change)


def examine_policies(path: Path, bundle: Bundle, items: int | None, max_change: float) -> Iterator[Finding]:
    """What is kept of policies, and which of them no longer hold; `items` of the gallery, where they are known."""
    try:
        kept = read_policies(path)
    except PolicyStoreError as error:
        yield Finding(Kind.POLICIES_REFUSED, str(error))
        return
    yield Finding(Kind.POLICIES_READ, f"{len(kept.policies) or 'none yet'} in {path.absolute()}")
    for name, policy in kept.policies.items():
        if reason := _why_stale(policy, bundle, items, max_change):
            yield Finding(Kind.POLICY_STALE, f"{name}: {reason}")
        if name in kept.alarmed:
            yield Finding(Kind.POLICY_ALARMED, f"{name} has raised an alarm")


async def _survey(place: GalleryPlace, bundle: Bundle) -> Survey:
    return await survey_gallery(
        place.location, dimension=bundle.manifest.dimension, bundle_hash=bundle.hash, options=place.options
    )


def _describe(found: Survey, location: str) -> Iterator[Finding]:
    folder = folder_of(location)
    place = f"{found.engine} at {folder}" if folder else found.engine
    if not found.writable:
        yield Finding(Kind.GALLERY_READ_ONLY, f"{place} cannot be made or written to")
    elif found.items is None:
        yield Finding(Kind.GALLERY_TO_BE_MADE, f"none yet: {place}")
    if found.items is not None:
        yield Finding(Kind.GALLERY_OPENED, f"{place}: {found.items} item(s)")
    if found.unindexed:
        yield Finding(Kind.GALLERY_UNINDEXED, f"{found.unindexed} of {found.items} item(s) are in no index")
    if found.in_use:
        yield Finding(Kind.GALLERY_IN_USE, f"another process looks after {folder or location.rpartition('@')[2]}")


def _why_stale(policy: Policy, bundle: Bundle, items: int | None, max_change: float) -> str | None:
    """What can be told by bundle and number of items alone; items that were replaced are not noticed."""
    if policy.bundle_hash != bundle.hash:
        return "it was certified with another bundle"
    if items is None:
        return None
    now = replace(policy.gallery, items=items)
    if now.changed_since(policy.gallery) <= max_change:
        return None
    return f"the gallery had {policy.gallery.items} items then, and has {items} now"

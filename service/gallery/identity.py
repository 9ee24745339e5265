"""Whose items a place holds: written when it is made, compared when it is opened."""

from dataclasses import dataclass

from service.gallery.base import GalleryError


@dataclass(frozen=True)
class Identity:
    """The bundle whose embeddings a gallery holds, and how the engine keeps them, as texts."""

    format: str
    bundle_hash: str
    dimension: str


def require_same(found: Identity | None, ours: Identity, *, place: str, elsewhere: str) -> None:
    """Refuse what is no gallery, or another bundle's.

    Args:
        found: what is written at the place, or None where nothing is.
        ours: what this server would have written.
        place: where, as people name it: without a password.
        elsewhere: the setting to change, and to what: "CANDOR_GALLERY to another folder".

    Raises:
        GalleryError: where the two differ.
    """
    if found is None or found.format != ours.format:
        raise GalleryError(f"the table at {place} is not a gallery of format {ours.format}; set {elsewhere}")
    if found == ours:
        return
    raise GalleryError(
        f"the gallery at {place} holds embeddings of another bundle: it was made with {found.bundle_hash} "
        f"(dimension {found.dimension}), this server runs {ours.bundle_hash} (dimension {ours.dimension}). "
        f"Serve that bundle, or set {elsewhere} and fill it anew"
    )

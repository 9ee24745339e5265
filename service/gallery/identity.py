"""Whose embeddings a gallery holds: what every engine refuses alike."""

from service.gallery.base import GalleryError


def require_same(
    found_bundle: str, found_dimension: str | int, bundle_hash: str, dimension: int, location: str
) -> None:
    """Refuse the gallery of another bundle.

    Args:
        found_bundle: hash of the bundle that the gallery was made with.
        found_dimension: D of its embeddings.
        bundle_hash: of the bundle that is served.
        dimension: D of its embeddings.
        location: of the gallery, for people: without a password.

    Raises:
        GalleryError: unless both are the same.
    """
    if (found_bundle, str(found_dimension)) == (bundle_hash, str(dimension)):
        return
    raise GalleryError(
        f"the gallery at {location} holds embeddings of another bundle: it was made with {found_bundle} "
        f"(dimension {found_dimension}), this server runs {bundle_hash} (dimension {dimension}). "
        f"Serve that bundle, or set CANDOR_GALLERY to another folder and fill it anew"
    )

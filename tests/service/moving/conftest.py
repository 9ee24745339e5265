"""Galleries of every engine, as the gallery's own tests have them."""

from tests.service.gallery.conftest import gallery, location, place

__all__ = ["gallery", "location", "place"]

"""Images as callers have them, to the bytes that are sent."""

import io
import os
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps

from scripts.client.errors import Unreadable

Image: TypeAlias = str | os.PathLike[str] | bytes | Pillow.Image | NDArray[np.uint8]
"""A path, an image file's bytes, a Pillow image, or pixels (H, W, 3) of 0 to 255."""

ONE: Final = (str, os.PathLike, bytes, Pillow.Image, np.ndarray)
FAST: Final = 1  # of PNG's compression levels: the bytes travel once
PNG_MODES: Final = frozenset({"1", "L", "LA", "I;16", "P", "RGB", "RGBA"})


def image_bytes(image: Image) -> bytes:
    """The bytes of an image file: as they are, where there is one; else as a PNG, upright.

    Raises:
        Unreadable: for a file that cannot be read, and for an array that is no (H, W, 3) of uint8.
    """
    match image:
        case bytes():
            return image
        case np.ndarray():
            return _encoded(_from_pixels(image))
        case Pillow.Image():
            return _encoded(ImageOps.exif_transpose(image))
    try:
        return Path(image).read_bytes()
    except (OSError, ValueError) as error:
        raise Unreadable(f"{os.fspath(image)}: {getattr(error, 'strerror', None) or error}") from error


def _from_pixels(pixels: NDArray[np.uint8]) -> Pillow.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise Unreadable(
            f"an array must be (H, W, 3) of uint8, not {pixels.shape} of {pixels.dtype}; a list has several"
        )
    return Pillow.fromarray(pixels)


def _encoded(image: Pillow.Image) -> bytes:
    buffer = io.BytesIO()
    (image if image.mode in PNG_MODES else image.convert("RGB")).save(buffer, "PNG", compress_level=FAST)
    return buffer.getvalue()

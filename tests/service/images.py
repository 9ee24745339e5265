"""Images made here: every test knows what it sends."""

import io
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int = 0, size: tuple[int, int] = (48, 36)) -> Image.Image:
    """A blocky, colourful picture; another seed, another picture."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize(size, Image.Resampling.NEAREST)


def encode(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png(seed: int = 0, size: tuple[int, int] = (48, 36)) -> bytes:
    return encode(picture(seed, size))


def jpeg(seed: int = 0, size: tuple[int, int] = (48, 36)) -> bytes:
    return encode(picture(seed, size), "JPEG", quality=90)


def black() -> bytes:
    return encode(Image.new("RGB", (40, 40)))


def flat(grey: int = 128) -> bytes:
    """One colour only: the tiny bundle is as unsure of it as it can be."""
    return encode(Image.new("RGB", (40, 40), (grey, grey, grey)))

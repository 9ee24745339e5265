"""From a decoded RGB image to the pixels the graph takes, to the pixel as timm's evaluation transform does it."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.images import ImageLimits, Reduced, decode_image, decode_reduced

Interpolation = Literal["bicubic", "bilinear", "nearest", "lanczos"]

RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}

FAST_MARGIN = 3  # 59 dB from the exact pixels of photos, where twice has 55 dB
MAX_ASPECT = 16  # the crop sees an aspect ratio of 1; what the widest filter adds is far less than the rest


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side to `size / crop_pct`, then crop the centre square of side `size`, in pixels.

    `mean` and `std` are per RGB channel, for values scaled to [0, 1]; the graph applies them.
    """

    size: int
    crop_pct: float = 1.0
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


def preprocess(image: Image.Image, config: Preprocessing) -> NDArray[np.uint8]:
    """Resize and centre-crop an RGB image to (size, size, 3) uint8.

    Beyond an aspect ratio of `MAX_ASPECT`, the far ends, which the centre crop does not see, are cut off first: resized
    whole, a strip of 1 by a million pixels would take gigabytes.

    Source: the centre-crop mode of timm.data.create_transform; a test compares the two pixel by pixel.
    """
    image = _without_far_ends(image)
    return _resize_and_crop(Reduced(image, image.size, (0, 0, *image.size)), config)


def decode_fast(data: bytes, limits: ImageLimits, config: Preprocessing) -> NDArray[np.uint8]:
    """Decode and preprocess in one: a large JPEG at a fraction of its size, at least `FAST_MARGIN` times what is asked.

    Raises:
        ImageError: as `decode_image`.
    """
    reduced = decode_reduced(data, limits, FAST_MARGIN * _short_side(config))
    width, height = reduced.size
    if max(width, height) > MAX_ASPECT * min(width, height):
        return preprocess(decode_image(data, limits), config)
    return _resize_and_crop(reduced, config)


def _short_side(config: Preprocessing) -> int:
    return math.floor(config.size / config.crop_pct)


def _resize_and_crop(reduced: Reduced, config: Preprocessing) -> NDArray[np.uint8]:
    short_side = _short_side(config)
    width, height = reduced.size
    if width <= height:
        target = (short_side, int(short_side * height / width))
    else:
        target = (int(short_side * width / height), short_side)
    resized = reduced.image.resize(target, RESAMPLING[config.interpolation], box=reduced.box)
    left = round((target[0] - config.size) / 2.0)
    top = round((target[1] - config.size) / 2.0)
    cropped = resized.crop((left, top, left + config.size, top + config.size))
    return np.asarray(cropped, dtype=np.uint8)  # (size, size, 3)


def _without_far_ends(image: Image.Image) -> Image.Image:
    """Cut both ends of an extreme strip equally, so that its centre stays where it is, to the pixel."""
    width, height = image.size
    x = max(0, width - MAX_ASPECT * height) // 2
    y = max(0, height - MAX_ASPECT * width) // 2
    return image.crop((x, y, width - x, height - y)) if x or y else image

"""From a decoded RGB image to the pixels the graph takes, to the pixel as timm's evaluation transform does it."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Interpolation = Literal["bicubic", "bilinear", "nearest", "lanczos"]

RESAMPLING = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "nearest": Image.Resampling.NEAREST,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Preprocessing:
    """Resize the short side to `size / crop_pct`, crop the centre square; `mean` and `std` are applied inside the graph.

    `size` is in pixels; `mean` and `std` are per RGB channel, for values scaled to [0, 1].
    """

    size: int
    crop_pct: float = 1.0
    interpolation: Interpolation = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


def preprocess(image: Image.Image, config: Preprocessing) -> NDArray[np.uint8]:
    """Resize and centre-crop an RGB image to (size, size, 3) uint8.

    Source: the centre-crop mode of timm.data.create_transform; a test compares the two pixel by pixel.
    """
    short_side = math.floor(config.size / config.crop_pct)
    width, height = image.size
    if width <= height:
        target = (short_side, int(short_side * height / width))
    else:
        target = (int(short_side * width / height), short_side)
    if target != image.size:
        image = image.resize(target, RESAMPLING[config.interpolation])
    left = int(round((target[0] - config.size) / 2.0))
    top = int(round((target[1] - config.size) / 2.0))
    cropped = image.crop((left, top, left + config.size, top + config.size))
    return np.asarray(cropped, dtype=np.uint8)  # (size, size, 3)

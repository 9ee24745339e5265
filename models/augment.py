"""Random views of an image, the same whenever and at whatever size they are asked for.

A view is decided by `(seed, index, number)` alone, so a student and its teacher, or a cache and its reader, see the
same crop.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from models.degrade import DEGRADATIONS
from models.preprocess import RESAMPLING, Preprocessing, preprocess

DEGRADING = ("blur", "noise", "jpeg", "low_resolution")


@dataclass(frozen=True)
class Augmentation:
    """Random resized crop of `min_scale`-1 of the area, flip with probability one half, colour jitter of +-`jitter`.

    The share `degraded` of the views is also blurred, noisy, JPEG-compressed or of low resolution, one of them, by a
    random severity.

    Source: the PVU recipe of Kirchhof et al. (arXiv:2402.16569): scale .08-1, flip .5, jitter .4; degrading is ours.
    """

    min_scale: float = 0.08
    jitter: float = 0.4
    seed: int = 0
    degraded: float = 0.0


def view(
    image: Image.Image, index: int, number: int, augmentation: Augmentation, preprocessing: Preprocessing
) -> NDArray[np.uint8]:
    """View `number` of image `index`, (size, size, 3) uint8; number 0 is the clean evaluation view."""
    if number == 0:
        return preprocess(image, preprocessing)
    rng = np.random.default_rng((augmentation.seed, index, number))
    box = _crop_box(image.size, augmentation.min_scale, rng)
    side = preprocessing.size
    cropped = image.resize((side, side), RESAMPLING[preprocessing.interpolation], box=box)
    if rng.random() < 0.5:
        cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if augmentation.jitter:
        for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            cropped = enhance(cropped).enhance(rng.uniform(1 - augmentation.jitter, 1 + augmentation.jitter))
    if augmentation.degraded and rng.random() < augmentation.degraded:
        cropped = DEGRADATIONS[str(rng.choice(DEGRADING))](cropped, rng.uniform(), rng)
    return np.array(cropped, dtype=np.uint8)  # (size, size, 3)


def _crop_box(size: tuple[int, int], min_scale: float, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A box of `min_scale`-1 of the area and aspect ratio 3/4-4/3, in pixels, shrunk where it would not fit."""
    width, height = size
    area = width * height * rng.uniform(min_scale, 1.0)
    ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
    w, h = min(math.sqrt(area * ratio), width), min(math.sqrt(area / ratio), height)
    left, top = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return left, top, left + w, top + h

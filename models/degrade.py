"""Images made worse by a known amount: what an uncertainty should notice, and what a head may be shown in training."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

Degrading = Callable[[Image.Image, float, np.random.Generator], Image.Image]


def crop(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """The centre crop that keeps 1 - .9 severity of each side."""
    width, height = (max(1, round(side * (1 - 0.9 * severity))) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def blur(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """A Gaussian blur of a radius of 5 % of the short side times the severity."""
    return image.filter(ImageFilter.GaussianBlur(float(0.05 * severity * min(image.size))))


def noise(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """Gaussian noise on every pixel and channel, of a standard deviation of 80 grey levels times the severity."""
    pixels = np.asarray(image, dtype=np.float32)  # (h, w, 3)
    noisy = pixels + rng.standard_normal(pixels.shape, dtype=np.float32) * (80 * severity)
    return Image.fromarray(np.clip(np.rint(noisy), 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """JPEG of quality 90 at no severity, 2 at the highest."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=round(90 - 88 * severity))
    return Image.open(file).convert("RGB")


def low_resolution(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
    """Resolution divided by 1 + 7 severity, then enlarged again."""
    width, height = (max(1, round(side / (1 + 7 * severity))) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)


DEGRADATIONS: dict[str, Degrading] = {
    "crop": crop,
    "blur": blur,
    "noise": noise,
    "jpeg": jpeg,
    "low_resolution": low_resolution,
}


def degrade(image: Image.Image, kind: str, severity: float, seed: int) -> Image.Image:
    """An RGB image made worse by `kind` of DEGRADATIONS, with a severity in [0, 1]; equal seeds, equal images."""
    return DEGRADATIONS[kind](image, severity, np.random.default_rng(seed))

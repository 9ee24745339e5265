"""The real photos that every benchmark of serving sends, and the same photos smaller and larger."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

FOLDER = "imagenet-sample-100"
CONTENT_TYPES = {".jpeg": "image/jpeg", ".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
QUALITY = 90
SMALL_SIDE = 64
LARGE_SIZE = (6000, 4000)
LARGE_COUNT = 12  # a pass over a hundred of them would take a server half a minute


def find_photos(folder: Path) -> list[Path]:
    """The photos of a folder, in order of their names."""
    photos = sorted(path for path in folder.glob("*") if path.suffix.lower() in CONTENT_TYPES)
    if not photos:
        sys.exit(f"no photos in {folder}: --data is the folder that holds {FOLDER}/")
    return photos


def small_photos(photos: Sequence[Path], folder: Path) -> list[Path]:
    """The same, the short side `SMALL_SIDE` pixels, as JPEGs in the folder; made where they are missing."""
    return [_variant(photo, folder / f"small-{photo.stem}.jpeg", _shrunk) for photo in photos]


def large_photos(photos: Sequence[Path], folder: Path) -> list[Path]:
    """The first `LARGE_COUNT`, at 24 megapixels, as JPEGs in the folder; made where they are missing."""
    return [_variant(photo, folder / f"large-{photo.stem}.jpeg", _enlarged) for photo in photos[:LARGE_COUNT]]


def _variant(photo: Path, path: Path, change: Callable[[Image.Image], Image.Image]) -> Path:
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        change(Image.open(photo).convert("RGB")).save(partial, "JPEG", quality=QUALITY)
        partial.replace(path)
    return path


def _shrunk(image: Image.Image) -> Image.Image:
    scale = SMALL_SIDE / min(image.size)
    return image.resize((round(scale * image.width), round(scale * image.height)), Image.Resampling.BICUBIC)


def _enlarged(image: Image.Image) -> Image.Image:
    size = LARGE_SIZE if image.width >= image.height else LARGE_SIZE[::-1]
    return image.resize(size, Image.Resampling.BICUBIC)

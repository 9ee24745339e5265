"""One way to read labelled images, whatever holds them: an image folder, packed `.npz` shards, or a torchvision set.

A data set is named by a spec, `LOCATION`, `LOCATION@SELECTION` or `LOCATION@SELECTION@SELECTION`:

    photos/                                     a folder with one sub-folder of images per class
    photos/                                     or, without such sub-folders, images that are all of the class `images`
    tiny/train-*.npz                            packed shards (a glob), all with the same classes
    torchvision:CIFAR10?train=false             any classification set of torchvision, downloaded into data/
    cub.npz@50-99                               only classes 50 to 99, in that order
    tiny/val.npz@splits.json:upstream           only the classes that splits.json lists under "upstream"
    photos/@splits.json#upstream                only the images at the positions that it lists, and their classes
    a.npz+b.npz                                 several with the same classes, one after the other
    photos/~32                                  every image first reduced to a short side of at most 32 pixels

Images beside sub-folders that hold images belong to no class and are left out.
"""

import inspect
import sys
from collections.abc import Iterable
from glob import glob
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from PIL import Image, ImageOps

from models.dataset import Dataset, concatenate, digest, reduced, select_classes, select_images
from models.images import ImageError, ImageLimits, decode_image
from models.selections import DatasetError, chosen_classes, listed_images

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
DOWNLOAD_ROOT = Path("data")
UNLABELLED = ("images",)  # the classes of images that have none
NO_LIMITS = ImageLimits(max_bytes=sys.maxsize, max_pixels=sys.maxsize)


def open_dataset(spec: str) -> Dataset:
    """Open a data set by its spec (see the module).

    Raises:
        DatasetError: when nothing is there, the format is unknown, or a class or an image does not exist.
    """
    unreduced, _, side = spec.partition("~")
    location, *selections = unreduced.split("@")
    parts = [_open_location(part) for part in location.split("+")]
    dataset = concatenate(parts, name=spec)
    for selection in filter(None, selections):
        if ".json#" in selection:
            dataset = select_images(dataset, listed_images(selection, len(dataset)))
        else:
            dataset = select_classes(dataset, chosen_classes(selection, dataset.classes), name=spec)
    return reduced(dataset, side, name=spec) if side else dataset


def _open_location(location: str) -> Dataset:
    if location.startswith("torchvision:"):
        return _torchvision(location)
    if Path(location).is_dir():
        return _folder(Path(location))
    paths = sorted(glob(location))
    if not paths:
        raise DatasetError(f"{location}: no such folder or file")
    if any(Path(path).suffix != ".npz" for path in paths):
        raise DatasetError(f"{location}: expected a folder of class folders, packed .npz files or torchvision:NAME")
    return concatenate([_packed(Path(path)) for path in paths], name=location)


def _packed(path: Path) -> Dataset:
    """Encoded images end to end in `blob`, cut at `offsets` (n + 1,), with `labels` (n,) and `classes`."""
    with np.load(path, allow_pickle=False) as arrays:
        missing = {"blob", "offsets", "labels", "classes"} - set(arrays.files)
        if missing:
            raise DatasetError(f"{path}: packed images need the arrays {', '.join(sorted(missing))}")
        blob, offsets = arrays["blob"], arrays["offsets"]
        labels, classes = arrays["labels"].astype(np.int64), tuple(str(c) for c in arrays["classes"])

    def image(index: int) -> Image.Image:
        return _decoded(blob[offsets[index] : offsets[index + 1]].tobytes(), f"{path}, image {index}")

    return Dataset(str(path), labels, classes, image, digest(blob.tobytes(), labels.tobytes(), *classes))


def _folder(root: Path) -> Dataset:
    classes = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir()))
    files = [(path, label) for label, name in enumerate(classes) for path in _image_files((root / name).rglob("*"))]
    if not files:
        classes, files = UNLABELLED, [(path, 0) for path in _image_files(root.iterdir())]
    if not files:
        raise DatasetError(f"{root}: no images; expected one sub-folder of images per class, or images of none")
    labels = np.array([label for _, label in files], dtype=np.int64)
    fingerprint = digest(*(f"{path.relative_to(root)} {path.stat().st_size}" for path, _ in files))

    def image(index: int) -> Image.Image:
        path = files[index][0]
        return _decoded(path.read_bytes(), str(path))

    return Dataset(str(root), labels, classes, image, fingerprint)


def _image_files(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _torchvision(location: str) -> Dataset:
    import torchvision

    name, _, query = location.removeprefix("torchvision:").partition("?")
    maker = getattr(torchvision.datasets, name, None)
    if maker is None:
        raise DatasetError(f"{location}: torchvision has no data set {name!r}")
    options: dict[str, Any] = {key: {"true": True, "false": False}.get(v, v) for key, v in parse_qsl(query)}
    usual = {"root": str(DOWNLOAD_ROOT), "download": True}
    known = {key: value for key, value in usual.items() if key in inspect.signature(maker).parameters}
    try:
        source = maker(**{**known, **options})
    except (TypeError, ValueError, RuntimeError) as error:
        raise DatasetError(f"{location}: torchvision refuses: {error}") from error
    targets = next((getattr(source, key) for key in ("targets", "_labels", "labels") if hasattr(source, key)), None)
    labels = np.asarray(targets if targets is not None else [label for _, label in source], dtype=np.int64)
    classes = tuple(map(str, getattr(source, "classes", range(int(labels.max()) + 1))))

    def image(index: int) -> Image.Image:
        return ImageOps.exif_transpose(source[index][0]).convert("RGB")

    return Dataset(location, labels, classes, image, digest(location, labels.tobytes()))


def _decoded(data: bytes, place: str) -> Image.Image:
    """An image as the server decodes it, whatever its size."""
    try:
        return decode_image(data, NO_LIMITS)
    except ImageError as error:
        raise DatasetError(f"{place}: {error}") from error

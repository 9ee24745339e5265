"""Tiny stand-ins for what the offline stages work on: images easily told apart, a backbone that trains in seconds."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from models.backbone import Backbone, create_backbone
from models.dataset import Dataset
from models.datasets import open_dataset
from models.preprocess import Preprocessing

CLASSES = ("amber", "blue", "crimson", "green", "violet", "white")
COLOURS = ((240, 180, 20), (30, 60, 230), (200, 10, 40), (20, 200, 60), (150, 40, 220), (245, 245, 245))
SIDE = 32
TORCH = "cpu:0"  # any device but "cpu" runs a backbone in torch, without the seconds an ONNX graph takes to make


def picture(label: int, rng: np.random.Generator, clearest: float = 1.0, faintest: float = 0.6) -> Image.Image:
    """Stripes of the class's colour, across or down, under noise; `faintest` to `clearest` is the signal's share."""
    width, height = 40, 36
    stripes = (np.arange(width) + rng.integers(12)) // 6 % 2  # (w,)
    mask = (
        np.broadcast_to(stripes, (height, width))
        if label % 2
        else np.broadcast_to(stripes[:height, None], (height, width))
    )
    signal = mask[:, :, None] * np.array(COLOURS[label], dtype=np.float64)  # (h, w, 3)
    noise = rng.uniform(0, 255, (height, width, 3))
    strength = rng.uniform(faintest, clearest)
    return Image.fromarray(np.uint8(strength * signal + (1 - strength) * noise))


def pictures(per_class: int, seed: int, faintest: float = 0.6) -> tuple[list[Image.Image], NDArray[np.int64]]:
    """`per_class` images of every class, in turn, and their labels (n,)."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(len(CLASSES)), per_class)
    return [picture(int(label), rng, faintest=faintest) for label in labels], labels


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def write_packed(
    path: Path, images: Sequence[Image.Image | bytes], labels: NDArray[np.int64], classes: Sequence[str] = CLASSES
) -> Path:
    """Images end to end in one `.npz`, as `open_dataset` reads them."""
    parts = [image if isinstance(image, bytes) else encoded(image) for image in images]
    offsets = np.cumsum([0, *map(len, parts)])
    blob = np.frombuffer(b"".join(parts), dtype=np.uint8)
    np.savez(path, blob=blob, offsets=offsets, labels=labels.astype(np.int16), classes=np.array(classes))
    return path


def write_folder(
    root: Path, images: Sequence[Image.Image], labels: NDArray[np.int64], classes: Sequence[str] = CLASSES
) -> Path:
    """Images as `root/CLASS/NUMBER.png`."""
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number:04d}.png")
    return root


def packed_dataset(folder: Path, per_class: int, seed: int, faintest: float = 0.6) -> Dataset:
    """A packed data set of pictures, written to the folder and opened."""
    return open_dataset(str(write_packed(folder / f"{seed}.npz", *pictures(per_class, seed, faintest))))


def tiny_backbone(seed: int = 0, classes: Sequence[str] = CLASSES, size: int = SIDE, **args: object) -> Backbone:
    """A small convolutional network with batch norm, of random weights and statistics, in evaluation mode."""
    torch.manual_seed(seed)
    backbone = create_backbone("test_resnet", classes=tuple(classes), args=args, preprocessing=Preprocessing(size))
    with torch.no_grad():
        for module in backbone.module.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                statistics = dict(module.named_buffers())
                statistics["running_mean"].normal_(0.0, 0.1)
                statistics["running_var"].uniform_(0.5, 1.5)
    return backbone


def tensors(backbone: Backbone) -> dict[str, torch.Tensor]:
    """A copy of every parameter and buffer."""
    return {key: value.clone() for key, value in backbone.module.state_dict().items()}

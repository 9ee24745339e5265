"""Images for a small backbone that is trained from scratch: decoded once, then augmented batch by batch in memory."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.dataset import limited_index
from models.datasets import open_dataset
from models.methods.base import Batch
from models.methods.fit import Schedule
from models.preprocess import Preprocessing, preprocess

MIN_SCALE, JITTER = 0.25, 0.4
MAX_LOG_RATIO = math.log(4 / 3)  # of a crop's width and height
BLOCK = 1000  # images represented at a time


@dataclass(frozen=True)
class Pixels:
    """Decoded images (n, size, size, 3) uint8 and their labels (n,), which index `classes`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


@lru_cache(maxsize=3)
def read_pixels(spec: str, size: int, limit: int | None) -> Pixels:
    """At most `limit` images of a data set, resized and cropped to the size; once a process, since runs share them."""
    dataset = open_dataset(spec)
    index = limited_index(len(dataset), limit)
    images = np.stack([preprocess(dataset.image(int(i)), Preprocessing(size)) for i in index])
    return Pixels(images, dataset.labels[index], dataset.classes)


class PixelBatches:
    """Batches of augmented images: each epoch sees every image once, in `views` views drawn from (seed, epoch)."""

    def __init__(self, pixels: Pixels, schedule: Schedule) -> None:
        self._pixels, self._schedule = pixels, schedule
        self._size = min(schedule.batch_size, pixels.labels.size)

    def __len__(self) -> int:
        """Whole batches of an epoch."""
        return int(self._pixels.labels.size // self._size)

    def __call__(self, epoch: int) -> Iterator[Batch]:
        """Batches of pixels (views, b, 3, h, w), which a backbone turns into features, and no targets (views, 0)."""
        rng = np.random.default_rng((self._schedule.seed, epoch))
        order = rng.permutation(self._pixels.labels.size)[: len(self) * self._size]
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        views = self._schedule.views
        for rows in order.reshape(len(self), self._size):
            images = unit_range(self._pixels.images[rows])  # (b, 3, h, w)
            pixels = torch.stack([normalised(augmented(images, generator)) for _ in range(views)])  # (v, b, 3, h, w)
            yield Batch(pixels, torch.from_numpy(self._pixels.labels[rows]), torch.empty(views, 0))


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random resized crop of each image, half of them mirrored, all jittered: (b, 3, h, w) in [0, 1], and out."""
    crops = F.affine_grid(crop_maps(len(images), generator), list(images.shape), align_corners=False)  # (b, h, w, 2)
    return jittered(F.grid_sample(images, crops, padding_mode="border", align_corners=False), generator)


def crop_maps(count: int, generator: torch.Generator) -> Tensor:
    """Affine maps (b, 2, 3) from an output's square [-1, 1]^2 to a box of the image's, mirrored half of the time.

    A box has MIN_SCALE-1 of the area and an aspect ratio of 3/4-4/3, cut down to the image where it would not fit; as
    it is only ever enlarged, nothing aliases.
    """
    area, ratio, left, top, mirror = torch.rand(5, count, generator=generator)
    area = MIN_SCALE + (1 - MIN_SCALE) * area
    ratio = ((2 * ratio - 1) * MAX_LOG_RATIO).exp()
    width, height = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0] = torch.where(mirror < 0.5, -width, width)
    maps[:, 1, 1] = height
    maps[:, 0, 2] = (1 - width) * (2 * left - 1)
    maps[:, 1, 2] = (1 - height) * (2 * top - 1)
    return maps


def jittered(images: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and saturation of each image times 1 +- JITTER: (b, 3, h, w) in [0, 1], and out."""
    factors = 1 + JITTER * (2 * torch.rand(3, len(images), 1, 1, 1, generator=generator) - 1)
    brightness, contrast, saturation = factors
    bright = brightness * images
    mean = bright.mean(dim=(1, 2, 3), keepdim=True)  # (b, 1, 1, 1)
    contrasted = mean + contrast * (bright - mean)
    grey = contrasted.mean(dim=1, keepdim=True)  # (b, 1, h, w)
    coloured: Tensor = grey + saturation * (contrasted - grey)
    return coloured.clamp(0, 1)


def unit_range(images: NDArray[np.uint8]) -> Tensor:
    """(b, h, w, 3) uint8 -> (b, 3, h, w) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def normalised(images: Tensor) -> Tensor:
    """From [0, 1] to [-1, 1], any shape."""
    return 2 * images - 1


class PreLogits(nn.Module):
    """A timm model as far as its pooled pre-logits e: pixels (b, 3, h, w) in [-1, 1] -> (b, d).

    It trains in bfloat16, a third faster on a CPU that knows it, and represents in float32.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module.to(memory_format=torch.channels_last)

    def forward(self, pixels: Tensor) -> Tensor:
        """(b, 3, h, w) -> (b, d)."""
        timm_module: Any = self.module
        with torch.autocast("cpu", torch.bfloat16, enabled=self.training):
            features = timm_module.forward_features(pixels.contiguous(memory_format=torch.channels_last))
            pooled: Tensor = timm_module.forward_head(features, pre_logits=True)
        return pooled.float()


def represented(backbone: nn.Module, images: NDArray[np.uint8]) -> Tensor:
    """What the backbone, put in evaluation mode, makes of clean images: (n, h, w, 3) -> (n, d)."""
    backbone.eval()
    with torch.no_grad():
        parts = [
            backbone(normalised(unit_range(images[start : start + BLOCK]))) for start in range(0, len(images), BLOCK)
        ]
    return torch.cat(parts)

"""The benchmark of policies, from small pictures to its tables, on a real server."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.policies import __main__ as benchmark
from benchmarks.policies.asking import Asked
from benchmarks.policies.report import summarise
from benchmarks.policies.sets import NO_MATCH, Setting, part
from benchmarks.policies.splits import outcome, redrawn, split
from tests.service.bundle_factory import make_bundle
from tests.service.images import encode, picture


def folder_of(root: Path, classes: int, each: int, first: int = 0) -> Path:
    """Pictures of classes: an image of noise each, and copies of it with a little more noise."""
    for label in range(classes):
        place = root / f"c{first + label:02d}"
        place.mkdir(parents=True)
        original = np.asarray(picture(first + label).resize((24, 24)), dtype=np.float64)
        for copy in range(each):
            noise = np.random.default_rng(1000 * (first + label) + copy).normal(0, 25 + 25 * (copy % 4), original.shape)
            pixels = np.clip(original + noise, 0, 255).astype(np.uint8)
            (place / f"{copy:02d}.png").write_bytes(encode(type(picture(0)).__call__ if False else _image(pixels)))
    return root


def _image(pixels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"):  # type: ignore[no-untyped-def]
    from PIL import Image

    return Image.fromarray(pixels)

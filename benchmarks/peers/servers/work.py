"""What every peer does with an image, and nothing of its framework: decode, resize, crop, run the graph.

Imports nothing of candor: Pillow and onnxruntime as people use them, to the same pixels.
"""

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image, ImageOps

PREFIX = "PEER_"


@dataclass(frozen=True)
class Config:
    """How a peer is set up, from `PEER_*` variables.

    `size` is in pixels; `crop_pct` is the share of the short side that the crop keeps; `workers` are processes or
    instances, each with `threads` of onnxruntime; batches close at `max_batch` images or after `max_wait_ms`.
    """

    graph: Path
    size: int
    crop_pct: float
    port: int
    workers: int
    threads: int
    max_batch: int
    max_wait_ms: int


def read_config() -> Config:
    """The configuration that the benchmark gave.

    Raises:
        KeyError: for a variable that is not set.
    """
    value = {name: os.environ[PREFIX + name.upper()] for name in Config.__dataclass_fields__}
    numbers = {name: int(value[name]) for name in ("size", "port", "workers", "threads", "max_batch", "max_wait_ms")}
    return Config(graph=Path(value["graph"]), crop_pct=float(value["crop_pct"]), **numbers)


def decode(data: bytes, config: Config) -> NDArray[np.uint8]:
    """Encoded bytes to (size, size, 3): upright RGB, the short side resized (bicubic), the centre cropped."""
    return pixels_of(Image.open(io.BytesIO(data)), config)


def pixels_of(opened: Image.Image, config: Config) -> NDArray[np.uint8]:
    """An opened image to (size, size, 3)."""
    image = ImageOps.exif_transpose(opened.convert("RGB") if opened.mode != "RGB" else opened)
    short_side = math.floor(config.size / config.crop_pct)
    width, height = image.size
    if width <= height:
        target = (short_side, int(short_side * height / width))
    else:
        target = (int(short_side * width / height), short_side)
    resized = image.resize(target, Image.Resampling.BICUBIC)
    left, top = round((target[0] - config.size) / 2), round((target[1] - config.size) / 2)
    return np.asarray(resized.crop((left, top, left + config.size, top + config.size)))  # (size, size, 3)


class Graph:
    """The ONNX graph on the CPU; threads do not spin, as candor's do not."""

    def __init__(self, config: Config) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = config.threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(config.graph, options, providers=["CPUExecutionProvider"])

    def run(self, images: Sequence[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """B images (size, size, 3) -> embedding (B, D) and uncertainty (B,)."""
        embedding, uncertainty = self._session.run(["embedding", "uncertainty"], {"image": np.stack(images)})
        return embedding, uncertainty

    def answers(self, images: Sequence[NDArray[np.uint8]]) -> list[dict[str, Any]]:
        """B images -> what JSON says of each."""
        embedding, uncertainty = self.run(images)
        return [
            {"embedding": row, "uncertainty": value}
            for row, value in zip(embedding.tolist(), uncertainty.tolist(), strict=True)
        ]

"""From what a client sends to the graph's pixels: base64 or bytes, decode, preprocess; runs on decoder threads."""

import base64
import binascii
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.images import ImageLimits, decode_image
from models.preprocess import Preprocessing, decode_fast, preprocess
from service.cores import cores_per_worker
from service.errors import Malformed
from service.settings import Decode, Device, Settings
from service.tuning import Tuning

Source = bytes | str
"""Encoded image bytes, or their base64 text, with or without `data:...;base64,` before it."""

Prepare = Callable[[bytes], NDArray[np.uint8]]
"""Encoded image bytes to pixels (H, W, 3)."""

DATA_URI_HEAD = 256  # characters of a data URI in which its comma must come
PHOTO_SIZE: Final = (500, 375)  # of the photo whose decoding is timed


@dataclass(frozen=True)
class Decoded:
    """Pixels ready for the graph, (H, W, 3), when decoding began, and the seconds that it took."""

    pixels: NDArray[np.uint8]
    started: float
    seconds: float


def decode_workers(settings: Settings, device: Device, tuning: Tuning) -> int:
    """Threads of one process that only decode; 0 where every core has a lane of one thread, which then decodes too.

    An image so stays on one core, in its cache, from its bytes to its embedding.
    """
    cores = cores_per_worker(settings.workers)
    if settings.decode_workers or settings.max_wait_ms:  # a lane waits only for what others decode meanwhile
        return settings.decode_workers or cores
    return 0 if device is Device.CPU and tuning.threads == 1 and tuning.lanes >= cores else cores


def preparation(config: Preprocessing, settings: Settings) -> Prepare:
    """From encoded bytes to the graph's pixels, within the server's limits."""
    limits = ImageLimits(max_bytes=settings.max_image_bytes, max_pixels=settings.max_pixels)
    if settings.decode is Decode.FAST:
        return lambda data: decode_fast(data, limits, config)
    return lambda data: preprocess(decode_image(data, limits), config)


def decode_source(source: Source, prepare: Prepare) -> Decoded:
    """Decode and preprocess one image; runs on a decoder thread.

    Raises:
        ImageError: for what is no image, or too large a one.
        Malformed: for text that is not base64.
    """
    started = time.perf_counter()
    pixels = prepare(from_text(source) if isinstance(source, str) else source)
    return Decoded(pixels, started, time.perf_counter() - started)


def from_text(text: str) -> bytes:
    """Base64, alone or in a data URI, to bytes.

    Raises:
        Malformed: for anything else; URLs are not fetched.
    """
    if text.startswith(("http://", "https://")):
        raise Malformed("URLs are not fetched: send the image itself, as base64 or a data URI")
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head[:DATA_URI_HEAD].endswith(";base64"):
            raise Malformed("a data URI must look like data:image/jpeg;base64,...")
    if "\n" in text:
        text = "".join(text.split())  # as line-wrapping encoders write it
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed(f"the image is not valid base64: {error}") from error


def a_photo() -> bytes:
    """An ordinary JPEG of `PHOTO_SIZE`."""
    coarse = np.random.default_rng(0).integers(0, 256, (PHOTO_SIZE[1] // 8, PHOTO_SIZE[0] // 8, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(coarse).resize(PHOTO_SIZE, Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def seconds_per_photo(prepare: Prepare, photo: bytes, tries: int = 5) -> float:
    """CPU-seconds that it takes to decode on one core; the least of several tries."""
    taken = []
    for _ in range(tries):
        started = time.thread_time()
        prepare(photo)
        taken.append(time.thread_time() - started)
    return min(taken)

"""Tensors of a request to images: uint8 pixels, or encoded images as elements of type BYTES."""

import math
import struct
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.decoding import Decoded, Source
from service.errors import Malformed

LENGTH: Final = struct.Struct("<I")  # before each element of type BYTES


def pixels(values: bytes | list[Any], shape: Sequence[int], size: int) -> list[Decoded]:
    """A (B, size, size, 3) tensor, as bytes or as numbers, to images ready for the graph.

    Raises:
        Malformed: for another shape, or values that do not fill it.
    """
    if len(shape) != 4 or list(shape[1:]) != [size, size, 3]:
        raise Malformed(f"image: the shape must be [B, {size}, {size}, 3] (NHWC, RGB), not {list(shape)}")
    flat = np.frombuffer(values, np.uint8) if isinstance(values, bytes) else _as_uint8(values)
    if flat.size != math.prod(shape):
        raise Malformed(f"image: {flat.size} values do not fill the shape {list(shape)}")
    now = time.perf_counter()
    return [Decoded(image, now, 0.0) for image in flat.reshape(shape)]


def _as_uint8(values: list[Any]) -> NDArray[np.uint8]:
    """Numbers, flat or nested, to a flat array."""
    try:
        numbers = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise Malformed(f"image: data is no array: {error}") from error
    if numbers.size and (numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() > 255):
        raise Malformed("image: data must be whole numbers from 0 to 255")
    return numbers.astype(np.uint8).ravel()


def encoded_images(values: bytes | list[Any], shape: Sequence[int]) -> Sequence[Source]:
    """A (B,) tensor of type BYTES to encoded images; in JSON each is base64 or a data URI.

    Raises:
        Malformed: for another shape, or elements that do not fill it.
    """
    elements = _split(values) if isinstance(values, bytes) else values
    if not all(isinstance(element, bytes | str) for element in elements):
        raise Malformed("image_bytes: data must be a flat list of base64 texts or data URIs")
    if list(shape) != [len(elements)]:
        raise Malformed(f"image_bytes: {len(elements)} elements do not fill the shape {list(shape)}; it must be [B]")
    return elements


def _split(data: bytes) -> list[bytes]:
    """Elements, each after its length in four little-endian bytes."""
    elements, at = [], 0
    while at < len(data):
        if at + LENGTH.size > len(data):
            raise Malformed("image_bytes: the data ends within the length of an element")
        start = at + LENGTH.size
        at = start + LENGTH.unpack_from(data, at)[0]
        if at > len(data):
            raise Malformed("image_bytes: an element is longer than the data")
        elements.append(data[start:at])
    return elements

"""From untrusted bytes to an upright RGB image, or one typed error that says what to do.

What is decided here: only the first frame of an animation or page of a document counts; transparency is composited on
white; 16-bit greys are scaled by 1/257 to 8 bits; colours are taken as they are stored, so an embedded ICC profile is
not applied (nor does timm apply it in training).

Each format's own Pillow class is called rather than `Image.open`: its constructor reads the header alone, and no global
limit, warning filter or format registry is involved, so that threads cannot disturb each other. Pillow releases the
GIL while it decodes and converts.
"""

import io
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

FORMATS = ("JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF", "AVIF")

_SIGNATURES: tuple[tuple[bytes, type[ImageFile.ImageFile]], ...] = (
    (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    (b"GIF87a", GifImagePlugin.GifImageFile),
    (b"GIF89a", GifImagePlugin.GifImageFile),
    (b"BM", BmpImagePlugin.BmpImageFile),
    (b"II*\0", TiffImagePlugin.TiffImageFile),
    (b"MM\0*", TiffImagePlugin.TiffImageFile),
    (b"II+\0", TiffImagePlugin.TiffImageFile),  # BigTIFF
    (b"MM\0+", TiffImagePlugin.TiffImageFile),
)
_SIGNATURE_BYTES = 64  # enough for the brands of an AVIF file

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_LAST_COLUMN_FIRST, _LAST_ROW_FIRST = (2, 3, 6, 7), (3, 4, 7, 8)  # once upright


class ImageError(Exception):
    """An image that cannot be embedded; the message says why and what to do."""

    type: ClassVar[str]
    title: ClassVar[str]
    status: ClassVar[int]

    @property
    def detail(self) -> str:
        """What is wrong with this image, and what to do."""
        return str(self)


class ImageTooLarge(ImageError):
    """More bytes or more pixels than the limits allow."""

    type = "image_too_large"
    title = "Image too large"
    status = 413


class UnsupportedFormat(ImageError):
    """The bytes are not of a format in `FORMATS`."""

    type = "unsupported_format"
    title = "Unsupported image format"
    status = 415


class UndecodableImage(ImageError):
    """The bytes claim a supported format, and break it."""

    type = "undecodable_image"
    title = "Undecodable image"
    status = 422


@dataclass(frozen=True)
class ImageLimits:
    """The largest image to decode: `max_bytes` as sent, `max_pixels` as its header says."""

    max_bytes: int = 20 * 2**20
    max_pixels: int = 50_000_000


@dataclass(frozen=True)
class Reduced:
    """An upright RGB image, maybe at a fraction of its `size` (w, h); `box` (x0, y0, x1, y1) is what shows all of it.

    The box has fractions of a pixel where a side is no multiple of the reduction.
    """

    image: Image.Image
    size: tuple[int, int]
    box: tuple[float, float, float, float]


def decode_image(data: bytes | memoryview, limits: ImageLimits) -> Image.Image:
    """Decode the first frame of an image to RGB, upright as its EXIF orientation says.

    Raises:
        ImageTooLarge: for more bytes, or more pixels in the header, than the limits; nothing is decoded then.
        UnsupportedFormat: unless the bytes begin like one of `FORMATS`.
        UndecodableImage: for no bytes at all, and for truncated or broken ones.
    """
    return decode_reduced(data, limits, least_side=None).image


def decode_reduced(data: bytes | memoryview, limits: ImageLimits, least_side: int | None) -> Reduced:
    """As `decode_image`, but a JPEG is decoded at 1/2, 1/4 or 1/8, as long as both sides keep `least_side` pixels.

    The reduction is the JPEG decoder's own, which skips the work that the details would take.
    """
    _check_bytes(memoryview(data).nbytes, limits)
    opener = _opener(bytes(data[:_SIGNATURE_BYTES]))
    try:
        image = opener(io.BytesIO(data))
        _check_pixels(image.size, limits)
        width, height = image.size
        drafted = image.draft(None, (least_side, least_side)) if least_side else None
        image.load()
        orientation = _orientation(image)
        upright = _upright(_to_rgb(image), orientation)
        if drafted is None:
            return Reduced(upright, upright.size, (0, 0, *upright.size))
        size = (height, width) if orientation in _SIDEWAYS else (width, height)
        return Reduced(upright, size, _upright_box(drafted[1][2:], image.size, orientation))
    except (ImageError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(f"{error} Send a smaller image.") from error
    except Exception as error:  # on hostile bytes Pillow's decoders raise nearly anything
        raise UndecodableImage(
            f"The {opener.format} image is truncated or broken ({error}). Send it again, whole."
        ) from error


def _check_bytes(count: int, limits: ImageLimits) -> None:
    if count == 0:
        raise UndecodableImage("The image is empty: 0 bytes. Send the bytes of an image file.")
    if count > limits.max_bytes:
        raise ImageTooLarge(
            f"The image has {count} bytes and the limit is {limits.max_bytes}. Send it smaller or more compressed."
        )


def _check_pixels(size: tuple[int, int], limits: ImageLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"The image has {width} x {height} = {width * height} pixels and the limit is {limits.max_pixels}. "
            "Send it smaller."
        )


def _opener(head: bytes) -> type[ImageFile.ImageFile]:
    """The Pillow class for the format that the first bytes claim."""
    for signature, opener in _SIGNATURES:
        if head.startswith(signature):
            return opener
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return WebPImagePlugin.WebPImageFile
    if head[4:8] == b"ftyp" and _brands(head) & {b"avif", b"avis"}:
        return AvifImagePlugin.AvifImageFile
    raise UnsupportedFormat(f"The bytes are not an image of a known format. Send one of {', '.join(FORMATS)}.")


def _brands(head: bytes) -> set[bytes]:
    """The major and compatible brands of an ISO media file, as far as its first bytes hold them."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12]} | {head[start : start + 4] for start in range(16, end, 4)}


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8; 1 where there is none, or none that can be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata is no reason to refuse sound pixels
        return 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def _upright_box(
    extent: tuple[float, float], size: tuple[int, int], orientation: int
) -> tuple[float, float, float, float]:
    """Where the first `extent` (x, y) of an image of this size are once it is upright."""
    if orientation in _SIDEWAYS:
        extent, size = extent[::-1], size[::-1]
    x = size[0] - extent[0] if orientation in _LAST_COLUMN_FIRST else 0.0
    y = size[1] - extent[1] if orientation in _LAST_ROW_FIRST else 0.0
    return x, y, x + extent[0], y + extent[1]


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes to 8-bit RGB."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image), white=65535.0)
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        return _grey(values, _white_level(values))
    if image.has_transparency_data:
        return _on_white(image.convert("RGBA"))
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """Composite RGBA on white, the ground that most cut-outs are made for."""
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def _grey(values: NDArray[np.generic], white: float) -> Image.Image:
    """(h, w) greys from 0 to `white` -> RGB; what is outside is clipped, NaN is black."""
    scaled = np.multiply(values, 255.0 / white, dtype=np.float32)
    grey = np.rint(np.clip(np.nan_to_num(scaled, posinf=255.0, neginf=0.0), 0.0, 255.0)).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def _white_level(values: NDArray[np.generic]) -> float:
    """White of 32-bit greys, which carry no range: the least of 1 (floats only), 255 and 65535 to hold them all."""
    finite = np.where(np.isfinite(values), values, 0)
    highest = float(finite.max())
    usual = (255.0, 65535.0) if np.issubdtype(values.dtype, np.integer) else (1.0, 255.0, 65535.0)
    return next((white for white in usual if highest <= white), highest)

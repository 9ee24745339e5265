import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, PngImagePlugin

from models.images import (
    ImageError,
    ImageLimits,
    ImageTooLarge,
    UndecodableImage,
    UnsupportedFormat,
    decode_image,
)

LIMITS = ImageLimits()
LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_deflate"},
    "WEBP": {"lossless": True},
    "GIF": {},
}
LOSSY: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "AVIF": {"quality": 95}}
ORIENTATION = 0x0112


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(width: int = 40, height: int = 24) -> Image.Image:
    """A smooth image whose four corners differ, so that every flip and turn shows."""
    y, x = np.mgrid[0:height, 0:width]
    red, green = 255 * x / (width - 1), 255 * y / (height - 1)
    return Image.fromarray(np.stack([red, green, 255 - red], axis=-1).astype(np.uint8))


def pixels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


def decoded(data: bytes) -> NDArray[np.int64]:
    image = decode_image(data, LIMITS)
    assert image.mode == "RGB"
    return pixels(image)


def png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of hand-made chunks: a header, then what is given."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in (header, *chunks)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gif_header(width: int, height: int, frame_width: int, frame_height: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return screen + b"," + struct.pack("<HHHHB", 0, 0, frame_width, frame_height, 0) + b"\x02\x02\x44\x01\x00;"


def bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def jpeg_header(width: int, height: int) -> bytes:
    frame = struct.pack(">BHHB", 8, height, width, 3) + b"\x01\x11\x00\x02\x11\x01\x03\x11\x01"
    scan = b"\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00"
    return (
        b"\xff\xd8"
        + (b"\xff\xc0" + struct.pack(">H", len(frame) + 2) + frame)
        + (b"\xff\xda" + struct.pack(">H", len(scan) + 2) + scan)
    )


def webp_header(width: int, height: int) -> bytes:
    canvas = struct.pack("<I", 0) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", len(canvas)) + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff_header(width: int, height: int) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, 1)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_come_back_to_the_pixel(kind: str) -> None:
    image = scene(16, 12) if kind == "GIF" else scene()
    if kind == "GIF":
        image = image.quantize(64).convert("RGB")
    assert np.array_equal(decoded(encoded(image, kind, **LOSSLESS[kind])), pixels(image))


def test_photos_decode_as_pillow_decodes_them(shared_data: Path) -> None:
    photos = sorted((shared_data / "imagenet-sample-100").rglob("*.JPEG"))
    assert photos
    for path in photos:
        with Image.open(path) as image:
            assert np.array_equal(decoded(path.read_bytes()), pixels(image.convert("RGB"))), path.name


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_formats_come_back_close(kind: str) -> None:
    error = np.abs(decoded(encoded(scene(), kind, **LOSSY[kind])) - pixels(scene()))
    assert error.mean() < 3


def test_a_memoryview_decodes_like_its_bytes() -> None:
    data = encoded(scene(), "PNG")
    assert np.array_equal(pixels(decode_image(memoryview(data), LIMITS)), pixels(scene()))


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_of_tiff_decode(order: str) -> None:
    data = encoded(scene(), "TIFF", big_tiff=order == "<")
    assert np.array_equal(decoded(data), pixels(scene()))
    sixteen = Image.fromarray(np.full((3, 4), 257 * 100, dtype=f"{order}u2"))
    assert (decoded(encoded(sixteen, "TIFF")) == 100).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_orientation_is_undone(kind: str, orientation: int) -> None:
    undo = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    turned = _turned(scene(), undo)  # stored so that the tag turns it upright
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = LOSSY.get(kind, LOSSLESS.get(kind, {}))
    found = decoded(encoded(turned, kind, exif=exif, **options))
    assert found.shape == pixels(scene()).shape
    assert np.abs(found - pixels(scene())).mean() < 4


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """What a viewer shows for this EXIF orientation, with numpy rather than Pillow."""
    array = np.asarray(image)
    if orientation >= 5:
        array = array.transpose(1, 0, 2)  # (w, h, 3)
    flip_rows, flip_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return Image.fromarray(np.ascontiguousarray(array[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]))


@pytest.mark.filterwarnings(
    "ignore:Corrupt EXIF data", "ignore:Possibly corrupt EXIF data", "ignore:Truncated File Read"
)
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage!", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"Exif\0\0"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_broken_exif_leaves_the_pixels_as_stored(kind: str, exif: bytes) -> None:
    data = encoded(scene(), kind, exif=exif, **LOSSY.get(kind, LOSSLESS.get(kind, {})))
    assert np.abs(decoded(data) - pixels(scene())).mean() < 3


def test_an_orientation_out_of_range_is_ignored() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 42
    assert np.array_equal(decoded(encoded(scene(), "PNG", exif=exif)), pixels(scene()))


def test_adobe_cmyk_jpeg_is_not_inverted() -> None:
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # pure red, no black
    data = encoded(cmyk, "JPEG", quality=95)
    assert b"Adobe" in data
    assert np.abs(decoded(data) - np.array([255, 0, 0])).max() < 8


def test_cmyk_tiff_becomes_rgb() -> None:
    data = encoded(Image.new("CMYK", (5, 5), (255, 0, 0, 0)), "TIFF")
    assert (decoded(data) == np.array([0, 255, 255])).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_alpha_is_composited_on_white(kind: str) -> None:
    image = Image.new("RGBA", (24, 8), (200, 0, 0, 255))
    image.paste((200, 0, 0, 0), (8, 0, 16, 8))
    image.paste((200, 0, 0, 128), (16, 0, 24, 8))
    found = decoded(encoded(image, kind, **LOSSLESS.get(kind, LOSSY.get(kind, {}))))
    tolerance = 12 if kind == "AVIF" else 1
    for column, expected in ((4, (200, 0, 0)), (12, (255, 255, 255)), (20, (227, 127, 127))):
        assert np.abs(found[4, column] - np.array(expected)).max() <= tolerance


def test_grey_with_alpha_is_composited_on_white() -> None:
    image = Image.merge("LA", [Image.new("L", (4, 1), 40), Image.fromarray(np.array([[0, 255, 0, 51]], np.uint8))])
    assert decoded(encoded(image, "PNG"))[0, :, 0].tolist() == [255, 40, 255, 212]


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (4, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1, 1, 0])
    expected = [[255, 255, 255], [40, 50, 60], [40, 50, 60], [255, 255, 255]]
    assert decoded(encoded(image, "PNG", transparency=0))[0].tolist() == expected
    assert decoded(encoded(image, "GIF", transparency=0))[0].tolist() == expected


def test_a_palette_with_alpha_is_composited() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([100, 100, 100, 0, 0, 0])
    image.putdata([0, 1])
    assert decoded(encoded(image, "PNG", transparency=bytes([0, 51])))[0, :, 0].tolist() == [255, 204]


def test_a_transparent_colour_of_an_rgb_png_is_white() -> None:
    image = Image.new("RGB", (2, 1), (1, 2, 3))
    image.putpixel((1, 0), (9, 9, 9))
    assert decoded(encoded(image, "PNG", transparency=(1, 2, 3)))[0].tolist() == [[255, 255, 255], [9, 9, 9]]


def test_a_plain_palette_becomes_its_colours() -> None:
    image = scene(12, 8).quantize(32)
    assert np.array_equal(decoded(encoded(image, "PNG")), pixels(image.convert("RGB")))


def test_lab_colours_become_rgb() -> None:
    lab = Image.merge("LAB", [Image.new("L", (3, 3), value) for value in (136, 208, 195)])  # red
    assert np.abs(decoded(encoded(lab, "TIFF")) - np.array([255, 0, 0])).max() < 16


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_one_bit_is_black_and_white(kind: str) -> None:
    image = Image.fromarray(np.array([[True, False, True]]))
    assert image.mode == "1"
    assert decoded(encoded(image, kind))[0].tolist() == [[255] * 3, [0] * 3, [255] * 3]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "JPEG", "WEBP"])
def test_grey_becomes_three_equal_channels(kind: str) -> None:
    grey = scene().convert("L")
    found = decoded(encoded(grey, kind, **LOSSLESS.get(kind, LOSSY.get(kind, {}))))
    assert np.abs(found - pixels(grey)[..., None]).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_rather_than_clipped(kind: str) -> None:
    ramp = np.linspace(0, 65535, 60).astype(np.uint16).reshape(6, 10)
    found = decoded(encoded(Image.fromarray(ramp), kind))
    assert np.array_equal(found, np.rint(ramp / 257.0).astype(np.int64)[..., None].repeat(3, axis=2))


def test_sixteen_bit_rgb_png_keeps_its_high_bytes() -> None:
    row = b"\0" + struct.pack(">6H", 0x1234, 0x8000, 0xFFFF, 0, 0x00FF, 0xFF00)
    data = png(2, 1, (b"IDAT", zlib.compress(row)), (b"IEND", b""), depth=16)
    assert np.abs(decoded(data)[0] - np.array([[0x12, 0x80, 0xFF], [0, 0, 0xFF]])).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.4, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[0.0, 25700.0, 65535.0]], np.float32), [0, 100, 255]),
        (np.array([[-5.0, 1e6, 2.5e6]], np.float32), [0, 102, 255]),
        (np.array([[np.nan, np.inf, 0.2]], np.float32), [0, 255, 51]),
        (np.array([[0, 1, 255]], np.int32), [0, 1, 255]),
        (np.array([[0, 25700, 65535]], np.int32), [0, 100, 255]),
        (np.array([[-7, 1_000_000, 2_500_000]], np.int32), [0, 102, 255]),
        (np.array([[0, 0, 0]], np.int32), [0, 0, 0]),
    ],
)
def test_32_bit_greys_are_scaled_to_the_range_that_holds_them(values: NDArray[Any], expected: list[int]) -> None:
    assert decoded(encoded(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_only_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert np.abs(decoded(data) - np.array([255, 0, 0])).max() <= 4


def test_an_icc_profile_is_left_unapplied() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    assert np.array_equal(decoded(encoded(scene(), "PNG", icc_profile=profile)), pixels(scene()))


def test_no_bytes_are_undecodable_and_say_so() -> None:
    with pytest.raises(UndecodableImage, match="empty: 0 bytes"):
        decode_image(b"", LIMITS)


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated_files_are_undecodable(kind: str, kept: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    data = encoded(noise, kind, **LOSSLESS.get(kind, LOSSY.get(kind, {})))
    with pytest.raises(UndecodableImage, match="truncated or broken"):
        decode_image(data[: int(kept * len(data))], LIMITS)


@pytest.mark.parametrize("kind", [*LOSSLESS, *LOSSY])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bit_rot_decodes_or_raises_an_image_error(kind: str) -> None:
    data = encoded(scene(), kind, **LOSSLESS.get(kind, LOSSY.get(kind, {})))
    random = np.random.default_rng(1)
    for _ in range(150):
        rotten = bytearray(data)
        for place in random.integers(0, len(data), size=3):
            rotten[place] = random.integers(256)
        try:
            image = decode_image(bytes(rotten), ImageLimits(max_pixels=1_000_000))
        except ImageError:
            continue
        assert image.mode == "RGB"


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-1.7 and more text that is no image",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"RIFF\x10\0\0\0WAVEfmt ",
        b"x",
    ],
    ids=["pdf", "svg", "heic", "wav", "one byte"],
)
def test_other_formats_are_unsupported_and_the_message_lists_what_is(data: bytes) -> None:
    with pytest.raises(UnsupportedFormat, match="JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF"):
        decode_image(data, LIMITS)


@pytest.mark.parametrize("kind", ["ICO", "PPM", "TGA", "JPEG2000", "PCX"])
def test_formats_pillow_knows_beyond_the_list_are_unsupported(kind: str) -> None:
    with pytest.raises(UnsupportedFormat):
        decode_image(encoded(scene(), kind), LIMITS)


def test_more_bytes_than_allowed_are_refused_before_they_are_read() -> None:
    with pytest.raises(ImageTooLarge, match="101 bytes and the limit is 100"):
        decode_image(b"x" * 101, ImageLimits(max_bytes=100))


@pytest.mark.parametrize(
    "data",
    [
        png(100_000, 100_000, (b"IDAT", b"")),
        png(12_000, 10_000, (b"IDAT", b"")),  # where Pillow itself only warns
        jpeg_header(65_000, 65_000),
        webp_header(16_000, 16_000),
        gif_header(65_000, 65_000, 1, 1),
        gif_header(1, 1, 65_000, 65_000),
        gif_header(1, 1, 12_000, 10_000),
        bmp_header(100_000, 100_000),
        tiff_header(100_000, 100_000),
    ],
    ids=["png", "png-warning", "jpeg", "webp", "gif", "gif-frame", "gif-frame-warning", "bmp", "tiff"],
)
def test_a_header_that_claims_too_many_pixels_is_enough_to_refuse(data: bytes) -> None:
    with pytest.raises(ImageTooLarge):
        decode_image(data, LIMITS)


def test_the_limit_itself_is_allowed_and_one_pixel_more_is_not() -> None:
    data = encoded(Image.new("RGB", (10, 10)), "PNG")
    assert decode_image(data, ImageLimits(max_pixels=100, max_bytes=len(data))).size == (10, 10)
    with pytest.raises(ImageTooLarge, match="10 x 10 = 100 pixels and the limit is 99"):
        decode_image(data, ImageLimits(max_pixels=99))
    with pytest.raises(ImageTooLarge):
        decode_image(data, ImageLimits(max_bytes=len(data) - 1))


def test_an_avif_header_that_claims_too_many_pixels_is_enough_to_refuse() -> None:
    data = encoded(scene(), "AVIF")
    place = data.index(b"ispe") + 8
    with pytest.raises(ImageTooLarge, match="10000 x 9000"):
        decode_image(data[:place] + struct.pack(">II", 10_000, 9_000) + data[place + 8 :], LIMITS)


def test_only_our_own_limit_counts_where_pillow_would_warn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    data = encoded(scene(40, 24), "PNG")
    with pytest.raises(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(data))
    assert np.array_equal(decoded(data), pixels(scene(40, 24)))


@pytest.mark.parametrize(
    "data",
    [
        png(2, 2, (b"IDAT", b"not zlib"), (b"IEND", b"")),
        png(2, 2, (b"IEND", b"")),
        png(0, 5, (b"IEND", b"")),
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"GIF89a",
        b"BM",
        b"II*\0",
        b"RIFF\x04\0\0\0WEBP",
        b"\0\0\0\x18ftypavif\0\0\0\0avifmif1",
        tiff_header(4, 4)[:-30],
    ],
)
def test_a_broken_file_of_a_known_format_is_undecodable(data: bytes) -> None:
    with pytest.raises(UndecodableImage, match="truncated or broken"):
        decode_image(data, LIMITS)


@pytest.mark.parametrize(
    ("error", "type_", "status"),
    [
        (ImageTooLarge, "image_too_large", 413),
        (UnsupportedFormat, "unsupported_format", 415),
        (UndecodableImage, "undecodable_image", 422),
    ],
)
def test_each_error_carries_its_problem(error: type[ImageError], type_: str, status: int) -> None:
    raised = error("Do this.")
    assert (raised.type, raised.status, raised.detail) == (type_, status, "Do this.")
    assert raised.title


def test_running_out_of_memory_is_not_blamed_on_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def starve(self: object) -> None:
        raise MemoryError

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", starve)
    with pytest.raises(MemoryError):
        decode_image(encoded(scene(), "PNG"), LIMITS)


def test_threads_get_each_their_own_image() -> None:
    images = [Image.new("RGB", (64, 64), (value, 255 - value, value // 2)) for value in range(64)]
    data = [encoded(image, kind, **LOSSLESS.get(kind, {})) for image in images for kind in ("PNG", "WEBP", "TIFF")]
    expected = [image.getpixel((0, 0)) for image in images for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        found = [image.getpixel((5, 5)) for image in pool.map(lambda item: decode_image(item, LIMITS), data)]
    assert found == expected


def test_no_global_state_of_pillow_or_warnings_changes() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters))
    decode_image(encoded(scene(), "JPEG"), LIMITS)
    with pytest.raises(ImageError):
        decode_image(jpeg_header(65_000, 65_000), LIMITS)
    assert (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, list(warnings.filters)) == before

import io
import itertools
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.images import ImageError, ImageLimits, decode_image
from models.preprocess import MAX_ASPECT, Interpolation, Preprocessing, decode_fast, preprocess

INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
CROP_PCTS = (1.0, 0.95, 0.9, 0.875)
SIZES = (64, 96, 160, 224)
SHAPES = [
    (500, 375),  # width, height
    (375, 500),
    (333, 333),
    (224, 224),
    (64, 64),
    (160, 91),
    (97, 641),
    (23, 17),  # scaled up
    (5, 5),
    (1, 1),
    (1, 9),
    (16, 1),
    (2, 31),
    (800, 50),
    (71, 72),
]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    waves = [128 + 100 * np.sin(x / 3.0 + y / 2.0 + phase) for phase in range(3)]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))


def timm_pixels(image: Image.Image, config: Preprocessing) -> NDArray[np.uint8]:
    """The evaluation transform of timm, before it normalises: (size, size, 3)."""
    data = pytest.importorskip("timm.data", reason="needs timm, of the extra `train`")
    transform = data.create_transform(
        input_size=(3, config.size, config.size),
        is_training=False,
        crop_pct=config.crop_pct,
        crop_mode="center",
        interpolation=config.interpolation,
        normalize=False,
    )
    pixels: NDArray[np.uint8] = transform(image).numpy().transpose(1, 2, 0)
    return pixels


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pixels_are_those_of_timms_evaluation_transform(
    shape: tuple[int, int], size: int, interpolation: Interpolation
) -> None:
    for crop_pct in CROP_PCTS:
        config = Preprocessing(size, crop_pct, interpolation)
        image = noise(*shape)
        assert np.array_equal(preprocess(image, config), timm_pixels(image, config)), crop_pct


def test_pixels_are_those_of_timm_for_shapes_drawn_at_random() -> None:
    random = np.random.default_rng(7)
    for seed in range(150):
        short = int(random.integers(1, 300))
        long = min(int(short * random.uniform(1, MAX_ASPECT)), 1200)
        shape = (short, long) if random.random() < 0.5 else (long, short)
        config = Preprocessing(int(random.integers(8, 260)), float(random.uniform(0.5, 1.0)))
        image = noise(*shape, seed)
        assert np.array_equal(preprocess(image, config), timm_pixels(image, config)), (shape, config)


def test_photos_come_out_as_from_timm(shared_data: Path) -> None:
    photos = sorted((shared_data / "imagenet-sample-100").rglob("*.JPEG"))[:10]
    assert photos
    for path, crop_pct in itertools.product(photos, (1.0, 0.875)):
        config = Preprocessing(224, crop_pct)
        with Image.open(path) as file:
            image = file.convert("RGB")
        assert np.array_equal(preprocess(image, config), timm_pixels(image, config)), path.name


@pytest.mark.parametrize("crop_pct", CROP_PCTS)
@pytest.mark.parametrize("shape", [(40, 40), (1, 1), (300, 10), (1, 5000)], ids=str)
def test_output_is_a_square_of_bytes_whatever_the_input(shape: tuple[int, int], crop_pct: float) -> None:
    pixels = preprocess(noise(*shape), Preprocessing(96, crop_pct))
    assert pixels.shape == (96, 96, 3)
    assert pixels.dtype == np.uint8


def test_mean_and_std_are_left_to_the_graph() -> None:
    image = noise(80, 60)
    plain = preprocess(image, Preprocessing(64))
    assert np.array_equal(preprocess(image, Preprocessing(64, mean=(0.1, 0.2, 0.3), std=(9.0, 9.0, 9.0))), plain)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shape", [(7, 300), (300, 7), (8, 301), (301, 8), (10, 171)], ids=str)
def test_a_strip_beyond_the_largest_aspect_ratio_keeps_its_centre(
    shape: tuple[int, int], interpolation: Interpolation
) -> None:
    assert max(shape) > MAX_ASPECT * min(shape)
    config = Preprocessing(64, 0.9, interpolation)
    error = np.abs(preprocess(smooth(*shape), config).astype(int) - timm_pixels(smooth(*shape), config))
    assert error.mean() < 4.0  # a cut one pixel off centre would give 9 or more


@pytest.mark.parametrize("shape", [(1, 3_000_000), (3_000_000, 1)], ids=["tall", "wide"])
def test_a_strip_of_millions_of_pixels_is_never_resized_whole(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def record(self: Image.Image, size: tuple[int, int], *rest: Any, **more: Any) -> Image.Image:
        asked.append(size)
        return resize(self, size, *rest, **more)

    monkeypatch.setattr(Image.Image, "resize", record)
    assert preprocess(Image.new("RGB", shape, "red"), Preprocessing(64)).tolist() == [[[255, 0, 0]] * 64] * 64
    assert max(asked[0]) <= 64 * (MAX_ASPECT + 1)


def test_the_image_given_is_not_changed() -> None:
    image = noise(2, 90)
    before = np.asarray(image).copy()
    preprocess(image, Preprocessing(32))
    assert image.size == (2, 90)
    assert np.array_equal(np.asarray(image), before)


def jpeg(image: Image.Image, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def exact(data: bytes, config: Preprocessing) -> NDArray[np.uint8]:
    return preprocess(decode_image(data, ImageLimits()), config)


def decibels(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio."""
    error = float(np.mean((found.astype(np.float64) - expected) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(403, 301), (301, 407)])  # no multiple of the reduction
def test_fast_decoding_of_a_large_jpeg_is_close_to_the_exact_one(size: tuple[int, int], orientation: int) -> None:
    data, config = jpeg(smooth(*size), orientation), Preprocessing(32, crop_pct=0.9)

    found = decode_fast(data, ImageLimits(), config)

    assert found.shape == (32, 32, 3)
    assert decibels(found, exact(data, config)) > 40
    assert decibels(found, exact(data, config)) < 80  # it was reduced


def test_a_jpeg_of_less_than_twice_the_margin_is_decoded_exactly() -> None:
    data, config = jpeg(smooth(190, 250)), Preprocessing(32)

    assert np.array_equal(decode_fast(data, ImageLimits(), config), exact(data, config))


def test_other_formats_and_strips_are_decoded_exactly() -> None:
    buffer, config = io.BytesIO(), Preprocessing(16)
    smooth(400, 300).save(buffer, "PNG")
    strip = jpeg(smooth(2000, 100))
    lying = io.BytesIO()
    smooth(400, 300).save(lying, "TIFF", tiffinfo={274: 6})  # which Pillow turns by itself

    for data in (buffer.getvalue(), lying.getvalue(), strip):
        assert np.array_equal(decode_fast(data, ImageLimits(), config), exact(data, config))


def test_fast_decoding_holds_to_the_limits_of_the_whole_image() -> None:
    with pytest.raises(ImageError, match="403 x 301"):
        decode_fast(jpeg(smooth(403, 301)), ImageLimits(max_pixels=100_000), Preprocessing(32))
    with pytest.raises(ImageError, match="truncated or broken"):
        decode_fast(jpeg(smooth(403, 301))[:800], ImageLimits(), Preprocessing(32))

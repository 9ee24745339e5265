import io
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models.degrade import DEGRADATIONS, degrade

SEVERITIES = np.linspace(0, 1, 6)
KEEPING_SIZE = sorted(DEGRADATIONS.keys() - {"crop"})
EXACT_AT_ZERO = sorted(DEGRADATIONS.keys() - {"jpeg"})


def photo(seed: int, width: int = 96, height: int = 72) -> Image.Image:
    """Large soft shapes under a finer texture, as photos have them."""
    rng = np.random.default_rng(seed)
    shapes, texture = (
        Image.fromarray(rng.integers(0, 256, (rows, columns, 3), dtype=np.uint8)).resize((width, height))
        for rows, columns in ((6, 8), (24, 32))
    )
    return Image.blend(shapes, texture, 0.4)


def slope(width: int = 90, height: int = 70) -> Image.Image:
    """Red says how far right a pixel is, green how far down."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.uint8(np.round(np.stack([x, y, np.zeros_like(x)], axis=2))))


def grey(value: int = 128, size: tuple[int, int] = (100, 100)) -> Image.Image:
    return Image.new("RGB", size, (value, value, value))


def pixels(image: Image.Image) -> NDArray[np.float64]:
    return np.asarray(image, dtype=np.float64)


def harm(original: Image.Image, worse: Image.Image) -> float:
    """Mean absolute difference in grey levels; of a crop, once it is as large as the original."""
    return float(np.abs(pixels(original) - pixels(worse.resize(original.size))).mean())


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", KEEPING_SIZE)
def test_the_higher_the_severity_the_further_from_the_original(kind: str, seed: int) -> None:
    image = photo(seed)

    harms = [harm(image, degrade(image, kind, severity, seed)) for severity in SEVERITIES]

    assert all(higher > lower + 0.5 for lower, higher in pairwise(harms)), harms
    assert harms[-1] > 15


def test_the_higher_the_severity_the_less_a_crop_shows() -> None:
    image = slope()

    harms = [harm(image, degrade(image, "crop", severity, 0)) for severity in SEVERITIES]

    assert all(higher > lower + 0.5 for lower, higher in pairwise(harms)), harms
    assert harms[-1] > 15


@pytest.mark.parametrize("kind", EXACT_AT_ZERO)
def test_no_severity_changes_nothing(kind: str) -> None:
    assert np.array_equal(pixels(degrade(photo(0), kind, 0.0, 0)), pixels(photo(0)))


def test_no_severity_of_jpeg_changes_little() -> None:
    for image in (slope(), grey()):
        assert harm(image, degrade(image, "jpeg", 0.0, 0)) < 2


@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_equal_seeds_give_equal_images_and_the_original_stays_as_it_was(kind: str) -> None:
    image = photo(0)

    first, second = (degrade(image, kind, 0.6, seed=4) for _ in range(2))

    assert np.array_equal(pixels(first), pixels(second))
    assert np.array_equal(pixels(image), pixels(photo(0)))


def test_another_seed_gives_other_noise() -> None:
    assert not np.array_equal(
        pixels(degrade(photo(0), "noise", 0.6, seed=4)), pixels(degrade(photo(0), "noise", 0.6, seed=5))
    )


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (200, 3), (64, 48)])
@pytest.mark.parametrize("severity", [0.0, 0.5, 1.0, np.float64(0.7), np.float32(0.7)])
@pytest.mark.parametrize("kind", DEGRADATIONS)
def test_any_image_stays_an_rgb_image_and_of_its_size_unless_cropped(
    kind: str, severity: float, size: tuple[int, int]
) -> None:
    found = degrade(Image.new("RGB", size, "red"), kind, severity, seed=0)

    assert found.mode == "RGB"
    if kind != "crop":
        assert found.size == size


@pytest.mark.parametrize("severity", [0.0, 0.3, 1.0])
def test_a_crop_is_the_centre_and_loses_nine_tenths_of_each_side_at_most(severity: float) -> None:
    image = slope(200, 100)

    found = degrade(image, "crop", severity, 0)

    assert found.size == (round(200 * (1 - 0.9 * severity)), round(100 * (1 - 0.9 * severity)))
    assert pixels(found)[:, :, 0].mean() == pytest.approx(127.5, abs=2)
    assert pixels(found)[:, :, 1].mean() == pytest.approx(127.5, abs=2)
    shown = pixels(found)[0, -1, 0] - pixels(found)[0, 0, 0]
    assert shown == pytest.approx(255 * (1 - 0.9 * severity), abs=3)  # nothing is enlarged


@pytest.mark.parametrize("size", [(160, 80), (80, 160)])
def test_blur_spreads_a_point_by_a_twentieth_of_the_short_side(size: tuple[int, int]) -> None:
    point = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    y, x = size[1] // 2, size[0] // 2
    point[y - 5 : y + 6, x - 5 : x + 6] = 255  # a box of variance (11^2 - 1) / 12

    found = pixels(degrade(Image.fromarray(point), "blur", 1.0, 0))[:, :, 0]

    weight = found.sum(axis=0) / found.sum()
    variance = (weight * (np.arange(size[0]) - x) ** 2).sum()
    assert variance == pytest.approx(10 + 4.0**2, rel=0.1)


@pytest.mark.parametrize("severity", [0.05, 0.4])
def test_noise_has_the_stated_spread_and_brightens_or_darkens_nothing(severity: float) -> None:
    found = pixels(degrade(grey(), "noise", severity, 0)) - 128

    assert found.std() == pytest.approx(80 * severity, rel=0.02)
    assert found.mean() == pytest.approx(0.0, abs=80 * severity / 50)
    assert np.abs(np.corrcoef(found.reshape(-1, 3).T) - np.eye(3)).max() < 0.05  # each channel by itself


def test_noise_stays_within_black_and_white() -> None:
    dark, light = (pixels(degrade(grey(value), "noise", 1.0, 0)) for value in (0, 255))

    assert (dark == 0).mean() == pytest.approx(0.5, abs=0.02)
    assert (light == 255).mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("severity", "quality"), [(0.0, 90), (0.5, 46), (1.0, 2)])
def test_jpeg_is_of_the_stated_quality(severity: float, quality: int) -> None:
    file = io.BytesIO()
    photo(0).save(file, "JPEG", quality=quality)

    found = degrade(photo(0), "jpeg", severity, 0)

    with Image.open(file) as expected:
        assert np.array_equal(pixels(found), pixels(expected.convert("RGB")))


def test_low_resolution_keeps_means_of_eight_by_eight_pixels_and_nothing_finer() -> None:
    image = photo(0, 128, 64)
    texture = Image.fromarray(np.kron(np.indices((32, 64)).sum(axis=0) % 2, np.ones((2, 2))).astype(np.uint8) * 255)

    found = pixels(degrade(image, "low_resolution", 1.0, 0))
    flat = pixels(degrade(texture.convert("RGB"), "low_resolution", 1.0, 0))

    coarse = np.array(image.reduce(8), dtype=np.float64)  # (8, 16, 3)
    centres = found.reshape(8, 8, 16, 8, 3)[:, 3:5, :, 3:5].mean(axis=(1, 3))  # (8, 16, 3)
    assert np.abs(centres - coarse).mean() < 3
    assert np.ptp(flat) == 0
    assert flat.mean() == pytest.approx(127.5, abs=1)

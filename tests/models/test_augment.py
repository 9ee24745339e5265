import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from models import augment
from models.augment import Augmentation, view
from models.degrade import DEGRADATIONS, Degrading
from models.preprocess import Preprocessing, preprocess

PREPROCESSING = Preprocessing(32, 0.875, "bilinear")
PLAIN = Augmentation(min_scale=0.08, jitter=0.0)


def photo(width: int = 96, height: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8))


def position_map(width: int, height: int) -> Image.Image:
    """Red says how far right a pixel is, green how far down, from 0 to 255."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.uint8(np.round(np.stack([x, y, np.zeros_like(x)], axis=2))))


def corners(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Relative left, right, top and bottom of what a view of a position map shows; left > right where it is flipped."""
    x, y = pixels[:, :, 0].mean(axis=0) / 255, pixels[:, :, 1].mean(axis=1) / 255
    return np.array([x[0], x[-1], y[0], y[-1]])


def test_view_zero_is_the_clean_evaluation_view() -> None:
    assert np.array_equal(view(photo(), 3, 0, Augmentation(), PREPROCESSING), preprocess(photo(), PREPROCESSING))


def test_a_view_is_the_same_at_any_time() -> None:
    first = view(photo(), 5, 2, Augmentation(), PREPROCESSING)
    view(photo(), 5, 3, Augmentation(), PREPROCESSING)
    np.random.default_rng().random()

    assert np.array_equal(view(photo(), 5, 2, Augmentation(), PREPROCESSING), first)


@pytest.mark.parametrize(
    ("index", "number", "augmentation"),
    [(6, 2, Augmentation()), (5, 3, Augmentation()), (2, 5, Augmentation()), (5, 2, Augmentation(seed=1))],
)
def test_another_seed_index_or_number_gives_another_view(index: int, number: int, augmentation: Augmentation) -> None:
    first = view(photo(), 5, 2, Augmentation(), PREPROCESSING)

    assert not np.array_equal(view(photo(), index, number, augmentation, PREPROCESSING), first)


@pytest.mark.parametrize("number", range(1, 9))
def test_the_crop_is_the_same_share_of_the_image_at_every_input_size(number: int) -> None:
    image = position_map(300, 200)

    small = corners(view(image, 11, number, PLAIN, replace(PREPROCESSING, size=32)))
    large = corners(view(image, 11, number, PLAIN, replace(PREPROCESSING, size=160)))

    edge = np.abs(large[[0, 0, 2, 2]] - large[[1, 1, 3, 3]]) / 32  # the first pixel's centre lies half a pixel inside
    assert (np.abs(small - large) <= edge + 0.01).all()


@pytest.mark.parametrize("number", range(1, 9))
def test_the_crop_is_the_same_share_of_an_image_and_of_its_enlargement(number: int) -> None:
    small = corners(view(position_map(150, 100), 11, number, PLAIN, PREPROCESSING))
    large = corners(view(position_map(600, 400), 11, number, PLAIN, PREPROCESSING))

    assert np.allclose(small, large, atol=0.02)


def test_crops_keep_the_asked_share_of_the_area_and_a_moderate_aspect_ratio() -> None:
    shares, ratios = [], []
    for index in range(200):
        left, right, top, bottom = corners(
            view(position_map(256, 256), index, 1, PLAIN, replace(PREPROCESSING, size=64))
        )
        width, height = abs(right - left) * 64 / 63, abs(bottom - top) * 64 / 63
        shares.append(width * height)
        ratios.append(width / height)

    assert min(shares) > 0.08 * 0.85
    assert min(shares) < 0.2
    assert max(shares) > 0.85
    assert 3 / 4 * 0.9 < min(ratios) < 0.85
    assert 1.18 < max(ratios) < 4 / 3 * 1.1


def test_about_half_of_the_views_are_flipped() -> None:
    views = [corners(view(position_map(64, 64), index, 1, PLAIN, PREPROCESSING)) for index in range(200)]

    assert 0.4 < np.mean([left > right for left, right, _, _ in views]) < 0.6
    assert all(top < bottom for _, _, top, bottom in views)


def test_jitter_changes_colours_and_its_absence_does_not() -> None:
    grey = Image.new("RGB", (40, 40), (100, 120, 140))

    plain = view(grey, 0, 1, PLAIN, PREPROCESSING)
    jittered = view(grey, 0, 1, replace(PLAIN, jitter=0.4), PREPROCESSING)

    assert (plain == (100, 120, 140)).all()
    assert np.abs(jittered.astype(int) - plain).max() > 3


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (200, 3)])
def test_any_image_has_views_of_the_asked_size(size: tuple[int, int]) -> None:
    for number in range(4):
        pixels = view(Image.new("RGB", size, "red"), 0, number, Augmentation(), PREPROCESSING)
        assert pixels.shape == (32, 32, 3)
        assert pixels.dtype == np.uint8
        assert math.isfinite(pixels.mean())


def degrading(share: float) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """400 views without and with the share to be degraded."""
    noise = photo(64, 64)
    return [
        (
            view(noise, index, 1, PLAIN, PREPROCESSING),
            view(noise, index, 1, replace(PLAIN, degraded=share), PREPROCESSING),
        )
        for index in range(400)
    ]


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_asked_share_of_the_views_is_degraded_and_the_rest_are_as_without(share: float) -> None:
    changed = [not np.array_equal(plain, degraded) for plain, degraded in degrading(share)]

    assert np.mean(changed) == pytest.approx(share, abs=0.06)


def test_a_degraded_view_is_the_same_at_any_time() -> None:
    augmentation = Augmentation(degraded=1.0)

    first, second = (view(photo(), 5, 2, augmentation, PREPROCESSING) for _ in range(2))

    assert np.array_equal(first, second)
    assert first.shape == (32, 32, 3)


def test_view_zero_is_never_degraded() -> None:
    clean = preprocess(photo(), PREPROCESSING)

    assert np.array_equal(view(photo(), 3, 0, Augmentation(degraded=1.0), PREPROCESSING), clean)


def test_views_are_degraded_in_every_way_but_a_crop_by_any_severity(monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[str, list[float]] = {kind: [] for kind in DEGRADATIONS}

    def recording(kind: str) -> Degrading:
        def record(image: Image.Image, severity: float, rng: np.random.Generator) -> Image.Image:
            used[kind].append(severity)
            return DEGRADATIONS[kind](image, severity, rng)

        return record

    monkeypatch.setattr(augment, "DEGRADATIONS", {kind: recording(kind) for kind in DEGRADATIONS})

    pairs = degrading(1.0)

    assert used.pop("crop") == []
    assert all(70 <= len(severities) <= 130 for severities in used.values())
    severities = np.sort(np.concatenate(list(used.values())))
    assert np.abs(severities - np.linspace(0, 1, severities.size)).max() < 0.08
    assert len(pairs) == severities.size


def sharpness(pixels: NDArray[np.uint8]) -> float:
    return float(np.abs(np.diff(pixels.astype(np.float64), axis=1)).mean())


@pytest.mark.parametrize(("kind", "softer"), [("blur", True), ("low_resolution", True), ("noise", False)])
def test_what_is_degraded_is_the_view(kind: str, softer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "DEGRADING", (kind,))
    image = position_map(64, 64) if kind == "noise" else photo(64, 64)
    plain = [sharpness(view(image, index, 1, PLAIN, PREPROCESSING)) for index in range(50)]
    worse = [sharpness(view(image, index, 1, replace(PLAIN, degraded=1.0), PREPROCESSING)) for index in range(50)]

    gains = np.array(worse) - np.array(plain)
    assert (gains <= 0).all() if softer else (gains >= 0).all()
    assert (gains != 0).mean() > 0.9

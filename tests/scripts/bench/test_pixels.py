import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.backbone import create_backbone, represent
from models.dataset import limited_index
from models.datasets import open_dataset
from models.methods.base import Batch
from models.methods.fit import Schedule
from models.preprocess import Preprocessing, preprocess
from scripts.bench import pixels
from scripts.bench.pixels import PixelBatches, Pixels, PreLogits, augmented, read_pixels, represented
from tests.offline import CLASSES, pictures, write_packed

MANY = 2000  # draws


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grey_levels(count: int, size: int = 8) -> Pixels:
    """Images of one level each, 20 apart, of which every crop is the same, and their number as label."""
    levels = np.arange(count, dtype=np.uint8) * 20
    images = np.broadcast_to(levels[:, None, None, None], (count, size, size, 3)).copy()
    return Pixels(images, np.arange(count), tuple(map(str, range(count))))


def ramps(count: int, size: int = 32) -> Tensor:
    """Images (count, 3, size, size) whose first two channels are the place across and down, from 0 to 1."""
    place = (torch.arange(size) + 0.5) / size
    across, down = place.expand(size, size), place[:, None].expand(size, size)
    return torch.stack([across, down, torch.full((size, size), 0.5)]).expand(count, 3, size, size)


def unjittered(count: int, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Crops of ramps: (count, 3, 32, 32)."""
    monkeypatch.setattr(pixels, "JITTER", 0.0)
    return augmented(ramps(count), generator())


def boxes(crops: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Signed width, height, left and top, each (n,), of the boxes that crops of ramps show, read off inner pixels."""
    across, down = crops[:, 0, 16], crops[:, 1, :, 16]
    width, height = (line[:, 23] - line[:, 8] for line in (across, down))
    width, height = width * 32 / 15, height * 32 / 15
    left = (across[:, 8] + across[:, 23]) / 2 - width.abs() / 2
    return width, height, left, (down[:, 8] + down[:, 23]) / 2 - height / 2


def test_images_are_read_as_the_evaluation_preprocessing_gives_them_and_limited(tmp_path: Path) -> None:
    path = write_packed(tmp_path / "images.npz", *pictures(per_class=3, seed=0))
    dataset, index = open_dataset(str(path)), limited_index(18, 7)

    found = read_pixels(str(path), 16, 7)

    assert found.images.shape == (7, 16, 16, 3)
    assert found.classes == CLASSES
    for position, number in enumerate(index):
        assert np.array_equal(found.images[position], preprocess(dataset.image(int(number)), Preprocessing(16)))
        assert found.labels[position] == dataset.labels[number]


def test_an_epoch_is_whole_batches_in_which_every_image_comes_once_with_its_label(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pixels, "JITTER", 0.0)
    batches = list(PixelBatches(grey_levels(11), Schedule(batch_size=4))(0))

    assert len(batches) == len(PixelBatches(grey_levels(11), Schedule(batch_size=4))) == 2
    for made in batches:
        assert made.features.shape == (2, 4, 3, 8, 8)
        assert made.targets.shape == (2, 0)
        shown = ((made.features + 1) / 2 * 255 / 20).round().long()
        assert torch.equal(shown, made.labels[None, :, None, None, None].expand(shown.shape))
    assert len({int(label) for made in batches for label in made.labels}) == 8


def first_batch(epoch: int = 0, seed: int = 0) -> Batch:
    return next(PixelBatches(noise(12), Schedule(batch_size=6, seed=seed))(epoch))


def noise(count: int) -> Pixels:
    images = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return Pixels(images, np.arange(count), tuple(map(str, range(count))))


def test_seed_and_epoch_decide_the_batches_whatever_was_drawn_before() -> None:
    first = first_batch()
    torch.manual_seed(77)

    assert torch.equal(first_batch().features, first.features)
    assert torch.equal(first_batch().labels, first.labels)
    assert not torch.equal(first_batch(epoch=1).features, first.features)
    assert not torch.equal(first_batch(seed=1).features, first.features)


def test_the_views_of_an_image_differ() -> None:
    first, second = first_batch().features

    assert ((first - second).abs().mean(dim=(1, 2, 3)) > 0.01).all()


def test_crops_lie_within_the_image_and_have_the_share_and_shape_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    width, height, left, top = boxes(unjittered(MANY, monkeypatch))
    width = width.abs()
    within = 1e-3

    for start, length in ((left, width), (top, height)):
        assert start.min() > -within
        assert (start + length).max() < 1 + within
        assert start.std() > 0.05
    assert pixels.MIN_SCALE - within < (width * height).min() < pixels.MIN_SCALE + 0.02
    assert (width * height).max() > 0.9
    ratio = (width / height).log()
    assert ratio.abs().max() < math.log(4 / 3) + within
    assert ratio.min() < -0.25
    assert ratio.max() > 0.25


def test_half_of_the_crops_are_mirrored_and_none_upside_down(monkeypatch: pytest.MonkeyPatch) -> None:
    width, height, _, _ = boxes(unjittered(MANY, monkeypatch))

    assert float((width < 0).float().mean()) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(MANY))
    assert (height > 0).all()


def test_jitter_multiplies_brightness_by_at_most_the_strength() -> None:
    images = torch.full((MANY, 3, 4, 4), 0.5)

    factors = pixels.jittered(images, generator())[:, 0, 0, 0] / 0.5

    assert factors.min() == pytest.approx(1 - pixels.JITTER, abs=0.01)
    assert factors.max() == pytest.approx(1 + pixels.JITTER, abs=0.01)


def test_jitter_is_brightness_then_contrast_then_saturation_in_the_unit_range() -> None:
    images = torch.rand(5, 3, 4, 4, generator=generator(1))
    draws = torch.rand(3, 5, 1, 1, 1, generator=generator(2)).double().numpy()

    found = pixels.jittered(images, generator(2)).numpy()

    for number, image in enumerate(images.double().numpy()):
        brightness, contrast, saturation = (0.6 + 0.8 * float(draws[kind, number, 0, 0, 0]) for kind in range(3))
        bright = brightness * image
        contrasted = bright.mean() + contrast * (bright - bright.mean())
        for row in range(4):
            for column in range(4):
                grey = contrasted[:, row, column].mean()
                expected = [grey + saturation * (value - grey) for value in contrasted[:, row, column]]
                np.testing.assert_allclose(found[number, :, row, column], np.clip(expected, 0, 1), atol=1e-5)


def test_a_backbone_represents_clean_images_as_the_other_stages_do() -> None:
    torch.manual_seed(0)
    module = create_backbone("test_resnet", classes=(), preprocessing=Preprocessing(16)).module
    images = noise(7).images

    found = represented(PreLogits(module), images)

    expected = represent(module, torch.from_numpy(images), Preprocessing(16))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not module.training
    assert not found.requires_grad


def test_a_backbone_in_training_is_close_to_itself_in_single_precision() -> None:
    torch.manual_seed(0)
    backbone = PreLogits(create_backbone("test_resnet", classes=(), preprocessing=Preprocessing(16)).module)
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # the running statistics are those of the last batch
    images = noise(64).images
    made = backbone.train()(pixels.normalised(pixels.unit_range(images)))

    again = represented(backbone, images)

    assert made.dtype == torch.float32
    assert made.requires_grad
    assert torch.corrcoef(torch.stack([made.detach().flatten(), again.flatten()]))[0, 1] > 0.99

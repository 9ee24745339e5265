import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models.augment import Augmentation, view
from models.backbone import Backbone, classify, load_backbone, represent
from models.dataset import Dataset, limited_index
from models.datasets import open_dataset
from models.representations import cache_representations
from models.representer import representer
from scripts import backbone_data, train_backbone
from scripts.backbone_data import Images, Schedule
from scripts.train_backbone import accuracy, train
from tests.offline import CLASSES, TORCH, packed_dataset, tensors, tiny_backbone
from tests.scripts.conftest import Stages

SCHEDULE = Schedule(
    epochs=2, batch_size=6, learning_rate=2e-3, weight_decay=0.05, label_smoothing=0.1, teacher_weight=4.0, seed=0
)
STEPS = 2 * 5  # 30 images in batches of 6, twice


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return packed_dataset(tmp_path_factory.mktemp("data"), per_class=5, seed=0)


def student(seed: int = 0) -> Backbone:
    """A backbone whose training also draws random numbers of its own."""
    return tiny_backbone(seed, drop_path_rate=0.2, drop_rate=0.2)


def images_of(dataset: Dataset, **changes: Any) -> Images:
    fields = {"dataset": dataset, "index": np.arange(len(dataset)), "augmentation": Augmentation(0.5)}
    return Images(**{**fields, "preprocessing": student().preprocessing, **changes})


def run(folder: Path, images: Images, schedule: Schedule = SCHEDULE, backbone: Backbone | None = None) -> Backbone:
    """Train as a stage would, with a checkpoint every second step."""
    backbone = backbone or student()
    train(backbone.module, images, schedule, folder, workers=0, checkpoint_every=2)
    return backbone


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def watched(dataset: Dataset, on_read: Callable[[int], None]) -> Dataset:
    """The data set, which calls `on_read` with the number of images read so far."""
    read = [0]

    def image(index: int) -> Image.Image:
        on_read(read[0])
        read[0] += 1
        return dataset.image(index)

    return replace(dataset, image=image)


def killing(dataset: Dataset, after: int) -> Dataset:
    def kill(read: int) -> None:
        if read >= after:
            raise Killed

    return watched(dataset, kill)


@pytest.fixture(scope="module")
def uninterrupted(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return run(tmp_path_factory.mktemp("whole"), images_of(dataset))


@pytest.mark.parametrize(("batches_read", "resumes_at"), [(1, 0), (3, 2), (5, 5), (9, 8)])
def test_a_killed_run_goes_on_to_the_very_same_weights(
    batches_read: int, resumes_at: int, dataset: Dataset, uninterrupted: Backbone, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, images_of(killing(dataset, after=6 * batches_read)))
    counts: list[int] = []

    resumed = run(tmp_path, images_of(watched(dataset, counts.append)))

    assert len(counts) == 6 * (STEPS - resumes_at)
    assert uninterrupted.hash == resumed.hash
    assert all(torch.equal(value, tensors(resumed)[key]) for key, value in tensors(uninterrupted).items())


def test_training_moves_weights_and_statistics(uninterrupted: Backbone) -> None:
    before, after = tensors(student()), tensors(uninterrupted)

    moved = [key for key in before if not torch.equal(before[key], after[key])]

    assert moved == list(before)
    assert not any(module.training for module in uninterrupted.module.modules())


def test_another_seed_gives_other_weights(dataset: Dataset, uninterrupted: Backbone, tmp_path: Path) -> None:
    assert run(tmp_path, images_of(dataset), replace(SCHEDULE, seed=1)).hash != uninterrupted.hash


@pytest.fixture(scope="module")
def begun(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint of a run that was killed."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.raises(Killed):
        run(folder, images_of(killing(dataset, after=18)))
    return folder


@pytest.mark.parametrize(
    "change", [{"epochs": 3}, {"batch_size": 5}, {"learning_rate": 1e-3}, {"label_smoothing": 0.0}, {"seed": 1}]
)
def test_a_run_of_another_schedule_is_refused(change: dict[str, Any], begun: Path, dataset: Dataset) -> None:
    with pytest.raises(SystemExit, match=r"checkpoint\.pt belongs to another schedule; choose another --out"):
        run(begun, images_of(dataset), replace(SCHEDULE, **change))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"index": np.arange(29)}, "images"),
        ({"augmentation": Augmentation(0.4)}, "augmentation"),
        ({"preprocessing": tiny_backbone(size=40).preprocessing}, "preprocessing"),
    ],
)
def test_a_run_on_other_views_is_refused(change: dict[str, Any], named: str, begun: Path, dataset: Dataset) -> None:
    with pytest.raises(SystemExit, match=f"belongs to another {named}; choose another --out"):
        run(begun, images_of(dataset, **change))


def test_a_run_of_another_model_is_refused(begun: Path, dataset: Dataset) -> None:
    with pytest.raises(SystemExit, match="belongs to another model; choose another --out"):
        run(begun, images_of(dataset), backbone=tiny_backbone(classes=CLASSES[:3]))


def test_accuracy_is_the_share_of_clean_views_classified_right(dataset: Dataset, uninterrupted: Backbone) -> None:
    index = limited_index(len(dataset), 17)
    images = images_of(dataset, index=index)
    with torch.inference_mode():
        right = [
            int(classify(uninterrupted.module, represented(uninterrupted, dataset, int(i))).argmax())
            == dataset.labels[i]
            for i in index
        ]

    assert accuracy(uninterrupted.module, images, "cpu", 0) == np.mean(right)


def represented(backbone: Backbone, dataset: Dataset, index: int) -> torch.Tensor:
    pixels = view(dataset.image(index), index, 0, Augmentation(), backbone.preprocessing)
    return represent(backbone.module, torch.from_numpy(pixels[None].copy()), backbone.preprocessing)


def test_an_easy_set_is_learned(trained: Stages) -> None:
    training = json.loads((trained.root / "backbone" / "training.json").read_text())
    backbone, test = load_backbone(trained.root / "backbone"), open_dataset(trained.path("train.npz"))

    losses = [epoch["loss"] for epoch in training["history"]]
    assert len(losses) == 5
    assert losses[-1] < 0.8 * losses[0]
    assert training["history"][-1]["validation_accuracy"] > 0.5
    assert accuracy(backbone.module, images_of(test, preprocessing=backbone.preprocessing), "cpu", 0) > 0.7


def test_a_trained_backbone_says_what_it_was_made_from(trained: Stages) -> None:
    backbone = load_backbone(trained.root / "backbone")

    assert backbone.classes == CLASSES
    assert backbone.preprocessing.size == 32
    assert backbone.training["data"] == trained.path("train.npz")
    assert (backbone.training["licence"], backbone.training["teacher"]) == ("CC0", "none")
    assert backbone.training["images"] == 192
    assert backbone.training["schedule"]["epochs"] == 5


def test_a_finished_run_started_again_changes_nothing(trained: Stages) -> None:
    before = load_backbone(trained.root / "backbone").hash
    recorded = json.loads((trained.root / "backbone" / "training.json").read_text())

    arguments = ["test_resnet", "--data", trained.path("train.npz"), "--size", "32", "--epochs", "5"]
    arguments += ["--batch-size", "24", "--licence", "CC0", "--device", "cpu", "--workers", "0"]
    train_backbone.main([*arguments, "--out", trained.path("backbone")])

    assert load_backbone(trained.root / "backbone").hash == before
    assert json.loads((trained.root / "backbone" / "training.json").read_text())["history"] == recorded["history"]


@pytest.fixture(scope="module")
def teacher(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another backbone's representations of two views of 24 of the images."""
    folder = tmp_path_factory.mktemp("teacher")
    cache_representations(
        tiny_backbone(seed=9),
        dataset,
        folder,
        augmented_views=2,
        augmentation=Augmentation(0.5, seed=3),
        index=limited_index(len(dataset), 24),
        dtype="float32",
        workers=0,
        device=TORCH,
    )
    return folder


def distil(dataset: Dataset, teacher: Path, out: Path, *more: str) -> dict[str, Any]:
    arguments = ["test_resnet", "--data", dataset.name, "--limit", "24", "--size", "32", "--teacher", str(teacher)]
    arguments += ["--batch-size", "6", "--device", "cpu", "--workers", "0", "--out", str(out), *more]
    train_backbone.main(arguments)
    found: dict[str, Any] = json.loads((out / "training.json").read_text())
    return found


def test_a_teacher_is_followed(dataset: Dataset, teacher: Path, tmp_path: Path) -> None:
    settings = ["--epochs", "6", "--teacher-weight", "50", "--teacher-note", "a network of random weights"]

    training = distil(dataset, teacher, tmp_path, *settings)

    losses = [epoch["loss"] for epoch in training["history"]]
    assert losses[-1] < 0.9 * losses[0]
    assert load_backbone(tmp_path).training["teacher"] == "a network of random weights"


def test_a_teachers_targets_are_its_representations_of_the_very_pixels_the_student_sees(
    dataset: Dataset, teacher: Path
) -> None:
    index = limited_index(len(dataset), 24)
    fingerprint = json.loads((teacher / "cache.json").read_text())["fingerprint"]
    loaded = backbone_data.load_teacher(teacher, fingerprint)
    represented_by_teacher = representer(tiny_backbone(seed=9), TORCH)
    images = images_of(dataset, index=index, augmentation=loaded.augmentation)

    for epoch in range(3):
        batches = list(backbone_data.batches(images, loaded, SCHEDULE, epoch, skipped=1, workers=0))
        assert len(batches) == 3
        for pixels, _, targets in batches:
            assert targets is not None
            raw = targets * loaded.scale + loaded.mean
            assert np.allclose(raw, represented_by_teacher(pixels), atol=1e-3)


def test_a_batch_pairs_each_image_with_its_label(dataset: Dataset) -> None:
    images = images_of(dataset, augmentation=Augmentation(min_scale=1.0, jitter=0.0))
    seen = []
    for pixels, labels, targets in backbone_data.batches(images, None, SCHEDULE, 0, skipped=0, workers=0):
        assert targets is None
        for picture, label in zip(pixels.numpy(), labels.tolist(), strict=True):
            candidates = [
                i
                for i in range(len(dataset))
                if np.array_equal(view(dataset.image(i), i, 1, images.augmentation, images.preprocessing), picture)
            ]
            assert len(candidates) == 1
            assert dataset.labels[candidates[0]] == label
            seen += candidates

    assert sorted(seen) == list(range(30))


def test_about_half_of_a_batch_is_mirrored_and_nothing_else_changes() -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (400, 4, 5, 3), dtype=np.uint8))
    torch.manual_seed(0)

    found = backbone_data.flipped(pixels)

    mirrored = (found == pixels.flip(2)).all(dim=3).all(dim=2).all(dim=1)
    same = (found == pixels).all(dim=3).all(dim=2).all(dim=1)
    assert (mirrored ^ same).all()
    assert 0.4 < mirrored.float().mean() < 0.6


def test_a_teacher_of_other_images_is_refused(dataset: Dataset, teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds other images; cache the teacher on the same --data and --limit"):
        distil(dataset, teacher, tmp_path, "--limit", "23")


def test_a_teacher_without_augmented_views_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    index = limited_index(len(dataset), 24)
    cache_representations(tiny_backbone(9), dataset, tmp_path / "teacher", index=index, workers=0, device=TORCH)

    with pytest.raises(SystemExit, match="has no augmented views; cache the teacher with --views"):
        distil(dataset, tmp_path / "teacher", tmp_path / "out")


def test_a_run_does_not_go_on_with_a_teacher_it_began_without(dataset: Dataset, teacher: Path, tmp_path: Path) -> None:
    distil(dataset, teacher, tmp_path, "--epochs", "1")

    arguments = ["test_resnet", "--data", dataset.name, "--limit", "24", "--size", "32", "--epochs", "1"]
    arguments += ["--batch-size", "6", "--device", "cpu", "--workers", "0", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"belongs to another .*teacher; choose another --out"):
        train_backbone.main(arguments)

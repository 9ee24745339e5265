import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.dataset import Dataset
from models.datasets import UNLABELLED, open_dataset
from models.selections import DatasetError
from scripts.fitting.split import (
    INSTANCES,
    SEEN_CLASSES,
    UNSEEN_CLASSES,
    FitError,
    Split,
    divide,
    keep_split,
    require_readable,
    require_usable,
)
from tests.offline import pictures, write_folder

BROKEN = 7


def dataset(counts: Sequence[int], classes: tuple[str, ...] | None = None) -> Dataset:
    """As many images of each class as `counts` says, in an order of chance; image 7 cannot be decoded."""
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))

    def image(index: int) -> Image.Image:
        if index % 10 == BROKEN:
            raise DatasetError(f"photo {index}: broken")
        return Image.new("RGB", (2, 2))

    names = classes or tuple(f"class {i}" for i in range(len(counts)))
    return Dataset("photos", labels, names, image, "fingerprint")


def parts(split: Split) -> list[set[int]]:
    return [set(part.tolist()) for part in (split.training, split.reference, split.evaluation)]


@pytest.mark.parametrize(
    ("counts", "classes", "kind"),
    [([8] * 10, None, UNSEEN_CLASSES), ([30, 9, 5], None, SEEN_CLASSES), ([70], UNLABELLED, INSTANCES)],
)
def test_every_image_is_of_one_part_and_equal_seeds_give_equal_parts(
    counts: list[int], classes: tuple[str, ...] | None, kind: str
) -> None:
    data = dataset(counts, classes)
    split, again, other = divide(data, seed=3), divide(data, seed=3), divide(data, seed=4)

    found = parts(split)
    assert split.kind == kind
    assert set.union(*found) == set(range(len(data)))
    assert sum(map(len, found)) == len(data)
    assert all((np.diff(part) > 0).all() for part in (split.training, split.reference, split.evaluation))
    assert parts(again) == found
    assert parts(other) != found


@pytest.mark.parametrize(("classes", "unseen"), [(10, 5), (24, 5), (25, 5), (30, 6), (100, 20)])
def test_a_fifth_of_ten_classes_or_more_is_unseen_but_five_at_least(classes: int, unseen: int) -> None:
    data = dataset([6] * classes)
    split = divide(data, seed=0)

    held = {data.classes[label] for label in data.labels[split.evaluation]}
    learned = {data.classes[label] for label in data.labels[np.concatenate([split.training, split.reference])]}
    assert len(split.unseen) == unseen
    assert held == set(split.unseen)
    assert learned.isdisjoint(held)
    assert learned | held == set(data.classes)
    rest = len(data) - split.evaluation.size
    assert split.evaluation.size == 6 * unseen
    assert split.reference.size == rest // 10


def test_of_few_classes_a_fifth_of_the_images_of_each_is_held_out() -> None:
    data = dataset([50, 10, 5, 3])
    split = divide(data, seed=0)

    assert np.bincount(data.labels[split.evaluation], minlength=4).tolist() == [10, 2, 2, 0]
    assert split.unseen == ()
    assert split.reference.size == (68 - 14) // 10


def test_of_images_without_classes_a_fifth_is_held_out() -> None:
    split = divide(dataset([64], UNLABELLED), seed=0)

    assert [part.size for part in (split.evaluation, split.reference, split.training)] == [12, 5, 47]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([30], "photos has the one class class 0: give at least two, or name the folder of its images itself"),
        ([30, 0], "photos has the one class class 0"),
        ([1, 30, 1], "classes of a single image, add another or take them out: class 0, class 2$"),
        ([1] * 12 + [30], r"class 8, class 9, and 2 more$"),
        ([10, 9], "photos has 19 images, and at least 20 are needed"),
    ],
)
def test_classes_and_images_that_are_too_few_are_refused(counts: list[int], message: str) -> None:
    with pytest.raises(FitError, match=message):
        require_usable(dataset(counts))


def test_enough_classes_and_images_are_not_refused() -> None:
    require_usable(dataset([10, 10]))
    require_usable(dataset([10, 0, 10]))
    require_usable(dataset([20], UNLABELLED))


def test_few_classes_of_too_few_images_are_refused() -> None:
    with pytest.raises(FitError, match="fewer than two classes have five images or more"):
        divide(dataset([30, 4, 4]), seed=0)


@pytest.mark.parametrize("workers", [0, 3])
def test_every_image_that_cannot_be_read_is_named_up_to_ten(workers: int) -> None:
    require_readable(dataset([7]), workers)
    with pytest.raises(FitError, match=r"2 images cannot be read; .*: photo 7: broken; photo 17: broken$"):
        require_readable(dataset([10, 10]), workers)
    with pytest.raises(FitError, match=r"^12 images .* photo 97: broken; and 2 more$"):
        require_readable(dataset([120]), workers)


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, *pictures(2, seed=0))
    (folder / "blue" / "lost.png").write_bytes(b"no image")

    with pytest.raises(FitError, match=r"1 images cannot be read; .*blue/lost\.png: "):
        require_readable(open_dataset(str(folder)), workers=1)


def test_the_split_is_kept_as_specs_name_it(tmp_path: Path) -> None:
    folder, path = write_folder(tmp_path / "photos", *pictures(6, seed=0)), tmp_path / "out" / "split.json"
    data = open_dataset(str(folder))
    split = divide(data, seed=0)

    keep_split(split, data, 0, path)
    keep_split(split, data, 0, path)

    assert json.loads(path.read_text())["kind"] == SEEN_CLASSES
    for name in ("training", "reference", "evaluation"):
        part, index = open_dataset(f"{folder}@{path}#{name}"), getattr(split, name)
        assert [part.classes[i] for i in part.labels] == [data.classes[i] for i in data.labels[index]]
        assert part.image(0).tobytes() == data.image(int(index[0])).tobytes()


@pytest.mark.parametrize("change", ["seed", "data"])
def test_a_split_of_other_images_or_another_seed_is_not_replaced(change: str, tmp_path: Path) -> None:
    path, data = tmp_path / "split.json", dataset([12] * 3)
    keep_split(divide(data, 0), data, 0, path)
    before = path.read_text()
    other = dataset([12, 12, 13]) if change == "data" else data

    with pytest.raises(FitError, match=r"split\.json was made with another .*; choose another --out"):
        keep_split(divide(other, 1), other, 1, path)

    assert path.read_text() == before


def test_a_split_says_in_words_what_it_is() -> None:
    assert str(divide(dataset([6] * 10), 0)) == (
        "27 images to learn from, 3 for reference, 30 to report on of 5 classes kept unseen"
    )
    assert str(divide(dataset([64], UNLABELLED), 0)) == "47 images to learn from, 5 for reference, 12 to report on"

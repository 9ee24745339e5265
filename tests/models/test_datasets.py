import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image

from models.dataset import concatenate, limited_index, select, select_classes
from models.datasets import UNLABELLED, open_dataset
from models.images import ImageLimits, decode_image
from models.selections import DatasetError
from tests.offline import CLASSES, encoded, packed_dataset, pictures, write_folder, write_packed


def pixels(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(image)


def numbered(count: int) -> list[Image.Image]:
    """Plain images that can be told apart: image i has red i."""
    return [Image.new("RGB", (4, 4), (i, 0, 0)) for i in range(count)]


def red(image: Image.Image) -> int:
    value = image.getpixel((0, 0))
    assert isinstance(value, tuple)
    return int(value[0])


def six(folder: Path, name: str = "six.npz") -> Path:
    """Images 0-5 of classes 0-5."""
    return write_packed(folder / name, numbered(6), np.arange(6))


def test_a_folder_has_one_class_per_sub_folder(tmp_path: Path) -> None:
    images, labels = pictures(2, seed=0)
    dataset = open_dataset(str(write_folder(tmp_path, images, labels)))

    order = np.argsort(labels, kind="stable")
    assert dataset.classes == CLASSES
    assert dataset.labels.tolist() == labels[order].tolist()
    assert dataset.labels.dtype == np.int64
    assert len(dataset) == 12
    for position, source in enumerate(order):
        assert np.array_equal(pixels(dataset.image(position)), pixels(images[source]))


def test_a_folder_ignores_what_is_no_image_and_looks_into_deeper_folders(tmp_path: Path) -> None:
    (tmp_path / "cats" / "2020").mkdir(parents=True)
    (tmp_path / "dogs").mkdir()
    (tmp_path / "cats" / "notes.txt").write_text("no image")
    numbered(1)[0].save(tmp_path / "cats" / "2020" / "A.PNG")
    numbered(1)[0].save(tmp_path / "dogs" / "b.png")

    assert open_dataset(str(tmp_path)).labels.tolist() == [0, 1]


def test_images_without_sub_folders_are_of_one_class(tmp_path: Path) -> None:
    for image in numbered(3):
        image.save(tmp_path / f"{2 - red(image)}.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()

    dataset = open_dataset(str(tmp_path))

    assert dataset.classes == UNLABELLED == ("images",)
    assert dataset.labels.tolist() == [0, 0, 0]
    assert [red(dataset.image(i)) for i in range(3)] == [2, 1, 0]


def test_images_beside_class_folders_are_left_out(tmp_path: Path) -> None:
    write_folder(tmp_path, numbered(2), np.arange(2))
    numbered(1)[0].save(tmp_path / "loose.png")

    assert len(open_dataset(str(tmp_path))) == 2


def test_packed_images_are_read_in_order(tmp_path: Path) -> None:
    images, labels = pictures(2, seed=0)
    dataset = open_dataset(str(write_packed(tmp_path / "a.npz", images, labels)))

    assert dataset.classes == CLASSES
    assert dataset.labels.tolist() == labels.tolist()
    for position, image in enumerate(images):
        assert np.array_equal(pixels(dataset.image(position)), pixels(image))


def test_a_glob_reads_its_shards_one_after_the_other(tmp_path: Path) -> None:
    for number in range(3):
        write_packed(tmp_path / f"train-{number}.npz", numbered(6)[2 * number : 2 * number + 2], np.array([number, 5]))

    dataset = open_dataset(f"{tmp_path}/train-*.npz")

    assert dataset.labels.tolist() == [0, 5, 1, 5, 2, 5]
    assert [red(dataset.image(i)) for i in range(6)] == [0, 1, 2, 3, 4, 5]


def test_a_plus_joins_data_sets_of_the_same_classes(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "folder", numbered(6), np.arange(6))
    joined = open_dataset(f"{six(tmp_path)}+{folder}")

    assert joined.labels.tolist() == [0, 1, 2, 3, 4, 5] * 2
    assert [red(joined.image(i)) for i in (0, 5, 6, 11)] == [0, 5, 0, 5]


def test_data_sets_of_different_classes_are_not_joined(tmp_path: Path) -> None:
    other = write_packed(tmp_path / "other.npz", numbered(2), np.arange(2), classes=("a", "b"))

    with pytest.raises(DatasetError, match="do not have the same classes; open them as separate data sets"):
        open_dataset(f"{six(tmp_path)}+{other}")


@pytest.mark.parametrize(
    ("ranges", "kept"),
    [("2-4", [2, 3, 4]), ("5", [5]), ("0,3-4", [0, 3, 4]), ("4,1", [4, 1]), ("0-5", [0, 1, 2, 3, 4, 5])],
)
def test_ranges_choose_classes_in_their_order(ranges: str, kept: list[int], tmp_path: Path) -> None:
    dataset = open_dataset(f"{six(tmp_path)}@{ranges}")

    assert dataset.classes == tuple(CLASSES[i] for i in kept)
    assert sorted(red(dataset.image(i)) for i in range(len(dataset))) == sorted(kept)
    assert all(dataset.classes[label] == CLASSES[red(dataset.image(i))] for i, label in enumerate(dataset.labels))


def test_a_list_in_a_file_chooses_classes(tmp_path: Path) -> None:
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"held": ["white", "amber"]}))

    dataset = open_dataset(f"{six(tmp_path)}@{splits}:held")

    assert dataset.classes == ("white", "amber")
    assert [(red(dataset.image(i)), int(dataset.labels[i])) for i in range(2)] == [(0, 1), (5, 0)]


def test_positions_in_a_file_choose_images_and_their_classes(tmp_path: Path) -> None:
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"held": [5, 0, 3], "nested": [2]}))

    dataset = open_dataset(f"{six(tmp_path)}@{splits}#held")

    assert [red(dataset.image(i)) for i in range(3)] == [5, 0, 3]
    assert dataset.classes == (CLASSES[0], CLASSES[3], CLASSES[5])
    assert dataset.labels.tolist() == [2, 0, 1]


def test_selections_follow_one_another(tmp_path: Path) -> None:
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"held": [2, 1]}))

    dataset = open_dataset(f"{six(tmp_path)}@2-5@{splits}#held")

    assert [red(dataset.image(i)) for i in range(2)] == [4, 3]
    assert dataset.classes == (CLASSES[3], CLASSES[4])


@pytest.mark.parametrize("held", [[], [6], [-1], [0, 1.5], ["amber"]])
def test_positions_that_are_none_are_refused(held: list[object], tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text(json.dumps({"held": held}))

    with pytest.raises(DatasetError, match="#held: expected positions of images, from 0 to 5"):
        open_dataset(f"{six(tmp_path)}@{tmp_path}/splits.json#held")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("0-6", "expected ranges within 0-5"),
        ("x", "expected ranges within 0-5, or FILE.json:KEY"),
        ("1-2-", "expected ranges within 0-5"),
        ("4-2", "expected ascending ranges"),
        ("1,0-2", "do not overlap"),
        ("{folder}/none.json:held", "none.json does not exist"),
        ("{folder}/splits.json:missing", "has no list 'missing', but held"),
        ("{folder}/splits.json#missing", "has no list 'missing', but held"),
        ("{folder}/splits.json:held", "no such classes in the data: mauve"),
    ],
)
def test_classes_that_cannot_be_chosen_say_why(classes: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "splits.json").write_text(json.dumps({"held": ["white", "mauve"]}))

    with pytest.raises(DatasetError, match=message):
        open_dataset(f"{six(tmp_path)}@{classes.format(folder=tmp_path)}")


def test_a_place_where_nothing_is_says_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere: no such folder or file"):
        open_dataset(f"{tmp_path}/nowhere")


def test_a_file_of_another_kind_says_what_is_expected(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"")
    with pytest.raises(
        DatasetError, match=r"expected a folder of class folders, packed \.npz files or torchvision:NAME"
    ):
        open_dataset(f"{tmp_path}/images.zip")


def test_an_empty_folder_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no images; expected one sub-folder of images per class"):
        open_dataset(str(tmp_path))


def test_a_file_without_packed_images_names_what_is_missing(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", labels=np.arange(2), classes=np.array(["a", "b"]))

    with pytest.raises(DatasetError, match="packed images need the arrays blob, offsets"):
        open_dataset(f"{tmp_path}/a.npz")


class Shapes:
    """A data set as torchvision makes them."""

    classes = ("circle", "square")

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        self.arguments = (root, train, download)
        self.targets = [0, 1, 1] if train else [1]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index >= len(self):
            raise IndexError(index)
        return Image.new("L", (8, 8), 10 * index), self.targets[index]


class Undownloadable(Shapes):
    """One that has no `download`, names its targets in no way and has no class names."""

    def __init__(self, root: str, split: str) -> None:
        super().__init__(root, split == "train")
        self.found, self.targets_of = self.targets, self.targets
        del self.targets

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index >= len(self):
            raise IndexError(index)
        return Image.new("RGB", (8, 8)), self.found[index]


def test_a_torchvision_set_is_opened_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "Shapes", Shapes, raising=False)

    dataset = open_dataset("torchvision:Shapes")

    assert dataset.classes == ("circle", "square")
    assert dataset.labels.tolist() == [0, 1, 1]
    assert dataset.image(2).mode == "RGB"
    assert red(dataset.image(2)) == 20


def test_options_reach_the_torchvision_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "Shapes", Shapes, raising=False)

    assert open_dataset("torchvision:Shapes?train=false").labels.tolist() == [1]
    assert open_dataset("torchvision:Shapes?train=false@1").classes == ("square",)


def test_a_torchvision_set_without_targets_is_read_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "Undownloadable", Undownloadable, raising=False)
    monkeypatch.setattr(Undownloadable, "classes", None)
    monkeypatch.delattr(Undownloadable, "classes")
    monkeypatch.delattr(Shapes, "classes")

    dataset = open_dataset("torchvision:Undownloadable?split=train")

    assert dataset.labels.tolist() == [0, 1, 1]
    assert dataset.classes == ("0", "1")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:NoSuchSet", "torchvision has no data set 'NoSuchSet'"),
        ("torchvision:Shapes?colour=red", "torchvision refuses: .*colour"),
        ("torchvision:FakeData?train=true", "torchvision refuses: .*train"),
    ],
)
def test_what_torchvision_cannot_open_is_refused_with_its_reason(
    spec: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchvision.datasets, "Shapes", Shapes, raising=False)

    with pytest.raises(DatasetError, match=message):
        open_dataset(spec)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["folder", "packed"])
def test_images_stand_upright_as_exif_says(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = pictures(1, seed=3)[0][1]
    data = encoded(stored, "PNG", exif=exif)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "photo.png").write_bytes(data)
    packed = write_packed(tmp_path / "a.npz", [data], np.array([0]), classes=("a",))

    found = open_dataset(str(tmp_path if kind == "folder" else packed)).image(0)

    turned = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # the values of Image.Transpose
    expected = stored.transpose(Image.Transpose(turned[orientation])) if orientation > 1 else stored
    assert np.array_equal(pixels(found), pixels(expected))


@pytest.mark.parametrize(
    ("image", "form", "options"),
    [
        (pictures(1, seed=1)[0][0], "PNG", {}),
        (pictures(1, seed=1)[0][1], "JPEG", {"quality": 90}),
        (pictures(1, seed=1)[0][2], "WEBP", {"lossless": True}),
        (pictures(1, seed=1)[0][3].convert("L"), "JPEG", {}),
        (pictures(1, seed=1)[0][4].convert("CMYK"), "JPEG", {}),
        (pictures(1, seed=1)[0][5].convert("P"), "GIF", {}),
        (Image.new("RGBA", (9, 7), (200, 0, 0, 64)), "PNG", {}),
        (Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000), "PNG", {}),
    ],
    ids=["png", "jpeg", "webp", "grey", "cmyk", "palette", "transparent", "16-bit"],
)
def test_images_are_decoded_as_the_server_decodes_them(
    image: Image.Image, form: str, options: dict[str, object], tmp_path: Path
) -> None:
    data = encoded(image, form, **options)
    dataset = open_dataset(str(write_packed(tmp_path / "a.npz", [data], np.array([0]), classes=("a",))))

    assert np.array_equal(pixels(dataset.image(0)), pixels(decode_image(data, ImageLimits())))


def test_plain_rgb_is_decoded_as_pillow_does(tmp_path: Path) -> None:
    data = encoded(pictures(1, seed=1)[0][0], "JPEG", quality=80)
    (tmp_path / "photo.jpg").write_bytes(data)
    dataset = open_dataset(str(write_packed(tmp_path / "a.npz", [data], np.array([0]), classes=("a",))))

    with Image.open(tmp_path / "photo.jpg") as image:
        assert np.array_equal(pixels(dataset.image(0)), pixels(image))


@pytest.mark.parametrize("kind", ["folder", "packed"])
def test_a_broken_image_is_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.png").write_bytes(b"no image")
    packed = write_packed(tmp_path / "a.npz", [b"no image"], np.array([0]), classes=("a",))
    dataset = open_dataset(str(tmp_path if kind == "folder" else packed))

    with pytest.raises(DatasetError, match=r"broken\.png: " if kind == "folder" else r"a\.npz, image 0: "):
        dataset.image(0)


def test_selection_keeps_image_and_label_together_in_the_asked_order(tmp_path: Path) -> None:
    dataset = open_dataset(str(six(tmp_path)))

    chosen = select(select(dataset, np.array([5, 3, 1, 0])), np.array([2, 0]))

    assert chosen.labels.tolist() == [1, 5]
    assert [red(chosen.image(i)) for i in range(2)] == [1, 5]


def test_the_fingerprint_follows_content_and_selection(tmp_path: Path) -> None:
    dataset = packed_dataset(tmp_path, per_class=1, seed=0)
    folder = write_folder(tmp_path / "folder", *pictures(1, seed=0))

    fingerprints = [
        dataset.fingerprint,
        packed_dataset(tmp_path, per_class=1, seed=1).fingerprint,
        open_dataset(
            str(write_packed(tmp_path / "2.npz", pictures(1, seed=0)[0], np.zeros(6, dtype=np.int64)))
        ).fingerprint,
        select(dataset, np.arange(6)).fingerprint,
        select(dataset, np.arange(5)).fingerprint,
        select(dataset, np.arange(6)[::-1]).fingerprint,
        select_classes(dataset, CLASSES[:3], "three").fingerprint,
        concatenate([dataset, dataset], "twice").fingerprint,
        open_dataset(str(folder)).fingerprint,
    ]

    assert len(set(fingerprints)) == len(fingerprints)
    assert packed_dataset(tmp_path, per_class=1, seed=0).fingerprint == dataset.fingerprint
    (folder / "amber" / "extra.png").write_bytes(encoded(numbered(1)[0]))
    assert open_dataset(str(folder)).fingerprint != fingerprints[-1]


def test_a_limit_draws_distinct_images_in_order_and_the_same_every_time() -> None:
    drawn = limited_index(1000, 100)

    assert drawn.size == 100
    assert (np.diff(drawn) > 0).all()
    assert drawn.max() > 800
    assert drawn.min() < 200
    assert np.array_equal(drawn, limited_index(1000, 100))
    assert not np.array_equal(drawn, limited_index(1000, 100, seed=1))


@pytest.mark.parametrize("limit", [None, 7, 100])
def test_no_limit_or_a_high_one_takes_everything(limit: int | None) -> None:
    assert limited_index(7, limit).tolist() == list(range(7))


def test_images_are_reduced_to_a_short_side_and_never_enlarged(tmp_path: Path) -> None:
    path = write_packed(tmp_path / "a.npz", *pictures(1, 0))
    whole = open_dataset(str(path))

    small = open_dataset(f"{path}@1-2~18")

    assert small.image(0).size == (20, 18)  # of 40 by 36
    expected = whole.image(1).resize((20, 18), Image.Resampling.BOX)
    assert np.array_equal(np.asarray(small.image(0)), np.asarray(expected))
    assert open_dataset(f"{path}~99").image(0).size == whole.image(0).size
    assert len({whole.fingerprint, small.fingerprint, open_dataset(f"{path}@1-2").fingerprint}) == 3


@pytest.mark.parametrize("side", ["0", "big", "-3"])
def test_a_size_that_is_none_is_refused(side: str, tmp_path: Path) -> None:
    path = write_packed(tmp_path / "a.npz", *pictures(1, 0))

    with pytest.raises(DatasetError, match=f"~{side}: expected the largest short side in pixels"):
        open_dataset(f"{path}~{side}")

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from models import representations
from models.augment import Augmentation, view
from models.backbone import Backbone, create_backbone, represent, represent_layers
from models.dataset import Dataset, limited_index
from models.preprocess import Preprocessing
from models.representations import CacheError, cache_representations, load_representations
from models.representer import representer
from tests.offline import CLASSES, TORCH, packed_dataset, tensors, tiny_backbone


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return packed_dataset(tmp_path_factory.mktemp("data"), per_class=4, seed=0)


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return tiny_backbone()


def cached(backbone: Backbone, dataset: Dataset, folder: Path, **options: Any) -> representations.Representations:
    """A small cache, made in torch."""
    settings: dict[str, Any] = {"augmented_views": 2, "batch_size": 5, "workers": 0, "device": TORCH}
    return cache_representations(backbone, dataset, folder, **{**settings, **options})


def in_torch(backbone: Backbone, pixels: np.ndarray[Any, Any], layers: bool = False) -> np.ndarray[Any, Any]:
    """Representations (n, f) of (n, h, w, 3) uint8 in evaluation mode, one image at a time."""
    function, module = represent_layers if layers else represent, backbone.module.eval()
    with torch.inference_mode():
        rows = [function(module, torch.from_numpy(p[None]), backbone.preprocessing) for p in pixels]
    return torch.cat(rows).numpy()


def test_a_cache_holds_every_view_of_every_image(backbone: Backbone, dataset: Dataset, tmp_path: Path) -> None:
    augmentation = Augmentation(min_scale=0.3, jitter=0.2, seed=5)
    index = limited_index(len(dataset), 9)

    found = cached(backbone, dataset, tmp_path, augmentation=augmentation, index=index, dtype="float32")

    assert found.views.shape == (3, 9, 96)
    assert found.views.dtype == np.float32
    assert isinstance(found.views, np.memmap)
    assert found.labels.tolist() == dataset.labels[index].tolist()
    assert found.index.tolist() == index.tolist()
    for number in range(3):
        pixels = [view(dataset.image(int(i)), int(i), number, augmentation, backbone.preprocessing) for i in index]
        assert np.allclose(found.views[number], in_torch(backbone, np.stack(pixels)), atol=1e-4)
    assert np.array_equal(found.clean, found.views[0])
    assert np.array_equal(found.features, found.views)
    assert found.dimension == 96


def test_a_cache_of_layers_holds_their_statistics_beside_the_pooled_columns(
    backbone: Backbone, dataset: Dataset, tmp_path: Path
) -> None:
    augmentation = Augmentation(min_scale=0.3, jitter=0.2, seed=5, degraded=0.5)
    settings: dict[str, Any] = {"augmentation": augmentation, "index": np.arange(7), "dtype": "float32"}

    found = cached(backbone, dataset, tmp_path / "layers", layers=True, **settings)
    pooled = cached(backbone, dataset, tmp_path / "pooled", **settings)

    assert found.features.shape == (3, 7, 905)
    assert found.dimension == 96
    assert isinstance(found.features, np.memmap)
    assert found.description["layers"]
    assert np.allclose(found.views, pooled.features, atol=1e-5)
    assert np.array_equal(found.views, found.features[:, :, :96])
    assert np.array_equal(found.clean, found.features[0, :, :96])
    for number in range(3):
        pixels = [view(dataset.image(i), i, number, augmentation, backbone.preprocessing) for i in range(7)]
        expected = in_torch(backbone, np.stack(pixels), layers=True)
        assert np.allclose(found.features[number], expected, rtol=1e-4, atol=1e-4)


def test_a_cache_says_what_it_was_made_from(backbone: Backbone, dataset: Dataset, tmp_path: Path) -> None:
    description = cached(backbone, dataset, tmp_path, index=np.arange(3)).description

    assert description["backbone_hash"] == backbone.hash
    assert description["dataset"] == dataset.name
    assert description["classes"] == list(CLASSES)
    assert (description["layers"], description["dimension"]) == (False, 96)
    assert json.loads((tmp_path / "cache.json").read_text()) == description


def test_half_precision_is_the_default_and_loses_little(backbone: Backbone, dataset: Dataset, tmp_path: Path) -> None:
    half = cached(backbone, dataset, tmp_path / "half")
    full = cached(backbone, dataset, tmp_path / "full", dtype="float32")

    assert half.views.dtype == np.float16
    assert np.allclose(half.views, full.views, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_worker_processes_change_nothing(backbone: Backbone, dataset: Dataset, tmp_path: Path) -> None:
    alone = cached(backbone, dataset, tmp_path / "alone")
    helped = cached(backbone, dataset, tmp_path / "helped", workers=2)

    assert np.array_equal(alone.views, helped.views)


class Interrupted(Exception):
    """Stands for a kill."""


def interrupting(dataset: Dataset, after: int) -> Dataset:
    """The data set, which is interrupted once `after` images were read."""
    read = [0]

    def image(index: int) -> Image.Image:
        read[0] += 1
        if read[0] > after:
            raise Interrupted
        return dataset.image(index)

    return replace(dataset, image=image)


def counting(dataset: Dataset) -> tuple[Dataset, list[int]]:
    """The data set and the list of what is read from it."""
    read: list[int] = []

    def image(index: int) -> Image.Image:
        read.append(index)
        return dataset.image(index)

    return replace(dataset, image=image), read


def test_an_interrupted_cache_goes_on_where_it_stopped(backbone: Backbone, dataset: Dataset, tmp_path: Path) -> None:
    whole = cached(backbone, dataset, tmp_path / "whole", batch_size=1)
    with pytest.raises(Interrupted):
        cached(backbone, interrupting(dataset, after=67), tmp_path / "cache", batch_size=1)

    with pytest.raises(CacheError, match="is unfinished; run `candor cache-representations` again"):
        load_representations(tmp_path / "cache", backbone.hash)
    rest, read = counting(dataset)
    found = cached(backbone, rest, tmp_path / "cache", batch_size=1)

    assert len(read) == 3 * len(dataset) - 64
    assert np.array_equal(found.views, whole.views)
    assert found.labels.tolist() == whole.labels.tolist()


def test_what_was_stopped_before_anything_counted_may_be_made_otherwise(
    backbone: Backbone, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        cached(backbone, interrupting(dataset, after=12), tmp_path, dtype="float16")

    found = cached(backbone, dataset, tmp_path, dtype="float32", augmented_views=1)

    assert found.views.dtype == np.float32
    assert found.views.shape == (2, len(dataset), 96)


def test_a_finished_cache_is_read_not_made_again(backbone: Backbone, dataset: Dataset, tmp_path: Path) -> None:
    first = np.array(cached(backbone, dataset, tmp_path).views)
    again, read = counting(dataset)

    assert np.array_equal(cached(backbone, again, tmp_path).views, first)
    assert read == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"backbone": tiny_backbone(seed=1)}, "backbone_hash"),
        ({"backbone": replace(tiny_backbone(), preprocessing=Preprocessing(40))}, "backbone_hash"),
        ({"index": np.arange(7)}, "fingerprint"),
        ({"augmented_views": 1}, "views"),
        ({"augmentation": Augmentation(jitter=0.1)}, "augmentation"),
        ({"augmentation": Augmentation(seed=1)}, "augmentation"),
        ({"augmentation": Augmentation(degraded=0.3)}, "augmentation"),
        ({"layers": True}, "layers"),
        ({"dtype": "float32"}, "dtype"),
    ],
)
def test_a_cache_made_otherwise_is_refused(
    change: dict[str, Any], named: str, backbone: Backbone, dataset: Dataset, tmp_path: Path
) -> None:
    cached(backbone, dataset, tmp_path)
    arguments = {"backbone": backbone, "dataset": dataset, "folder": tmp_path, **change}

    with pytest.raises(CacheError, match=f"was made with another {named}; choose another folder"):
        cached(**arguments)


def test_a_cache_of_other_images_is_refused(backbone: Backbone, dataset: Dataset, tmp_path: Path) -> None:
    cached(backbone, dataset, tmp_path / "cache")
    other = packed_dataset(tmp_path, per_class=4, seed=1)

    with pytest.raises(CacheError, match="was made with another dataset, fingerprint; choose another folder"):
        cached(backbone, other, tmp_path / "cache")


@pytest.mark.parametrize("other", [tiny_backbone(seed=1), replace(tiny_backbone(), preprocessing=Preprocessing(40))])
def test_a_cache_opens_only_with_its_own_backbone_and_preprocessing(
    other: Backbone, backbone: Backbone, dataset: Dataset, tmp_path: Path
) -> None:
    cached(backbone, dataset, tmp_path)

    with pytest.raises(
        CacheError, match=r"was made with backbone and preprocessing .* cache it again in another folder"
    ):
        load_representations(tmp_path, other.hash)


def test_a_cache_of_an_older_format_is_refused(backbone: Backbone, dataset: Dataset, tmp_path: Path) -> None:
    cached(backbone, dataset, tmp_path)
    description = json.loads((tmp_path / "cache.json").read_text())
    del description["dimension"], description["layers"]
    (tmp_path / "cache.json").write_text(json.dumps(description))

    with pytest.raises(CacheError, match="is of an older format; cache it again in another folder"):
        load_representations(tmp_path, backbone.hash)
    with pytest.raises(CacheError, match="was made with another layers, dimension; choose another folder"):
        cached(backbone, dataset, tmp_path)


def test_a_folder_without_a_cache_says_how_to_make_one(backbone: Backbone, tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="holds no representations; make them with `candor cache-representations`"):
        load_representations(tmp_path, backbone.hash)


def test_values_beyond_half_precision_are_refused(
    backbone: Backbone, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def huge(backbone: Backbone, device: str, layers: bool) -> Callable[[torch.Tensor], np.ndarray[Any, Any]]:
        return lambda images: np.full((len(images), 96), 7e4, dtype=np.float32)

    monkeypatch.setattr(representations, "representer", huge)

    with pytest.raises(CacheError, match="exceed float16; cache with --dtype float32"):
        cached(backbone, dataset, tmp_path / "half")
    assert cached(backbone, dataset, tmp_path / "full", dtype="float32").views.max() == pytest.approx(7e4)


@pytest.mark.parametrize("device", ["cpu", TORCH])
def test_caching_leaves_a_module_left_in_training_mode_as_it_was(device: str, dataset: Dataset, tmp_path: Path) -> None:
    expected = cached(tiny_backbone(), dataset, tmp_path / "expected", dtype="float32", augmented_views=0)
    backbone = tiny_backbone()
    backbone.module.train()
    before = tensors(backbone)

    found = cached(backbone, dataset, tmp_path / "found", dtype="float32", augmented_views=0, device=device)

    after = tensors(backbone)
    assert any("running_mean" in key for key in before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(parameter.grad is None for parameter in backbone.module.parameters())
    assert np.allclose(found.views, expected.views, atol=1e-4)


def test_the_graph_agrees_with_torch(backbone: Backbone) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (19, 32, 32, 3), dtype=np.uint8))

    graph, torch_ = representer(backbone, "cpu")(pixels), representer(backbone, TORCH)(pixels)

    assert graph.shape == (19, 96)
    assert np.abs(graph - torch_).max() <= 1e-4
    assert np.abs(torch_ - in_torch(backbone, pixels.numpy())).max() <= 1e-4


def tiny_vit() -> Backbone:
    torch.manual_seed(0)
    return create_backbone("test_vit", classes=("a", "b"), args={"img_size": 32}, preprocessing=Preprocessing(32))


@pytest.mark.parametrize("made", [tiny_backbone(), tiny_vit()], ids=["convolutions", "vit"])
def test_the_graph_of_all_layers_agrees_with_torch(made: Backbone) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (11, 32, 32, 3), dtype=np.uint8))

    graph, torch_ = representer(made, "cpu", layers=True)(pixels), representer(made, TORCH, layers=True)(pixels)

    assert graph.shape == torch_.shape
    assert np.allclose(graph, torch_, rtol=1e-3, atol=1e-4)
    assert np.allclose(torch_, in_torch(made, pixels.numpy(), layers=True), rtol=1e-3, atol=1e-4)
    assert np.abs(torch_[:, : in_torch(made, pixels.numpy()).shape[1]] - in_torch(made, pixels.numpy())).max() <= 1e-4


def test_a_backbone_stays_on_its_device(backbone: Backbone) -> None:
    representer(backbone, "meta")

    assert {parameter.device.type for parameter in backbone.module.parameters()} == {"cpu"}

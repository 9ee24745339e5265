"""Cached representations: what a frozen backbone says of a data set, computed once and read as a memory map.

A folder holds `representations.npy` (1 + k, n, f), view 0 clean and views 1..k augmented, the pooled pre-logits in the
first d columns and, where they were asked for, statistics of all layers in the others; `labels.npy` (n,);
`index.npy` (n,), the images' positions in the data set; and `cache.json`, which says what they were made from and how
far it got.
"""

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from models.augment import Augmentation
from models.backbone import Backbone, represent
from models.dataset import Dataset, select
from models.errors import UserError
from models.representer import representer
from models.views import Views, view_batches

ARRAY_FILE = "representations.npy"
DESCRIPTION_FILE = "cache.json"


class CacheError(UserError):
    """A cache that must not be used; the message says why and what to do."""


@dataclass(frozen=True)
class Representations:
    """Cached representations: `features` is (1 + k, n, f), view 0 clean; `labels` and `index` are (n,).

    The first `dimension` columns are the pooled pre-logits; what follows are the statistics of `represent_layers`.
    """

    features: NDArray[np.floating]
    dimension: int
    labels: NDArray[np.int64]
    index: NDArray[np.int64]
    description: dict[str, Any]

    @property
    def views(self) -> NDArray[np.floating]:
        """(1 + k, n, d), the pooled pre-logits of every view."""
        return self.features[:, :, : self.dimension]

    @property
    def clean(self) -> NDArray[np.floating]:
        """(n, d), the representations of the evaluation view."""
        clean: NDArray[np.floating] = self.views[0]
        return clean


def cache_representations(
    backbone: Backbone,
    dataset: Dataset,
    folder: Path,
    *,
    augmented_views: int = 0,
    augmentation: Augmentation | None = None,
    index: NDArray[np.int64] | None = None,
    layers: bool = False,
    dtype: Literal["float16", "float32"] = "float16",
    batch_size: int = 64,
    workers: int = 2,
    device: str = "cpu",
) -> Representations:
    """Compute what the folder does not hold yet, and open it.

    `index` (n,) says which images of the data set; all of them by default. With `layers`, the statistics of every
    stage's feature map are kept beside the pooled pre-logits.

    Raises:
        CacheError: when the folder was made from anything else, or a value does not fit the dtype.
    """
    augmentation = augmentation or Augmentation()
    index = np.arange(len(dataset), dtype=np.int64) if index is None else index
    description = {
        "backbone_hash": backbone.hash,
        "dataset": dataset.name,
        "fingerprint": select(dataset, index).fingerprint,
        "classes": list(dataset.classes),
        "views": 1 + augmented_views,
        "augmentation": asdict(augmentation),
        "layers": layers,
        "dimension": _dimension(backbone),
        "dtype": dtype,
    }
    done = _prepare(folder, description, dataset.labels[index], index)
    total = (1 + augmented_views) * index.size
    if done < total:
        numbers, images = np.divmod(np.arange(done, total), index.size)
        views = Views(dataset, index[images], numbers, augmentation, backbone.preprocessing)
        _fill(
            backbone, views, folder, description, (1 + augmented_views, index.size), done, batch_size, workers, device
        )
    return load_representations(folder, backbone.hash)


def load_representations(folder: Path, backbone_hash: str) -> Representations:
    """Open a finished cache.

    Raises:
        CacheError: when it is missing, unfinished, of an older format, or made with another backbone or preprocessing.
    """
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        raise CacheError(f"{folder} holds no representations; make them with `candor cache-representations`")
    description = json.loads(path.read_text())
    if description["backbone_hash"] != backbone_hash:
        raise CacheError(
            f"{folder} was made with backbone and preprocessing {description['backbone_hash'][:19]}, "
            f"not with {backbone_hash[:19]}; cache it again in another folder"
        )
    if "dimension" not in description:
        raise CacheError(f"{folder} is of an older format; cache it again in another folder")
    labels, index = np.load(folder / "labels.npy"), np.load(folder / "index.npy")
    if description["done"] < description["views"] * index.size:
        raise CacheError(f"{folder} is unfinished; run `candor cache-representations` again and it goes on")
    features = np.load(folder / ARRAY_FILE, mmap_mode="r")
    return Representations(features, description["dimension"], labels, index, description)


def _dimension(backbone: Backbone) -> int:
    """d, the size of the pooled pre-logits."""
    side = backbone.preprocessing.size
    module = copy.deepcopy(backbone.module).eval().cpu()
    with torch.inference_mode():
        return represent(module, torch.zeros(1, side, side, 3, dtype=torch.uint8), backbone.preprocessing).shape[1]


def _prepare(folder: Path, description: dict[str, Any], labels: NDArray[np.int64], index: NDArray[np.int64]) -> int:
    """Number of rows the folder already holds; a new folder is started."""
    path = folder / DESCRIPTION_FILE
    if path.is_file():
        found = json.loads(path.read_text())
        differing = [key for key, value in description.items() if found.get(key) != value]
        if differing:
            raise CacheError(f"{folder} was made with another {', '.join(differing)}; choose another folder")
        return int(found["done"])
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "index.npy", index)
    return 0


def _fill(
    backbone: Backbone,
    views: Views,
    folder: Path,
    description: dict[str, Any],
    shape: tuple[int, int],
    done: int,
    batch_size: int,
    workers: int,
    device: str,
) -> None:
    represented = representer(backbone, device, description["layers"])
    array: np.memmap[Any, Any] | None = None
    with tqdm(total=shape[0] * shape[1], initial=done, desc=f"cache {folder.name}", unit="img") as bar:
        for number, images in enumerate(view_batches(views, batch_size, workers)):
            values = represented(images)  # (b, f)
            if description["dtype"] == "float16" and np.abs(values).max() > np.finfo(np.float16).max:
                raise CacheError(f"{folder}: representations exceed float16; cache with --dtype float32")
            if array is None:
                array = _open_array(folder / ARRAY_FILE, (*shape, values.shape[1]), description["dtype"], done)
            array.reshape(-1, values.shape[1])[done : done + len(values)] = values  # ((1 + k) n, d)
            done += len(values)
            bar.update(len(values))
            if number % 64 == 63 or done == shape[0] * shape[1]:
                array.flush()
                _write_json(folder / DESCRIPTION_FILE, {**description, "done": done})


def _open_array(path: Path, shape: tuple[int, ...], dtype: str, done: int) -> "np.memmap[Any, Any]":
    """The array to go on with, or a new one: a file without a row that counts may be of any shape."""
    if done:
        return np.lib.format.open_memmap(path, mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """Replace the file in one step, so that a kill leaves the old or the new one."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(path)

"""Views of a data set's images, clean and augmented, in batches ready for a backbone."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from models.augment import Augmentation, view
from models.dataset import Dataset
from models.preprocess import Preprocessing


class Views(TorchDataset[Tensor]):
    """Item j is a (size, size, 3) uint8 view: of image `images[j]`, number `numbers[j]`."""

    def __init__(
        self,
        dataset: Dataset,
        images: NDArray[np.int64],
        numbers: NDArray[np.int64],
        augmentation: Augmentation,
        preprocessing: Preprocessing,
    ) -> None:
        self._dataset, self._images, self._numbers = dataset, images, numbers
        self._augmentation, self._preprocessing = augmentation, preprocessing

    def __len__(self) -> int:
        return int(self._images.size)

    def __getitem__(self, item: int) -> Tensor:
        index = int(self._images[item])
        image = self._dataset.image(index)
        number = int(self._numbers[item])
        return torch.from_numpy(np.array(view(image, index, number, self._augmentation, self._preprocessing)))


def view_batches(views: Views, batch_size: int, workers: int) -> DataLoader[Tensor]:
    """Batches (b, size, size, 3) in order; worker processes are forked, since a data set's reader cannot be pickled."""
    context = "fork" if workers else None
    return DataLoader(views, batch_size, num_workers=workers, multiprocessing_context=context)

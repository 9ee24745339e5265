"""A frozen backbone as a function from uint8 images to representations, fast on a CPU as on a GPU."""

import copy
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.backbone import Backbone, represent, represent_layers
from models.graph import export_graph, open_graph


class _Representing(nn.Module):
    """A backbone as a module from uint8 images to representations."""

    def __init__(self, backbone: Backbone, layers: bool) -> None:
        super().__init__()
        self.module, self._preprocessing = backbone.module, backbone.preprocessing
        self._represent = represent_layers if layers else represent

    def forward(self, image: Tensor) -> Tensor:
        return self._represent(self.module, image, self._preprocessing)


def representer(backbone: Backbone, device: str, layers: bool = False) -> Callable[[Tensor], NDArray[np.float32]]:
    """A function from (b, h, w, 3) uint8 to (b, f) representations by the frozen backbone, in evaluation mode.

    On a CPU it runs as an ONNX graph, which is several times faster there; elsewhere in torch.
    """
    if device == "cpu":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "representations.onnx"
            export_representer(backbone, path, layers)
            run = open_graph(path, batch_size=8)
        return lambda images: run(images.numpy())[0]
    module = copy.deepcopy(_Representing(backbone, layers)).eval().to(device)  # the caller's stays where it is

    def represented(images: Tensor) -> NDArray[np.float32]:
        with torch.inference_mode():
            values: NDArray[np.float32] = module(images.to(device)).float().cpu().numpy()
        return values

    return represented


def export_representer(backbone: Backbone, path: Path, layers: bool = False) -> None:
    """Write the frozen backbone as an ONNX graph from uint8 (b, h, w, 3) to `representation` (b, f)."""
    side = backbone.preprocessing.size
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    export_graph(_Representing(backbone, layers), example, path, ["representation"])

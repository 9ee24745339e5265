"""A trained head on disk: its weights as safetensors, and JSON that says which method it is and how it was made."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from models.errors import UserError
from models.methods.base import Head, Sizes
from models.methods.registry import METHODS, make_head

WEIGHTS_FILE = "head.safetensors"
DESCRIPTION_FILE = "head.json"
BLOCK = 4096  # images scored at a time


class HeadError(UserError):
    """A head that cannot be loaded; the message says what to do."""


@dataclass(frozen=True)
class TrainedHead:
    """A head and what it was made from."""

    module: Head
    description: Mapping[str, Any]

    @property
    def layers(self) -> bool:
        """Whether its features hold more than the pooled pre-logits: the statistics of `represent_layers`."""
        return self.module.sizes.features > self.module.sizes.dimension


def save_head(
    head: Head, method: str, options: Mapping[str, Any], folder: Path, description: Mapping[str, Any]
) -> None:
    """Write weights and buffers, and the description, to which method, options and sizes are added."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous().cpu() for key, value in head.state_dict().items()}, folder / WEIGHTS_FILE)
    made = {"method": method, "options": dict(options), "sizes": asdict(head.sizes)}
    (folder / DESCRIPTION_FILE).write_text(json.dumps({**description, **made}, indent=1, default=float) + "\n")


def load_head(folder: Path, backbone_hash: str) -> TrainedHead:
    """Read a head folder, in evaluation mode.

    Raises:
        HeadError: when there is none, it was trained behind another backbone, or its method is not known.
    """
    for name in (DESCRIPTION_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise HeadError(f"{folder} is no head: {name} is missing; make one with `candor train-head`")
    description = json.loads((folder / DESCRIPTION_FILE).read_text())
    if description["backbone_hash"] != backbone_hash:
        raise HeadError(
            f"{folder} was trained behind backbone {description['backbone_hash'][:19]}, not {backbone_hash[:19]}; "
            "train a head for this backbone"
        )
    if description.get("method") not in METHODS:
        raise HeadError(f"{folder} is of the unknown method {description.get('method')!r}; train it again")
    head = make_head(description["method"], Sizes(**description["sizes"]), **description["options"])
    head.load_state_dict(load_file(folder / WEIGHTS_FILE))
    return TrainedHead(head.eval(), description)


def predict(head: Head, features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Uncertainty (n,) of features (n, f), in evaluation mode."""
    return _in_blocks(head, head, features)


def embed(head: Head, features: NDArray[np.floating]) -> NDArray[np.float32]:
    """Embeddings (n, d') of unit length of features (n, f), in evaluation mode."""
    return _in_blocks(head, head.embed, features)


def _in_blocks(head: Head, function: Callable[[Tensor], Tensor], features: NDArray[np.floating]) -> NDArray[np.float32]:
    head.eval()
    with torch.inference_mode():
        parts = [
            function(torch.from_numpy(features[start : start + BLOCK].astype(np.float32))).numpy()
            for start in range(0, len(features), BLOCK)
        ]
    return np.concatenate(parts)

"""The uncertainty head: a small network behind a frozen backbone that predicts a loss."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import UserError

WEIGHTS_FILE = "head.safetensors"
DESCRIPTION_FILE = "head.json"


class HeadError(UserError):
    """A head that cannot be loaded; the message says what to do."""


class UncertaintyHead(nn.Module):
    """Pooled pre-logits e (b, d) to uncertainty u > 0 (b,), higher is less sure.

    The input is z = e/|e| beside log|e|, standardised by `mean` and `scale` of the training set, then the layers of the
    PVU recipe: two hidden layers with LeakyReLU, one output with Softplus.

    Source: Kirchhof et al., arXiv:2402.16569; input scaling by direction and length is ours.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, dimension: int, hidden: int = 512, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dimension + 1))
        self.register_buffer("scale", torch.ones(dimension + 1))
        self.layers = nn.Sequential(
            nn.Linear(dimension + 1, hidden),
            nn.LeakyReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )

    def forward(self, representation: Tensor) -> Tensor:
        """Raw uncertainty (b,). No gradient reaches the representation (StopGrad)."""
        features = (direction_and_length(representation.detach()) - self.mean) / self.scale  # (b, d + 1)
        return F.softplus(self.layers(features)).squeeze(1) + 1e-6

    def fit_scaling(self, representation: Tensor) -> None:
        """Set the input standardisation from representations (n, d)."""
        features = direction_and_length(representation)
        self.mean.copy_(features.mean(dim=0))
        self.scale.copy_(features.std(dim=0) + 1e-6)


@dataclass(frozen=True)
class TrainedHead:
    """A head and what it was made from."""

    module: UncertaintyHead
    description: Mapping[str, Any]


def direction_and_length(representation: Tensor) -> Tensor:
    """Direction e/|e| and log|e| side by side: (b, d) -> (b, d + 1)."""
    length = representation.norm(dim=1, keepdim=True).clamp_min(1e-12)
    return torch.cat([representation / length, length.log()], dim=1)


def save_head(head: UncertaintyHead, folder: Path, description: Mapping[str, Any]) -> None:
    """Write weights, scaling included, and the description, to which the layer sizes are added."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous().cpu() for key, value in head.state_dict().items()}, folder / WEIGHTS_FILE)
    sizes = {"dimension": head.mean.numel() - 1, "hidden": head.layers[0].out_features}
    (folder / DESCRIPTION_FILE).write_text(json.dumps({**description, **sizes}, indent=1, default=float) + "\n")


def load_head(folder: Path, backbone_hash: str) -> TrainedHead:
    """Read a head folder, in evaluation mode.

    Raises:
        HeadError: when there is none, or it was trained behind another backbone.
    """
    for name in (DESCRIPTION_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise HeadError(f"{folder} is no head: {name} is missing; make one with `candor train-head`")
    description = json.loads((folder / DESCRIPTION_FILE).read_text())
    state = load_file(folder / WEIGHTS_FILE)
    if description["backbone_hash"] != backbone_hash:
        raise HeadError(
            f"{folder} was trained behind backbone {description['backbone_hash'][:19]}, not {backbone_hash[:19]}; "
            "train a head for this backbone"
        )
    head = UncertaintyHead(description["dimension"], description["hidden"])
    head.load_state_dict(state)
    return TrainedHead(head.eval(), description)

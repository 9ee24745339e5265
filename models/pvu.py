"""Published checkpoints of Pretrained Visual Uncertainties (Kirchhof et al., arXiv:2402.16569) as backbone and head.

A torch file with weights under `state_dict_ema`, under `state_dict` or bare: `model.` before timm's own names, and
`unc_module.unc_module.` before the head's three linear layers 0, 2 and 4; all of them may begin with `module.`.
"""

import argparse
import pickle
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.backbone import Backbone, create_backbone, numbered
from models.errors import UserError
from models.methods.base import Sizes
from models.methods.pvu import PvuHead

MODEL, HEAD, PARALLEL = "model.", "unc_module.unc_module.", "module."
HEAD_NAMES = tuple(f"{layer}.{kind}" for layer in (0, 2, 4) for kind in ("weight", "bias"))
CLASSIFIERS = ("head.weight", "fc.weight", "classifier.weight", "head.fc.weight")  # by timm's family of models


class PvuError(UserError):
    """A checkpoint that is not of the published layout, or not of this model; the message names what differs."""


@dataclass(frozen=True)
class PvuCheckpoint:
    """Weights by timm's names, the head's by `LAYER.KIND`; `dimension` d of e, `hidden` width of the head."""

    backbone_state: Mapping[str, Tensor]
    head_state: Mapping[str, Tensor]
    classes: int
    dimension: int
    hidden: int


def read_pvu(path: Path) -> PvuCheckpoint:
    """Read a checkpoint as tensors; nothing is unpickled.

    Raises:
        PvuError: when the file would have to be unpickled or is of another layout: with the names of what is unknown
            or missing, or their shapes.
    """
    state = {key.removeprefix(PARALLEL): value for key, value in _weights(_content(path), path).items()}
    backbone = {key.removeprefix(MODEL): value for key, value in state.items() if key.startswith(MODEL)}
    head = {key.removeprefix(HEAD): value for key, value in state.items() if key.startswith(HEAD)}
    problems = [f"{key} is unknown" for key in state if not key.startswith((MODEL, HEAD))]
    problems += [f"{HEAD}{key} is unknown" for key in head if key not in HEAD_NAMES]
    problems += [f"{HEAD}{key} is missing" for key in HEAD_NAMES if key not in head]
    classifier = next((key for key in CLASSIFIERS if key in backbone), None)
    if classifier is None:
        problems += [f"a classifier ({', '.join(MODEL + key for key in CLASSIFIERS)}) is missing"]
    if classifier is None or problems:
        raise PvuError(f"{path} is no checkpoint of Pretrained Visual Uncertainties: {_listed(problems)}")
    hidden, dimension = _matrix_shape(head["0.weight"], f"{path}: {HEAD}0.weight")
    classes, width = _matrix_shape(backbone[classifier], f"{path}: {MODEL}{classifier}")
    if dimension != width:
        raise PvuError(f"{path}: {HEAD}0.weight is {(hidden, dimension)} instead of {(hidden, width)}")
    return PvuCheckpoint(backbone, head, classes, dimension, hidden)


def imported_backbone(checkpoint: PvuCheckpoint, name: str, args: Mapping[str, Any] | None = None) -> Backbone:
    """The timm model with the checkpoint's weights, its classes named by their numbers.

    Raises:
        BackboneError: when timm cannot build the model.
        PvuError: with the names that are unknown to it, missing from the checkpoint, or of another shape.
    """
    backbone = create_backbone(name, classes=numbered(checkpoint.classes), args=args)
    _load_by_name(backbone.module, checkpoint.backbone_state, MODEL, name)
    return backbone


def imported_head(checkpoint: PvuCheckpoint) -> PvuHead:
    """The checkpoint's head, in evaluation mode.

    Raises:
        PvuError: with the names whose shapes do not follow from the first layer's.
    """
    sizes = Sizes(checkpoint.dimension, checkpoint.dimension, checkpoint.classes)
    head = PvuHead(sizes, checkpoint.hidden)
    _load_by_name(head.layers, checkpoint.head_state, HEAD, "the head")
    return head.eval()


def _content(path: Path) -> Any:
    try:
        # Checkpoints of training runs hold their command-line arguments as well, which is data alone.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise PvuError(f"{path} cannot be read: {error}") from error
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error: ")[2].partition("\n")[0]
        raise PvuError(
            f"{path} holds more than tensors and plain data, and would have to be unpickled, which can run any code; "
            f"save its state_dict alone, where you trust it: {reason}"
        ) from error
    except (RuntimeError, EOFError, struct.error) as error:
        raise PvuError(f"{path} is no torch file: {error}") from error


def _weights(content: Any, path: Path) -> dict[str, Tensor]:
    """The weights of a file's content, averaged ones first, in float32."""
    if not isinstance(content, dict):
        raise PvuError(f"{path} holds no weights by name, but a {type(content).__name__}")
    nested = [content[key] for key in ("state_dict_ema", "state_dict") if isinstance(content.get(key), dict)]
    state = nested[0] if nested else content
    others = [f"{key} is no tensor" for key, value in state.items() if not isinstance(value, Tensor)]
    if others:
        raise PvuError(f"{path} is no checkpoint of Pretrained Visual Uncertainties: {_listed(others)}")
    return {key: value.float() if value.is_floating_point() else value for key, value in state.items()}


def _load_by_name(module: nn.Module, state: Mapping[str, Tensor], prefix: str, wanted: str) -> None:
    """Load what fits name by name and shape by shape; only batch counters may be absent."""
    expected = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in state.items()}
    absent = [key for key in expected if key not in found and not key.endswith("num_batches_tracked")]
    unfit = [key for key in expected if key in found and found[key] != expected[key]]
    problems = [f"{prefix}{key} is unknown" for key in found if key not in expected]
    problems += [f"{prefix}{key} is missing" for key in absent]
    problems += [f"{prefix}{key} is {found[key]} instead of {expected[key]}" for key in unfit]
    if problems:
        raise PvuError(f"the checkpoint does not fit {wanted}: {_listed(problems)}")
    module.load_state_dict(state, strict=False)


def _matrix_shape(weight: Tensor, name: str) -> tuple[int, int]:
    if weight.ndim != 2:
        raise PvuError(f"{name} is {tuple(weight.shape)} instead of a matrix")
    return weight.shape[0], weight.shape[1]


def _listed(problems: Sequence[str], most: int = 10) -> str:
    """The first problems, and how many more there are."""
    return ", ".join([*problems[:most], *([f"and {len(problems) - most} more"] if len(problems) > most else [])])

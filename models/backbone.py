"""A backbone: any timm image model, its preprocessing and its classes, kept as safetensors beside JSON."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.errors import UserError
from models.preprocess import Preprocessing

WEIGHTS_FILE = "backbone.safetensors"
DESCRIPTION_FILE = "backbone.json"


class BackboneError(UserError):
    """A backbone that cannot be made or loaded; the message says what to change."""


@dataclass(frozen=True)
class Backbone:
    """A timm module in evaluation mode, with what is needed to feed it and to read its logits.

    `classes` are those of its classifier; `training` says on what data and terms it was trained.
    """

    name: str
    args: Mapping[str, Any]
    module: nn.Module
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """`sha256:...` over weights, architecture and preprocessing: equal hashes give equal representations."""
        digest = hashlib.sha256()
        digest.update(json.dumps([self.name, dict(self.args), asdict(self.preprocessing)], sort_keys=True).encode())
        for key, value in sorted(self.module.state_dict().items()):
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return "sha256:" + digest.hexdigest()


def create_backbone(
    name: str,
    *,
    classes: tuple[str, ...] | None,
    args: Mapping[str, Any] | None = None,
    preprocessing: Preprocessing | None = None,
    pretrained: bool = False,
) -> Backbone:
    """Build a timm model with a classifier over `classes`, or with timm's own, whose classes are named by numbers.

    Without `preprocessing`, the model's own evaluation settings of timm are used. With `pretrained`, timm downloads the
    weights, and the original classifier is kept where it has as many classes.

    Raises:
        BackboneError: when timm does not know the model or refuses its arguments.
    """
    args = dict(args or {})
    own = {} if classes is None else {"num_classes": len(classes)}
    try:
        module = timm.create_model(name, pretrained=pretrained, **own, **args)
    except (RuntimeError, TypeError, AssertionError, ValueError) as error:
        raise BackboneError(f"timm cannot build {name!r} with {args}: {error}") from error
    names = numbered(module.num_classes) if classes is None else classes
    return Backbone(name, args, module.eval(), preprocessing or _timm_preprocessing(module), names)


def numbered(count: int) -> tuple[str, ...]:
    """Names of classes of which no more is known than that there are so many."""
    return tuple(str(number) for number in range(count))


def classifier_weight(name: str) -> str:
    """What timm calls the weight (c, d) of a model's classifier; empty where it does not know the model."""
    config = timm.models.get_pretrained_cfg(name.partition(".")[0])
    return f"{config.classifier}.weight" if config else ""


def represent(module: nn.Module, images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Pooled pre-logits e of uint8 images: (b, h, w, 3) -> (b, d), not normalised."""
    timm_module: Any = module
    features = timm_module.forward_features(_normalised(images, preprocessing))
    representation: Tensor = timm_module.forward_head(features, pre_logits=True)
    return representation


def represent_layers(module: nn.Module, images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """What every stage of the backbone says of an image: (b, h, w, 3) uint8 -> (b, d + sum of 2 c + 9).

    The pooled pre-logits e (b, d) first, then mean and standard deviation over positions of each of timm's intermediate
    feature maps (b, c, h, w), from the first to the last; then, of a backbone that classifies, `logit_statistics`.

    Raises:
        BackboneError: when timm gives no intermediate feature maps of this model.
    """
    timm_module: Any = module
    if not hasattr(module, "forward_intermediates"):
        raise BackboneError(f"timm gives no intermediate layers of {type(module).__name__}; cache it without --layers")
    final, maps = timm_module.forward_intermediates(_normalised(images, preprocessing), output_fmt="NCHW")
    pooled = timm_module.forward_head(final, pre_logits=True)  # (b, d)
    flat = [each.flatten(2) for each in maps]  # (b, c, h w)
    spread = [each.var(dim=2, correction=0).clamp_min(1e-8).sqrt() for each in flat]  # (b, c)
    statistics = [part for each, deviation in zip(flat, spread, strict=True) for part in (each.mean(dim=2), deviation)]
    classifier = timm_module.get_classifier()
    if isinstance(classifier, nn.Linear) and classifier.out_features > 1:
        statistics.append(logit_statistics(classifier(pooled)))
    return torch.cat([pooled, *statistics], dim=1)


def logit_statistics(logits: Tensor) -> Tensor:
    """How sure a classifier is, (b, c) -> (b, 9).

    Entropy and log of the largest probability at the temperatures 1/2, 1 and 2, the log of the summed exponentials
    (minus the energy), the lead of the largest logit, and the standard deviation of all.
    """
    columns = []
    for temperature in (0.5, 1.0, 2.0):
        log_probability = (logits / temperature).log_softmax(dim=1)
        columns += [-(log_probability.exp() * log_probability).sum(dim=1), log_probability.amax(dim=1)]
    first, second = logits.topk(2, dim=1).values.unbind(dim=1)
    deviation = logits.var(dim=1, correction=0).clamp_min(1e-8).sqrt()
    return torch.stack([*columns, logits.logsumexp(dim=1), first - second, deviation], dim=1)


def classify(module: nn.Module, representation: Tensor) -> Tensor:
    """Logits of representations: (b, d) -> (b, c)."""
    timm_module: Any = module
    logits: Tensor = timm_module.get_classifier()(representation)
    return logits


def save_backbone(backbone: Backbone, folder: Path) -> None:
    """Write the weights and the description."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in backbone.module.state_dict().items()}
    save_file(state, folder / WEIGHTS_FILE)
    description = {
        "name": backbone.name,
        "args": dict(backbone.args),
        "preprocessing": asdict(backbone.preprocessing),
        "classes": list(backbone.classes),
        "training": dict(backbone.training),
        "hash": backbone.hash,
    }
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1) + "\n")


def load_backbone(folder: Path) -> Backbone:
    """Read a backbone folder.

    Raises:
        BackboneError: when a file is missing, or the weights are not those the description was written for.
    """
    for name in (DESCRIPTION_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise BackboneError(
                f"{folder} is no backbone: {name} is missing; make one with `candor train-backbone` "
                "or `candor import-backbone`"
            )
    description = json.loads((folder / DESCRIPTION_FILE).read_text())
    state = load_file(folder / WEIGHTS_FILE)
    fields = description["preprocessing"]
    preprocessing = Preprocessing(**{**fields, "mean": tuple(fields["mean"]), "std": tuple(fields["std"])})
    backbone = create_backbone(
        description["name"],
        classes=tuple(description["classes"]),
        args=_tuples(description["args"]),
        preprocessing=preprocessing,
    )
    backbone.module.load_state_dict(state)
    loaded = Backbone(
        backbone.name, backbone.args, backbone.module, preprocessing, backbone.classes, description["training"]
    )
    if loaded.hash != description["hash"]:
        raise BackboneError(f"{folder}: {WEIGHTS_FILE} does not belong to {DESCRIPTION_FILE}; train or import it again")
    return loaded


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Weights by name from `.safetensors`, `.pth`/`.pt`/`.bin` (tensors only, nothing is unpickled), or `.npz`.

    In an `.npz`, `NAME|q` int8 beside `NAME|s` scales is de-quantised per output channel.
    """
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {key: torch.from_numpy(value) for key, value in _dequantised(dict(arrays.items())).items()}
    state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        state = state.get(key, state)
    return dict(state)


def _dequantised(arrays: dict[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    state = {}
    for key, value in arrays.items():
        if key.endswith("|q"):
            scale = arrays[key.removesuffix("q") + "s"]
            state[key.removesuffix("|q")] = value.astype(np.float32) * scale.reshape(-1, *[1] * (value.ndim - 1))
        elif not key.endswith("|s"):
            state[key] = value
    return state


def _normalised(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """(b, h, w, 3) uint8 -> (b, 3, h, w) float32 of the scale the model was trained on."""
    mean = torch.tensor(preprocessing.mean, device=images.device)
    std = torch.tensor(preprocessing.std, device=images.device)
    pixels: Tensor = (images.float() / 255 - mean) / std  # (b, h, w, 3)
    return pixels.permute(0, 3, 1, 2)


def _timm_preprocessing(module: nn.Module) -> Preprocessing:
    config = timm.data.resolve_model_data_config(module)
    return Preprocessing(
        size=config["input_size"][-1],
        crop_pct=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _tuples(args: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no tuples, and some timm models want them."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in args.items()}

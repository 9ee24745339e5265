"""A bundle's backbone as a timm model again: weights read from the graph, and proven to agree with it."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbone import (
    Backbone,
    BackboneError,
    classifier_weight,
    classify,
    create_backbone,
    numbered,
    represent,
)
from models.bundle import load_bundle
from models.methods.base import entropy_of

PREFIX = "module."  # of the backbone's weights in a graph
COUNTER = "num_batches_tracked"  # of a batch-norm; only training reads it
IMAGES = 8
LIMITS = {"embedding": 1e-5, "length": 1e-4, "class_entropy": 1e-4}  # of the largest error; length's is relative
LAYERS, NORMS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d), (nn.BatchNorm1d, nn.BatchNorm2d)


def recover_backbone(folder: Path) -> Backbone:
    """The backbone of a bundle, in evaluation mode, its classes named by their numbers.

    A batch-norm that the graph holds folded into the layer before it becomes the bias that is left of it.

    Raises:
        BundleError: when the folder is no bundle, or its graph is not the one it describes.
        BackboneError: when the bundle is in lower precision, when weights are missing from the graph or unknown to
            timm's model, by name, or when timm's model and the graph disagree on random images.
    """
    bundle = load_bundle(folder)
    lowered = bundle.manifest.metrics.get("precision")
    if lowered:
        raise BackboneError(
            f"{folder} is in {lowered['precision']}: give the bundle that it was made of, {lowered['original'][:19]}"
        )
    spec, training = bundle.manifest.backbone, bundle.manifest.training
    model = onnx.load(bundle.graph_path)
    stored = _parameters(model.graph)
    classifier = _classifier(spec.name, stored, folder)
    backbone = create_backbone(
        spec.name,
        classes=numbered(len(stored[classifier])),
        args={key: tuple(value) if isinstance(value, list) else value for key, value in spec.args.items()},
        preprocessing=bundle.preprocessing,
    )
    counters = {key: value for key, value in backbone.module.state_dict().items() if key.endswith(COUNTER)}
    try:
        backbone.module.load_state_dict(counters | _unfolded(backbone, stored))
    except RuntimeError as error:
        raise BackboneError(f"the graph of {folder} does not hold timm's {spec.name}: {error}") from error
    _require_agreement(backbone, model, classifier, folder)
    source = {"data": training.data, "licence": training.licence, "bundle": bundle.hash}
    return replace(backbone, training=training.details | source)


def _parameters(graph: Any) -> dict[str, Tensor]:
    """Weights of the backbone by timm's names."""
    arrays = {each.name: torch.from_numpy(onnx.numpy_helper.to_array(each).copy()) for each in graph.initializer}
    named = {name.removeprefix(PREFIX): value for name, value in arrays.items() if name.startswith(PREFIX)}
    return _sequence_weights(graph, arrays) | named


def _sequence_weights(graph: Any, arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights (out, in) of linear layers on sequences: (in, out) in the graph, and known by the bias added to them."""
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    weights = {}
    for node in graph.node:
        for product, bias in permutations(node.input, 2) if node.op_type == "Add" else ():
            weight = products.get(product, "")
            if weight in arrays and bias.startswith(PREFIX):
                weights[bias.removeprefix(PREFIX).removesuffix("bias") + "weight"] = arrays[weight].T
    return weights


def _classifier(model: str, stored: Mapping[str, Tensor], folder: Path) -> str:
    """Name of the classifier's weight (c, d)."""
    name = classifier_weight(model)
    if name not in stored:
        raise BackboneError(f"{folder}: the graph holds no classifier {PREFIX}{name} of the timm model {model!r}")
    return name


def _unfolded(backbone: Backbone, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The stored weights, with identities plus bias for the batch-norms that the graph has no more."""
    state = dict(stored)
    folded = {key: found for key, found in _normed_layers(backbone).items() if f"{key}.running_var" not in stored}
    for name, (norm, layer) in folded.items():
        own = state.get(f"{layer}.bias")  # A layer's own bias took the batch-norm's up.
        bias = state.pop(f"{layer}.weight_bias", None if own is None else 0 * own)
        if bias is not None:
            identity = {"weight": 1 + 0 * bias, "running_mean": 0 * bias, "running_var": 1 - norm.eps + 0 * bias}
            state |= {f"{name}.{key}": value for key, value in (identity | {"bias": bias}).items()}
    return state


def _normed_layers(backbone: Backbone) -> dict[str, tuple[Any, str]]:
    """By name, each batch-norm with the name of the layer whose output it takes, seen in one pass of an image."""
    outputs: list[tuple[str, Tensor]] = []
    found: dict[str, tuple[Any, str]] = {}

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, LAYERS):
            outputs.append((name, output))
        for layer in [layer for layer, value in outputs if isinstance(module, NORMS) and value is inputs[0]]:
            found[name] = (module, layer)

    handles = [each.register_forward_hook(partial(note, name)) for name, each in backbone.module.named_modules()]
    with torch.inference_mode():
        represent(backbone.module, torch.from_numpy(_random_images(1, backbone)), backbone.preprocessing)
    for handle in handles:
        handle.remove()
    return found


def _require_agreement(backbone: Backbone, model: Any, classifier: str, folder: Path) -> None:
    images = _random_images(IMAGES, backbone)
    expected, expected_entropy = _in_graph(model, PREFIX + classifier, images)
    with torch.inference_mode():
        representation = represent(backbone.module, torch.from_numpy(images), backbone.preprocessing)  # (n, d)
        entropy = entropy_of(classify(backbone.module, representation))  # (n,)
    errors = {
        "embedding": F.normalize(representation, dim=1) - F.normalize(expected, dim=1),
        "length": representation.norm(dim=1) / expected.norm(dim=1) - 1,
        "class_entropy": entropy - expected_entropy,
    }
    largest = {name: float(error.abs().max()) for name, error in errors.items()}
    if not all(largest[name] <= limit for name, limit in LIMITS.items()):  # so that a NaN is refused as well
        raise BackboneError(f"{folder}: timm's {backbone.name} disagrees with the graph on random images: {largest}")


def _in_graph(model: Any, classifier: str, images: NDArray[np.uint8]) -> list[Tensor]:
    """What the graph hands to its classifier, (n, d), and the `class_entropy` it answers, (n,)."""
    representation = next(node.input[0] for node in model.graph.node if classifier in node.input)
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    opened.graph.output.append(onnx.ValueInfoProto(name=representation))
    session = onnxruntime.InferenceSession(opened.SerializeToString(), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(found) for found in session.run([representation, "class_entropy"], {"image": images})]


def _random_images(count: int, backbone: Backbone) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, *[backbone.preprocessing.size] * 2, 3), dtype=np.uint8)

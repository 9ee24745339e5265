import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import softmax
from scipy.stats import entropy
from torch import nn

from models.backbone import (
    Backbone,
    BackboneError,
    classifier_weight,
    classify,
    create_backbone,
    load_backbone,
    logit_statistics,
    read_state_dict,
    represent,
    represent_layers,
    save_backbone,
)
from models.preprocess import Preprocessing
from tests.offline import tensors, tiny_backbone


def images(count: int, side: int = 32) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def test_a_saved_backbone_loads_as_it_was(tmp_path: Path) -> None:
    backbone = replace(tiny_backbone(drop_path_rate=0.1), training={"data": "stripes", "licence": "CC0"})

    save_backbone(backbone, tmp_path)
    loaded = load_backbone(tmp_path)

    assert loaded.hash == backbone.hash
    assert (loaded.name, loaded.args, loaded.classes) == (backbone.name, backbone.args, backbone.classes)
    assert loaded.preprocessing == backbone.preprocessing
    assert loaded.training == backbone.training
    assert not any(module.training for module in loaded.module.modules())
    assert all(torch.equal(value, tensors(loaded)[key]) for key, value in tensors(backbone).items())


def test_arguments_that_are_tuples_survive_json(tmp_path: Path) -> None:
    backbone = create_backbone(
        "resnet10t", classes=("a", "b"), args={"channels": (8, 8, 8, 16)}, preprocessing=Preprocessing(32)
    )

    save_backbone(backbone, tmp_path)

    assert load_backbone(tmp_path).hash == backbone.hash


def test_the_representation_and_its_logits_are_timms_own() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    backbone = replace(tiny_backbone(), preprocessing=Preprocessing(32, mean=mean, std=std))
    pixels = (images(3).double() / 255 - torch.tensor(mean)) / torch.tensor(std)  # (b, h, w, 3)

    with torch.inference_mode():
        representation = represent(backbone.module, images(3), backbone.preprocessing)
        logits = classify(backbone.module, representation)
        expected = backbone.module(pixels.float().permute(0, 3, 1, 2))

    assert representation.shape == (3, 96)
    assert torch.allclose(logits, expected, atol=1e-5)


def tiny_vit() -> Backbone:
    """A transformer with a class token, four positions and random weights."""
    torch.manual_seed(0)
    return create_backbone("test_vit", classes=("a", "b"), args={"img_size": 32}, preprocessing=Preprocessing(32))


def normalised(backbone: Backbone, pixels: torch.Tensor) -> torch.Tensor:
    """(b, h, w, 3) uint8 -> (b, 3, h, w) as timm normalises it."""
    mean, std = (
        torch.tensor(part).view(1, 3, 1, 1) for part in (backbone.preprocessing.mean, backbone.preprocessing.std)
    )
    return (pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std


def logit_statistics_by_row(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    rows = []
    for row in logits:
        probabilities = [softmax(row / temperature) for temperature in (0.5, 1.0, 2.0)]
        doubt = [value for each in probabilities for value in (entropy(each), np.log(each.max()))]
        second, first = np.sort(row)[-2:]
        rows.append([*doubt, np.log(np.exp(row).sum()), first - second, row.std()])
    return np.array(rows)


def test_logit_statistics_are_those_of_each_row() -> None:
    logits = 3 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0))

    found = logit_statistics(logits)

    assert found.shape == (20, 9)
    assert np.allclose(found, logit_statistics_by_row(logits.double().numpy()), rtol=1e-4, atol=1e-5)


def test_equal_logits_are_as_unsure_as_can_be_and_have_a_finite_gradient() -> None:
    logits = torch.zeros(1, 4, requires_grad=True)

    found = logit_statistics(logits)
    torch.autograd.backward(found.sum())

    assert found[0, :2].tolist() == pytest.approx([np.log(4), -np.log(4)])
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_a_model_that_does_not_classify_has_layers_alone() -> None:
    backbone = create_backbone("test_efficientnet", classes=("a", "b"))
    timm_module: Any = backbone.module
    with_logits = represent_layers(backbone.module, images(2), backbone.preprocessing)

    timm_module.reset_classifier(0)

    without = represent_layers(backbone.module, images(2), backbone.preprocessing)
    assert torch.equal(without, with_logits[:, :-9])


@pytest.mark.parametrize(("backbone", "maps"), [(tiny_backbone(), 5), (tiny_vit(), 6)], ids=["convolutions", "vit"])
def test_layers_are_represented_by_mean_and_spread_over_the_positions(backbone: Backbone, maps: int) -> None:
    timm_module: Any = backbone.module
    with torch.inference_mode():
        found = represent_layers(backbone.module, images(3), backbone.preprocessing)
        pooled = represent(backbone.module, images(3), backbone.preprocessing)
        layers = timm_module.forward_intermediates(normalised(backbone, images(3)), intermediates_only=True)
        logits = classify(backbone.module, pooled)

    assert len(layers) == maps
    expected = [pooled.double().numpy()]
    for layer in layers:
        values = layer.double().numpy()  # (b, c, h, w)
        expected.append(np.stack([[channel.mean() for channel in image] for image in values]))  # (b, c)
        expected.append(np.stack([[channel.std() for channel in image] for image in values]))
    expected.append(logit_statistics_by_row(logits.double().numpy()))
    assert torch.equal(found[:, : pooled.shape[1]], pooled)
    assert found.shape == (3, sum(part.shape[1] for part in expected))
    assert np.allclose(found, np.concatenate(expected, axis=1), rtol=1e-4, atol=2e-4)
    assert found[:, pooled.shape[1] :].std(dim=0).max() > 1e-2


FAMILIES = [
    "test_byobnet",
    "test_convnext",
    "test_efficientnet",
    "test_mambaout",
    "test_maxvit",
    "test_nfnet",
    "test_vit3",
]


@pytest.mark.parametrize("name", FAMILIES)
def test_layers_of_every_family_begin_with_the_representation(name: str) -> None:
    torch.manual_seed(0)
    backbone = create_backbone(name, classes=("a", "b"))
    pixels = images(2, backbone.preprocessing.size)

    with torch.inference_mode():
        found = represent_layers(backbone.module, pixels, backbone.preprocessing)
        pooled = represent(backbone.module, pixels, backbone.preprocessing)

    assert torch.equal(found[:, : pooled.shape[1]], pooled)
    assert found.shape[1] > pooled.shape[1]
    assert torch.isfinite(found).all()


def test_a_channel_that_is_the_same_everywhere_has_a_finite_gradient() -> None:
    backbone = tiny_backbone()
    grey = torch.full((2, 32, 32, 3), 128, dtype=torch.uint8)

    torch.autograd.backward(represent_layers(backbone.module, grey, backbone.preprocessing).sum())

    gradients = [parameter.grad for parameter in backbone.module.parameters() if parameter.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_a_model_without_intermediate_layers_is_refused_by_name() -> None:
    with pytest.raises(BackboneError, match="no intermediate layers of Linear; cache it without --layers"):
        represent_layers(nn.Linear(3, 3), images(1), tiny_backbone().preprocessing)


def changed_weight(backbone: Backbone) -> Backbone:
    with torch.no_grad():
        next(backbone.module.parameters()).view(-1)[0] += 1e-6
    return backbone


def changed_statistic(backbone: Backbone) -> Backbone:
    next(value for key, value in backbone.module.named_buffers() if key.endswith("running_mean"))[0] += 1e-6
    return backbone


@pytest.mark.parametrize(
    "other",
    [
        changed_weight(tiny_backbone()),
        changed_statistic(tiny_backbone()),
        tiny_backbone(size=40),
        replace(tiny_backbone(), preprocessing=Preprocessing(32, interpolation="bilinear")),
        replace(tiny_backbone(), preprocessing=Preprocessing(32, mean=(0.5, 0.5, 0.4))),
        replace(tiny_backbone(), args={"output_stride": 8}),
        replace(tiny_backbone(), name="another"),
    ],
    ids=["weight", "statistic", "size", "interpolation", "mean", "arguments", "name"],
)
def test_whatever_decides_a_representation_changes_the_hash(other: Backbone) -> None:
    assert other.hash != tiny_backbone().hash


def test_what_only_describes_a_backbone_leaves_its_hash() -> None:
    backbone = tiny_backbone()

    assert replace(backbone, training={"data": "other"}, module=backbone.module.train()).hash == tiny_backbone().hash


def test_without_preprocessing_the_models_own_is_used() -> None:
    preprocessing = create_backbone("test_resnet", classes=("a",)).preprocessing

    assert preprocessing == Preprocessing(160, 0.95, "bilinear", (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(("name", "count"), [("test_resnet", 1000), ("vit_tiny_patch16_224.augreg_in21k", 21843)])
def test_without_classes_they_are_those_that_timm_knows_of(name: str, count: int) -> None:
    backbone = create_backbone(name, classes=None)

    assert backbone.classes == tuple(str(number) for number in range(count))
    assert tensors(backbone)[classifier_weight(name)].shape[0] == count


def test_a_model_that_timm_does_not_know_has_no_classifier_weight() -> None:
    assert classifier_weight("no_such_model.tag") == ""


@pytest.mark.parametrize(("name", "args"), [("no_such_model", {}), ("test_resnet", {"no_such_argument": 1})])
def test_what_timm_cannot_build_is_refused_by_name(name: str, args: dict[str, object]) -> None:
    with pytest.raises(BackboneError, match=f"timm cannot build '{name}'"):
        create_backbone(name, classes=("a",), args=args)


@pytest.mark.parametrize("name", ["backbone.json", "backbone.safetensors"])
def test_a_missing_file_is_named_with_what_to_do(name: str, tmp_path: Path) -> None:
    save_backbone(tiny_backbone(), tmp_path)
    (tmp_path / name).unlink()

    with pytest.raises(BackboneError, match=rf"{name} is missing; make one with `candor train-backbone`"):
        load_backbone(tmp_path)


def test_weights_of_another_training_are_refused(tmp_path: Path) -> None:
    save_backbone(tiny_backbone(), tmp_path)
    state = load_file(tmp_path / "backbone.safetensors")
    state["conv1.0.weight"] += 1e-3
    save_file(state, tmp_path / "backbone.safetensors")

    with pytest.raises(BackboneError, match=r"does not belong to backbone\.json; train or import it again"):
        load_backbone(tmp_path)


def test_a_description_of_another_preprocessing_is_refused(tmp_path: Path) -> None:
    save_backbone(tiny_backbone(), tmp_path)
    description = json.loads((tmp_path / "backbone.json").read_text())
    description["preprocessing"]["size"] = 64
    (tmp_path / "backbone.json").write_text(json.dumps(description))

    with pytest.raises(BackboneError, match="does not belong"):
        load_backbone(tmp_path)


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_weights_are_read_from_torch_files_bare_or_wrapped(wrapped: str | None, tmp_path: Path) -> None:
    state = {"a.weight": torch.arange(6.0).reshape(2, 3)}
    torch.save({wrapped: state} if wrapped else state, tmp_path / "weights.pth")

    found = read_state_dict(tmp_path / "weights.pth")

    assert found.keys() == state.keys()
    assert torch.equal(found["a.weight"], state["a.weight"])


def test_weights_are_read_from_safetensors(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "weights.safetensors")

    assert torch.equal(read_state_dict(tmp_path / "weights.safetensors")["a"], torch.ones(2))


def test_int8_weights_are_scaled_per_output_channel(tmp_path: Path) -> None:
    quantised = np.arange(-12, 12, dtype=np.int8).reshape(2, 3, 2, 2)
    arrays: dict[str, Any] = {"a.weight|q": quantised, "a.weight|s": [0.5, 2.0], "a.bias": [1.0, 2.0]}
    np.savez(tmp_path / "weights.npz", **arrays)

    found = read_state_dict(tmp_path / "weights.npz")

    assert found.keys() == {"a.weight", "a.bias"}
    assert np.array_equal(found["a.weight"][0], quantised[0] * 0.5)
    assert np.array_equal(found["a.weight"][1], quantised[1] * 2.0)
    assert found["a.bias"].tolist() == [1, 2]


def test_a_file_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    torch.save({"state_dict": Path("code")}, tmp_path / "weights.pth")

    with pytest.raises(Exception, match="Weights only load failed"):
        read_state_dict(tmp_path / "weights.pth")

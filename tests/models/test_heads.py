import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.backbone import represent
from models.heads import HeadError, UncertaintyHead, direction_and_length, load_head, save_head
from models.losses import neighbour_ranking, pairwise_ranking, squared_error
from tests.offline import tiny_backbone


def representations(count: int, dimension: int = 8, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(3.0, 2.0, (count, dimension)).astype(np.float32))


def fitted_head(dimension: int = 8, dropout: float = 0.0) -> UncertaintyHead:
    torch.manual_seed(0)
    head = UncertaintyHead(dimension, hidden=16, dropout=dropout)
    head.fit_scaling(representations(100, dimension))
    return head.eval()


def test_uncertainty_is_one_positive_number_an_image() -> None:
    uncertainty = fitted_head()(representations(20))

    assert uncertainty.shape == (20,)
    assert (uncertainty > 0).all()


def test_a_head_that_is_sure_of_everything_stays_above_zero() -> None:
    head = fitted_head()
    last = head.layers[-1]
    assert isinstance(last, nn.Linear)
    nn.init.constant_(last.bias, -1000.0)

    assert (head(representations(5)) > 0).all()


def test_the_input_is_direction_and_log_length() -> None:
    values = representations(5)

    features = direction_and_length(values)

    length = np.linalg.norm(values.numpy(), axis=1)
    assert np.allclose(features[:, :8], values.numpy() / length[:, None], atol=1e-6)
    assert np.allclose(features[:, 8], np.log(length), atol=1e-6)


def test_a_representation_of_length_zero_has_a_finite_uncertainty() -> None:
    assert torch.isfinite(fitted_head()(torch.zeros(2, 8))).all()


def test_fitted_scaling_standardises_what_the_layers_see() -> None:
    head, values = UncertaintyHead(8), representations(500)

    head.fit_scaling(values)
    features = (direction_and_length(values) - head.mean) / head.scale

    assert torch.allclose(features.mean(dim=0), torch.zeros(9), atol=1e-4)
    assert torch.allclose(features.std(dim=0), torch.ones(9), atol=1e-3)


@pytest.mark.parametrize("objective", [pairwise_ranking, neighbour_ranking, squared_error])
def test_no_gradient_reaches_the_representation_or_the_backbone(objective: object) -> None:
    assert callable(objective)
    backbone, head = tiny_backbone(), UncertaintyHead(96, hidden=16)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8))
    representation = represent(backbone.module, images, backbone.preprocessing)
    representation.retain_grad()
    assert representation.requires_grad

    objective(head(representation), torch.arange(6.0)).backward()

    assert representation.grad is None
    assert all(parameter.grad is None for parameter in backbone.module.parameters())
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in head.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_saved_head_says_exactly_the_same(dropout: float, tmp_path: Path) -> None:
    head = fitted_head(dropout=dropout)
    save_head(head, tmp_path, {"backbone_hash": "sha256:a"})

    loaded = load_head(tmp_path, "sha256:a").module

    assert not loaded.training
    assert torch.equal(loaded.mean, head.mean)
    assert torch.equal(loaded.scale, head.scale)
    assert not torch.equal(head.scale, torch.ones(9))
    assert torch.equal(loaded(representations(50, seed=1)), head(representations(50, seed=1)))


def test_the_description_is_kept(tmp_path: Path) -> None:
    save_head(
        fitted_head(), tmp_path, {"backbone_hash": "sha256:a", "training": {"loss": "mse", "epochs": np.int64(3)}}
    )

    description = load_head(tmp_path, "sha256:a").description

    assert description["training"] == {"loss": "mse", "epochs": 3}
    assert (description["dimension"], description["hidden"]) == (8, 16)


def test_a_head_of_another_backbone_is_refused(tmp_path: Path) -> None:
    save_head(fitted_head(), tmp_path, {"backbone_hash": "sha256:aaaaaaaaaaaaaaaa"})

    with pytest.raises(HeadError, match=r"was trained behind backbone sha256:a+, not sha256:b+; train a head for this"):
        load_head(tmp_path, "sha256:bbbbbbbbbbbbbbbb")


@pytest.mark.parametrize("name", ["head.json", "head.safetensors"])
def test_a_missing_file_is_named_with_what_to_do(name: str, tmp_path: Path) -> None:
    save_head(fitted_head(), tmp_path, {"backbone_hash": "sha256:a"})
    (tmp_path / name).unlink()

    with pytest.raises(HeadError, match=rf"{name} is missing; make one with `candor train-head`"):
        load_head(tmp_path, "sha256:a")


def test_the_description_on_disk_is_json(tmp_path: Path) -> None:
    save_head(fitted_head(), tmp_path, {"backbone_hash": "sha256:a"})

    assert json.loads((tmp_path / "head.json").read_text())["backbone_hash"] == "sha256:a"

"""Lower precision: what is lowered, what is left, and what is refused."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.graph import export_graph, open_graph
from models.precision import Agreement, Precision, PrecisionError, compare, lower_graph, require

GOOD = Agreement(100, 0.999, 0.99, 0.5, 0.5, 0.6, 0.6, 0.999)


class Convolutions(nn.Module):
    """Stands for a convolutional backbone."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 16, 16, 32, 32]
        convolutions = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)]
        self.layers = nn.Sequential(*[part for each in convolutions for part in (each, nn.ReLU())])

    def forward(self, image: Tensor) -> Tensor:
        pooled: Tensor = self.layers(image).mean(dim=(2, 3))
        return pooled


class Matrices(nn.Module):
    """Stands for a transformer, whose first layer alone convolves."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 8, stride=8)
        self.layers = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patches(image).flatten(2).transpose(1, 2)  # (b, n, c)
        pooled: Tensor = (tokens + self.layers(tokens)).mean(dim=1)
        return pooled


class Served(nn.Module):
    """A backbone under the name that a bundle's graph gives it, and a head beside it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.head = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 1), nn.Softplus())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.module(image.permute(0, 3, 1, 2).float() / 255)
        return nn.functional.normalize(pooled, dim=1), self.head(pooled).squeeze(1)


def colours(count: int, classes: int = 5) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noisy images (n, 16, 16, 3) whose classes are colours, so close that some are mistaken."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % classes
    colour = rng.integers(60, 196, (classes, 1, 1, 3))[labels]
    noise = rng.normal(0, 25, (count, 1, 1, 3)) + rng.normal(0, 40, (count, 16, 16, 3))
    return np.clip(colour + noise, 0, 255).astype(np.uint8), labels


@pytest.fixture(params=[Convolutions, Matrices], ids=["convolutions", "matrices"])
def graph(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.onnx"
    export_graph(Served(request.param()), torch.zeros(2, 16, 16, 3, dtype=torch.uint8), path, ["embedding", "u"])
    return path


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_a_lowered_graph_takes_and_says_the_same(graph: Path, precision: Precision, tmp_path: Path) -> None:
    images, labels = colours(200)
    out = tmp_path / "lowered.onnx"

    lower_graph(graph, out, precision, images[:64])

    expected, found = (open_graph(path)(images) for path in (graph, out))
    assert [part.dtype for part in found] == [np.float32, np.float32]
    assert not np.array_equal(found[0], expected[0])  # it was lowered
    agreement = compare(graph, out, images, labels)
    assert agreement.cosine_mean == pytest.approx(float((expected[0] * found[0]).sum(axis=1).mean()))
    assert agreement.cosine_mean > 0.99
    assert agreement.uncertainty_spearman > 0.9
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "lowered.onnx"}


@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_the_head_is_left_as_it_is(graph: Path, precision: Precision, tmp_path: Path) -> None:
    images, _ = colours(64)
    out = tmp_path / "lowered.onnx"

    lower_graph(graph, out, precision, images)

    before, after = (
        {each.name: onnx.numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
        for path in (graph, out)
    )
    for name in ("head.0.weight", "head.2.weight"):  # a Gemm's weights may have been turned for a MatMul
        kept = [array for each, array in after.items() if each.startswith(name)]
        assert [array.dtype for array in kept] == [np.float32]
        assert np.array_equal(kept[0], before[name]) or np.array_equal(kept[0], before[name].T)
    weights = [
        name for name in before if name.startswith("module.") and name.endswith("weight") and before[name].ndim > 1
    ]
    lowered = [name for name in weights if name not in after or after[name].dtype != np.float32]
    assert len(lowered) >= len(weights) - 1  # the patches of a transformer stay


def test_a_graph_that_does_not_name_its_backbone_is_refused(graph: Path, tmp_path: Path) -> None:
    model = onnx.load(graph)
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx.save(model, graph)

    with pytest.raises(PrecisionError, match="which nodes are the backbone's; export the bundle again"):
        lower_graph(graph, tmp_path / "lowered.onnx", "int8", colours(4)[0])


def test_a_graph_agrees_with_itself(graph: Path) -> None:
    found = compare(graph, graph, *colours(100))

    assert (found.images, found.recall_at_1, found.r_auroc) == (100, found.recall_at_1_original, found.r_auroc_original)
    assert found.cosine_least == pytest.approx(1.0, abs=1e-5)
    assert found.uncertainty_spearman == pytest.approx(1.0)
    assert found.holds()


@pytest.mark.parametrize(
    "changed",
    [
        {"cosine_mean": 0.989},
        {"recall_at_1": 0.4949},
        {"recall_at_1": 0.5051},
        {"r_auroc": 0.5949},
        {"uncertainty_spearman": 0.989},
        {"r_auroc": float("nan")},
    ],
)
def test_what_says_something_else_is_refused_with_the_figures(changed: dict[str, Any]) -> None:
    require(GOOD)

    with pytest.raises(PrecisionError, match=f"{next(iter(changed))}'?: {next(iter(changed.values()))}"):
        require(replace(GOOD, **changed))

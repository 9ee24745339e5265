import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from models.backbone import BackboneError, classify, represent
from models.pvu import PvuCheckpoint, PvuError, imported_backbone, imported_head, read_pvu

MODEL = "vit_tiny_patch16_224"
ARGS = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 2}
CLASSES, HIDDEN = 7, 24
State = dict[str, Tensor]


class Head(nn.Module):
    """The published head: three layers, and a small constant that keeps it above zero."""

    def __init__(self, dimension: int, hidden: int) -> None:
        super().__init__()
        first, second, last = nn.Linear(dimension, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 1)
        self.unc_module = nn.Sequential(first, nn.LeakyReLU(), second, nn.LeakyReLU(), last, nn.Softplus())

    def forward(self, representation: Tensor) -> Tensor:
        uncertainty: Tensor = 1e-6 + self.unc_module(representation)
        return uncertainty.squeeze(1)


class Published(nn.Module):
    """A model of the published kind, of random weights: pixels (b, 3, h, w) to logits, uncertainty, representation."""

    def __init__(self, seed: int = 0, model: str = MODEL, **args: Any) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.model: Any = timm.create_model(model, num_classes=CLASSES, **(args or ARGS))
        self.unc_module = Head(self.model.num_features, HIDDEN)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        representation = self.model.forward_head(self.model.forward_features(pixels), pre_logits=True)
        return self.model.get_classifier()(representation), self.unc_module(representation), representation


def published_state(seed: int = 0) -> State:
    return {key: value.clone() for key, value in Published(seed).state_dict().items()}


def parallel(state: State) -> State:
    return {f"module.{key}": value for key, value in state.items()}


def written(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def averaged(state: State) -> dict[str, Any]:
    """As training runs are saved: averaged weights beside others, and what else belongs to a run."""
    others = {key: value + 1 for key, value in state.items()}
    options = argparse.Namespace(model=MODEL, lr=0.001, betas=(0.8, 0.95), resume=None)
    return {"epoch": 3, "arch": MODEL, "state_dict": others, "state_dict_ema": state, "args": options, "metric": 0.6}


def not_averaged(state: State) -> dict[str, Any]:
    return {"epoch": 3, "state_dict": state, "state_dict_ema": None, "optimizer": {"state": {0: torch.ones(2)}}}


def bare(state: State) -> State:
    return state


LAYOUTS: list[Callable[[State], dict[str, Any]]] = [averaged, not_averaged, bare]


def images(count: int = 6) -> Tensor:
    return torch.randint(0, 256, (count, 32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


@pytest.mark.parametrize("prefixed", [bare, parallel])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_backbone_and_head_answer_as_the_published_model(
    layout: Callable[[State], dict[str, Any]], prefixed: Callable[[State], State], tmp_path: Path
) -> None:
    published = Published()
    checkpoint = read_pvu(written(tmp_path / "c.pth.tar", layout(prefixed(published_state()))))
    backbone, head = imported_backbone(checkpoint, MODEL, ARGS), imported_head(checkpoint)

    pixels = (images().float() / 255 - 0.5) / 0.5  # (b, h, w, 3)
    with torch.inference_mode():
        logits, uncertainty, representation = published(pixels.permute(0, 3, 1, 2))
        found = represent(backbone.module, images(), backbone.preprocessing)

        assert (found - representation).abs().max() <= 1e-6
        assert (classify(backbone.module, found) - logits).abs().max() <= 1e-6
        assert (head(found) - uncertainty).abs().max() <= 1e-6
    assert uncertainty.std() > 1e-3


def test_sizes_are_those_of_the_checkpoint(tmp_path: Path) -> None:
    checkpoint = read_pvu(written(tmp_path / "c.pth", published_state()))
    backbone, head = imported_backbone(checkpoint, MODEL, ARGS), imported_head(checkpoint)

    assert (checkpoint.classes, checkpoint.dimension, checkpoint.hidden) == (CLASSES, 48, HIDDEN)
    assert backbone.classes == tuple("0123456")
    assert (backbone.name, backbone.args) == (MODEL, ARGS)
    assert (head.sizes.dimension, head.sizes.features, head.sizes.classes) == (48, 48, CLASSES)
    assert not any(module.training for module in [*backbone.module.modules(), *head.modules()])


def test_the_classifier_of_a_convolutional_network_counts_its_classes(tmp_path: Path) -> None:
    published = Published(model="test_resnet", in_chans=3)

    checkpoint = read_pvu(written(tmp_path / "c.pth", published.state_dict()))

    backbone = imported_backbone(checkpoint, "test_resnet")
    assert len(backbone.classes) == CLASSES
    assert all(
        torch.equal(value, published.model.state_dict()[key]) for key, value in backbone.module.state_dict().items()
    )


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in published_state().items()}

    checkpoint = read_pvu(written(tmp_path / "c.pth", state))

    assert {value.dtype for value in imported_backbone(checkpoint, MODEL, ARGS).module.state_dict().values()} == {
        torch.float32
    }
    assert torch.equal(
        imported_head(checkpoint).state_dict()["layers.0.bias"], state["unc_module.unc_module.0.bias"].float()
    )


def without(*names: str) -> State:
    return {key: value for key, value in published_state().items() if key not in names}


def reading(tmp_path: Path, content: object) -> PvuCheckpoint:
    return read_pvu(written(tmp_path / "c.pth", content))


HEAD = "unc_module.unc_module"


@pytest.mark.parametrize(
    ("state", "named"),
    [
        (without(f"{HEAD}.4.bias"), [f"{HEAD}.4.bias is missing"]),
        (without(f"{HEAD}.0.weight", f"{HEAD}.2.bias"), [f"{HEAD}.0.weight is missing", f"{HEAD}.2.bias is missing"]),
        ({**published_state(), f"{HEAD}.6.weight": torch.ones(1, 24)}, [f"{HEAD}.6.weight is unknown"]),
        ({**published_state(), "scaler": torch.ones(1)}, ["scaler is unknown"]),
        ({**published_state(), "model.head.weight": torch.ones(7)}, ["model.head.weight is (7,) instead of a matrix"]),
        (without("model.head.weight"), ["a classifier (model.head.weight, model.fc.weight", "is missing"]),
        ({}, [f"{HEAD}.{layer}.{kind} is missing" for layer in (0, 2, 4) for kind in ("weight", "bias")]),
        ({**published_state(), "model.norm.eps": 1e-6}, ["model.norm.eps is no tensor"]),
    ],
)
def test_another_layout_is_refused_by_name(state: dict[str, Any], named: list[str], tmp_path: Path) -> None:
    with pytest.raises(PvuError) as raised:
        reading(tmp_path, state)

    assert all(name in str(raised.value) for name in named)
    assert "c.pth" in str(raised.value)


@pytest.mark.parametrize(
    ("state", "named"),
    [
        (without("model.blocks.1.norm1.bias"), "model.blocks.1.norm1.bias is missing"),
        ({**published_state(), "model.blocks.2.norm1.bias": torch.ones(48)}, "model.blocks.2.norm1.bias is unknown"),
        (
            {**published_state(), "model.pos_embed": torch.ones(1, 5, 48)},
            "model.pos_embed is (1, 5, 48) instead of (1, 17, 48)",
        ),
        ({**published_state(), "model.head.bias": torch.ones(6)}, "model.head.bias is (6,) instead of (7,)"),
    ],
)
def test_weights_of_another_backbone_are_refused_by_name(state: State, named: str, tmp_path: Path) -> None:
    checkpoint = reading(tmp_path, state)

    with pytest.raises(PvuError, match=re.escape(f"the checkpoint does not fit {MODEL}: {named}") + "$"):
        imported_backbone(checkpoint, MODEL, ARGS)


def test_ten_names_are_listed_and_the_others_counted(tmp_path: Path) -> None:
    checkpoint = reading(tmp_path, published_state())

    with pytest.raises(PvuError, match=r"^the checkpoint does not fit [^,]*(, [^,]* is missing){9}, and 2 more$"):
        imported_backbone(checkpoint, MODEL, {**ARGS, "depth": 3})


@pytest.mark.parametrize(
    ("name", "shape", "stated"),
    [
        ("2.weight", (24, 25), "2.weight is (24, 25) instead of (24, 24)"),
        ("0.bias", (23,), "0.bias is (23,) instead of (24,)"),
        ("4.weight", (2, 24), "4.weight is (2, 24) instead of (1, 24)"),
    ],
)
def test_a_head_of_other_shapes_is_refused_by_name(name: str, shape: Any, stated: str, tmp_path: Path) -> None:
    checkpoint = reading(tmp_path, {**published_state(), f"{HEAD}.{name}": torch.ones(shape)})

    with pytest.raises(PvuError, match=re.escape(f"does not fit the head: {HEAD}.{stated}")):
        imported_head(checkpoint)


def test_a_head_behind_another_dimension_is_refused(tmp_path: Path) -> None:
    state = {**published_state(), f"{HEAD}.0.weight": torch.ones(24, 47)}

    with pytest.raises(PvuError, match=re.escape(f"{HEAD}.0.weight is (24, 47) instead of (24, 48)")):
        reading(tmp_path, state)


def test_a_model_that_timm_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="timm cannot build 'no_such_model'"):
        imported_backbone(reading(tmp_path, published_state()), "no_such_model")


class Trap:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self._path,))


def test_a_file_that_needs_unpickling_is_refused_and_nothing_of_it_runs(tmp_path: Path) -> None:
    path = written(tmp_path / "c.pth", {"state_dict": published_state(), "extra": Trap(tmp_path / "sprung")})

    with pytest.raises(PvuError, match=r"c\.pth holds more than tensors .* would have to be unpickled.*: .*GLOBAL"):
        read_pvu(path)

    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04 but no archive"])
def test_a_file_of_another_format_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "c.pth").write_bytes(content)

    with pytest.raises(PvuError, match=r"c\.pth (is no torch file|holds more than tensors)"):
        read_pvu(tmp_path / "c.pth")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PvuError, match=r"c\.pth cannot be read"):
        read_pvu(tmp_path / "c.pth")


def test_content_without_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PvuError, match=r"holds no weights by name, but a list"):
        reading(tmp_path, [torch.ones(2)])

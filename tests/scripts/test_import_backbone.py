from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from models.backbone import BackboneError, load_backbone
from models.bundle import DEFAULT_BUNDLE, load_bundle
from models.preprocess import Preprocessing
from scripts import import_backbone
from tests.offline import tensors, tiny_backbone

ORIGINAL = DEFAULT_BUNDLE.with_name("default-fp32")  # which the default one was made of

STATE = tensors(tiny_backbone(seed=3))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file(STATE, tmp_path / "weights.safetensors")
    return tmp_path / "weights.safetensors"


def imported(weights: Path, *more: str) -> Any:
    out = weights.parent / "backbone"
    import_backbone.main(["test_resnet", "--weights", str(weights), "--out", str(out), *more])
    return load_backbone(out)


def test_weights_from_a_file_are_taken_as_they_are(weights: Path) -> None:
    backbone = imported(weights)

    assert backbone.name == "test_resnet"
    assert backbone.classes == ("0", "1", "2", "3", "4", "5")
    assert all(torch.equal(value, tensors(backbone)[key]) for key, value in STATE.items())


def test_int8_weights_are_de_quantised(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    for key, value in STATE.items():
        if value.ndim < 2:
            arrays[key] = expected[key] = value.numpy()
            continue
        scale = np.abs(value.numpy()).reshape(len(value), -1).max(axis=1) / 127  # (out,)
        shape = (-1, *[1] * (value.ndim - 1))
        arrays[f"{key}|q"] = np.round(value.numpy() / scale.reshape(shape)).astype(np.int8)
        arrays[f"{key}|s"] = scale
        expected[key] = arrays[f"{key}|q"] * scale.reshape(shape)
    np.savez(tmp_path / "weights.npz", **arrays)

    found = tensors(imported(tmp_path / "weights.npz"))

    assert all(np.allclose(found[key].numpy(), value, atol=1e-7) for key, value in expected.items())
    assert any(not torch.equal(found[key], value) for key, value in STATE.items())


def test_without_more_the_models_own_preprocessing_is_kept(weights: Path) -> None:
    assert imported(weights).preprocessing == Preprocessing(160, 0.95, "bilinear")


def test_preprocessing_can_be_changed(weights: Path) -> None:
    found = imported(weights, "--size", "64", "--crop-pct", "1", "--half-normalised").preprocessing

    assert found == Preprocessing(64, 1.0, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_class_names_come_from_a_file(weights: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\nd e\nf\ng\n")

    assert imported(weights, "--classes", str(names)).classes == ("a", "b", "c", "d e", "f", "g")


def test_data_and_terms_are_recorded(weights: Path) -> None:
    found = imported(weights, "--data", "ImageNet-1k", "--licence", "Apache-2.0").training

    assert found == {"data": "ImageNet-1k", "licence": "Apache-2.0"}


def test_arguments_reach_timm(weights: Path) -> None:
    assert imported(weights, "--args", '{"output_stride": 16}').args == {"output_stride": 16}


def test_weights_that_do_not_fit_are_refused_by_name(weights: Path) -> None:
    with pytest.raises(SystemExit, match=r"weights\.safetensors does not fit test_resnet: (?s:.*)size mismatch"):
        imported(weights, "--classes", "7")


def test_weights_without_a_classifier_are_refused_by_name(tmp_path: Path) -> None:
    save_file(
        {key: value for key, value in STATE.items() if not key.startswith("fc.")}, tmp_path / "weights.safetensors"
    )

    with pytest.raises(SystemExit, match=r'does not fit test_resnet: (?s:.*)"fc\.weight"'):
        imported(tmp_path / "weights.safetensors")


def test_a_model_that_timm_does_not_know_is_refused(weights: Path) -> None:
    with pytest.raises(BackboneError, match="timm cannot build 'no_such_model'"):
        import_backbone.main(["no_such_model", "--weights", str(weights), "--out", str(weights.parent / "out")])


def taken_from_bundle(out: Path, *more: str) -> Any:
    import_backbone.main(["--bundle", str(ORIGINAL), "--out", str(out), *more])
    return load_backbone(out)


def test_a_bundle_says_itself_what_its_backbone_is(tmp_path: Path) -> None:
    backbone = taken_from_bundle(tmp_path / "backbone")

    bundle = load_bundle(ORIGINAL)
    assert (backbone.name, backbone.preprocessing) == (bundle.manifest.backbone.name, bundle.preprocessing)
    assert dict(backbone.args) == {"channels": (32, 64, 128, 256)}
    assert backbone.classes == tuple(str(number) for number in range(160))
    assert backbone.training["data"] == bundle.manifest.training.data
    assert backbone.training["licence"] == bundle.manifest.training.licence
    assert backbone.training["schedule"] == bundle.manifest.training.details["schedule"]


def test_what_is_known_of_a_bundle_can_be_added(tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"n{number}" for number in range(160)))

    backbone = taken_from_bundle(tmp_path / "b", "--classes", str(names), "--licence", "mine", "--size", "96")

    assert backbone.classes[:2] == ("n0", "n1")
    assert backbone.training["licence"] == "mine"
    assert backbone.training["data"] == load_bundle(ORIGINAL).manifest.training.data
    assert backbone.preprocessing.size == 96


def test_another_number_of_classes_than_the_bundles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has 160 classes, not 200"):
        taken_from_bundle(tmp_path / "backbone", "--classes", "200")


def test_another_model_than_the_bundles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="holds resnet18, not resnet50"):
        taken_from_bundle(tmp_path / "backbone", "resnet50")


@pytest.mark.parametrize("more", [["--bundle", "b", "--args", '{"a": 1}'], ["--weights", "w.pth"], ["--pretrained"]])
def test_a_bundle_takes_no_arguments_and_all_else_needs_a_model(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        import_backbone.main([*more, "--out", "out"])

    assert raised.value.code == 2
    assert capsys.readouterr().err.rstrip().endswith(("are the bundle's own", "is needed without --bundle"))


@pytest.mark.parametrize("more", [[], ["--pretrained", "--weights", "w.pth"], ["--weights", "w.pth", "--args", "[1]"]])
def test_a_wrong_command_is_a_usage_error(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        import_backbone.main(["test_resnet", *more, "--out", "out"])

    assert raised.value.code == 2
    assert "candor import-backbone: error" in capsys.readouterr().err

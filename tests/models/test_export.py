import copy
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from models import export
from models.backbone import Backbone
from models.bundle import Bundle, load_bundle
from models.calibration import Calibration
from models.export import ExportError, ServedModel, export_bundle, measure_parity
from models.graph import open_graph
from models.heads import UncertaintyHead
from models.preprocess import preprocess
from models.representations import representer
from tests.offline import TORCH, pictures, tiny_backbone
from uncertainty.calibration import reference_quantiles
from uncertainty.metrics import spearman
from uncertainty.novelty import fit_novelty, novelty

IMAGES = 48


@dataclass(frozen=True)
class Made:
    """What a bundle is made of, and the bundle."""

    backbone: Backbone
    head: UncertaintyHead
    calibration: Calibration
    images: NDArray[np.uint8]
    bundle: Bundle

    @property
    def model(self) -> ServedModel:
        return ServedModel(self.backbone, self.head, self.calibration).eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    backbone = replace(tiny_backbone(), training={"data": "stripes", "licence": "CC0", "images": 48})
    drawn, labels = pictures(IMAGES // 6, seed=0, faintest=0.2)
    images = np.stack([preprocess(image, backbone.preprocessing) for image in drawn])
    representation = representer(backbone, TORCH)(torch.from_numpy(images))
    torch.manual_seed(0)
    head = UncertaintyHead(96, hidden=32)
    head.fit_scaling(torch.from_numpy(representation))
    head.eval()
    model = fit_novelty(representation, labels)
    with torch.inference_mode():
        uncertainty = head(torch.from_numpy(representation)).numpy()
    quantiles = reference_quantiles(uncertainty, 21), reference_quantiles(novelty(model, representation), 21)
    calibration = Calibration("stripes", IMAGES, *quantiles, model)
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    bundle = exported(folder, backbone, head, calibration, images)
    return Made(backbone, head, calibration, images, bundle)


def exported(
    folder: Path, backbone: Backbone, head: UncertaintyHead, calibration: Calibration, images: NDArray[np.uint8]
) -> Bundle:
    provenance = {"command": "candor export", "commit": "0123abc"}
    figures = {"r_auroc": 0.7}
    return export_bundle(
        backbone, head, calibration, images, folder, name="tiny", metrics=figures, provenance=provenance
    )


def in_torch(made: Made, images: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    with torch.inference_mode():
        found = made.model(torch.from_numpy(images))
    return dict(zip(export.OUTPUTS, (output.numpy() for output in found), strict=True))


def in_graph(made: Made, images: NDArray[np.uint8], batch_size: int) -> dict[str, NDArray[np.float32]]:
    return dict(zip(export.OUTPUTS, open_graph(made.bundle.graph_path, batch_size=batch_size)(images), strict=True))


def test_the_graph_has_the_inputs_and_outputs_of_the_contract(made: Made) -> None:
    session = onnxruntime.InferenceSession(made.bundle.graph_path, providers=["CPUExecutionProvider"])

    (image,) = session.get_inputs()
    assert (image.name, image.type) == ("image", "tensor(uint8)")
    assert isinstance(image.shape[0], str)
    assert image.shape[1:] == [32, 32, 3]
    assert [output.name for output in session.get_outputs()] == ["embedding", "uncertainty", "novelty", "class_entropy"]
    assert {output.type for output in session.get_outputs()} == {"tensor(float)"}
    assert session.get_outputs()[0].shape[1] == 96


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_graph_agrees_with_torch_at_every_batch_size(made: Made, batch_size: int) -> None:
    expected, found = in_torch(made, made.images), in_graph(made, made.images, batch_size)

    assert found["embedding"].shape == (IMAGES, 96)
    assert np.abs(found["embedding"] - expected["embedding"]).max() <= 1e-4
    assert spearman(found["uncertainty"], expected["uncertainty"]) >= 0.9999
    for name in ("uncertainty", "novelty", "class_entropy"):
        assert found[name].shape == (IMAGES,)
        assert np.allclose(found[name], expected[name], rtol=1e-3, atol=1e-4)


def test_an_answer_does_not_depend_on_the_rest_of_the_batch(made: Made) -> None:
    alone = in_graph(made, made.images, 1)

    for batch_size in (2, 5, 32):
        together = in_graph(made, made.images, batch_size)
        for name in export.OUTPUTS:
            assert np.allclose(together[name], alone[name], rtol=1e-4, atol=1e-5)


def test_embeddings_have_unit_length(made: Made) -> None:
    length = np.linalg.norm(in_graph(made, made.images, 32)["embedding"], axis=1)

    assert np.allclose(length, 1.0, atol=1e-5)


def test_uncertainty_is_the_heads(made: Made) -> None:
    representation = representer(made.backbone, TORCH)(torch.from_numpy(made.images))
    with torch.inference_mode():
        expected = made.head(torch.from_numpy(representation)).numpy()

    assert np.allclose(in_graph(made, made.images, 32)["uncertainty"], expected, atol=1e-5)
    assert expected.std() > 1e-3


def test_novelty_is_that_of_the_statistics(made: Made) -> None:
    representation = representer(made.backbone, TORCH)(torch.from_numpy(made.images))

    expected = novelty(made.calibration.novelty_model, representation)

    assert np.allclose(in_graph(made, made.images, 32)["novelty"], expected, rtol=2e-3)
    assert expected.std() > 1.0


def test_class_entropy_is_that_of_the_classifier(made: Made) -> None:
    mean, std = torch.tensor(made.backbone.preprocessing.mean), torch.tensor(made.backbone.preprocessing.std)
    pixels = (torch.from_numpy(made.images).float() / 255 - mean) / std  # (b, h, w, 3)
    with torch.inference_mode():
        probability = made.backbone.module(pixels.permute(0, 3, 1, 2)).double().softmax(dim=1).numpy()

    expected = -(probability * np.log(probability)).sum(axis=1)

    assert np.allclose(in_graph(made, made.images, 32)["class_entropy"], expected, atol=1e-4)


def test_the_bundle_loads_and_says_what_it_is(made: Made) -> None:
    bundle = load_bundle(made.bundle.path)
    manifest = bundle.manifest

    assert bundle.hash == made.bundle.hash
    assert (manifest.name, manifest.dimension, manifest.outputs) == ("tiny", 96, list(export.OUTPUTS))
    assert bundle.preprocessing == made.backbone.preprocessing
    assert manifest.backbone.name == "test_resnet"
    assert (manifest.training.data, manifest.training.licence) == ("stripes", "CC0")
    assert manifest.training.details == {"images": 48}
    assert (manifest.command, manifest.commit) == ("candor export", "0123abc")
    assert manifest.metrics["r_auroc"] == 0.7
    assert manifest.versions["torch"] == torch.__version__
    assert sorted(path.name for path in made.bundle.path.iterdir()) == ["bundle.json", "model.onnx"]


def test_the_figures_of_the_agreement_are_kept(made: Made) -> None:
    parity = made.bundle.manifest.metrics["parity"]

    assert parity["images"] == IMAGES
    assert 0 <= parity["max_embedding_error"] <= 1e-4
    assert 0 <= parity["max_batch_difference"] <= 1e-5
    assert parity["min_uncertainty_spearman"] >= 0.9999
    assert 0 <= parity["max_novelty_relative_error"] <= 1e-2


def test_percentiles_of_the_reference_scores_are_their_ranks(made: Made) -> None:
    found = in_graph(made, made.images, 32)

    for scores, percentile in (
        (found["uncertainty"], made.bundle.uncertainty_percentile(found["uncertainty"])),
        (found["novelty"], made.bundle.novelty_percentile(found["novelty"])),
    ):
        order = np.argsort(scores)
        assert (np.diff(percentile[order]) >= 0).all()
        assert np.allclose(percentile[order], np.linspace(0, 1, IMAGES), atol=0.03)


def graph_from(source: Path) -> Any:
    """Stands for the exporter: writes a graph that was made before."""

    def copied(module: torch.nn.Module, example: torch.Tensor, path: Path, output_names: Sequence[str]) -> None:
        shutil.copyfile(source, path)

    return copied


def perturbed(backbone: Backbone) -> Backbone:
    """The backbone with one weight changed."""
    module = copy.deepcopy(backbone.module)
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] += 0.02
    return replace(backbone, module=module)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_new_bundle_replaces_the_old_one_as_a_whole(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "export_graph", graph_from(made.bundle.graph_path))
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "left-over.txt").write_text("from before")

    bundle = exported(folder, made.backbone, made.head, made.calibration, made.images)

    assert contents(folder).keys() == {"bundle.json", "model.onnx"}
    assert bundle.hash == made.bundle.hash


def test_a_graph_of_other_weights_is_refused_and_the_old_bundle_stays(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "export_graph", graph_from(made.bundle.graph_path))
    folder = tmp_path / "bundle"
    shutil.copytree(made.bundle.path, folder)

    with pytest.raises(ExportError, match=r"the ONNX graph disagrees with torch: .*max_embedding_error"):
        exported(folder, perturbed(made.backbone), made.head, made.calibration, made.images)

    assert contents(folder) == contents(made.bundle.path)


def test_a_head_that_says_the_same_of_every_image_is_refused(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "export_graph", graph_from(made.bundle.graph_path))
    constant = UncertaintyHead(96, hidden=32).eval()
    torch.nn.init.zeros_(list(constant.parameters())[-2])

    with pytest.raises(ExportError, match=r"cannot be compared with torch on 48 images: .*equal"):
        exported(tmp_path / "bundle", made.backbone, constant, made.calibration, made.images)


def test_a_graph_of_another_head_is_refused(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "export_graph", graph_from(made.bundle.graph_path))
    torch.manual_seed(1)
    other = UncertaintyHead(96, hidden=32).eval()

    with pytest.raises(ExportError, match="min_uncertainty_spearman"):
        exported(tmp_path / "bundle", made.backbone, other, made.calibration, made.images)

    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("max_embedding_error", 1.1e-4),
        ("max_embedding_error", float("nan")),
        ("max_batch_difference", 1.1e-5),
        ("max_batch_difference", float("nan")),
        ("min_uncertainty_spearman", 0.9998),
        ("min_uncertainty_spearman", float("nan")),
    ],
)
def test_each_figure_beyond_its_limit_refuses_the_graph(
    figure: str, value: float, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change: dict[str, Any] = {figure: value}
    parity = replace(measure_parity(made.model, made.bundle.graph_path, made.images), **change)
    monkeypatch.setattr(export, "export_graph", graph_from(made.bundle.graph_path))
    monkeypatch.setattr(export, "measure_parity", lambda *arguments: parity)

    with pytest.raises(ExportError, match=figure):
        exported(tmp_path / "bundle", made.backbone, made.head, made.calibration, made.images)


def test_a_build_date_can_be_fixed(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "export_graph", graph_from(made.bundle.graph_path))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")

    bundles = [
        exported(tmp_path / name, made.backbone, made.head, made.calibration, made.images) for name in ("a", "b")
    ]

    assert bundles[0].manifest.created == "2023-11-14T22:13:20+00:00"
    assert contents(bundles[0].path) == contents(bundles[1].path)

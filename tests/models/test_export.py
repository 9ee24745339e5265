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
from models.heads import embed, predict
from models.methods.base import Head, Sizes
from models.methods.fit import Examples
from models.methods.predicted_loss import PredictedLoss
from models.methods.registry import METHODS
from models.preprocess import preprocess
from models.representer import representer
from tests.models.conftest import fitted_head
from tests.offline import TORCH, pictures, tiny_backbone
from uncertainty.calibration import reference_quantiles
from uncertainty.metrics import spearman
from uncertainty.novelty import fit_novelty, novelty

IMAGES = 48
SIZES = Sizes(dimension=96, features=96, classes=6)
LAYERS = Sizes(dimension=96, features=905, classes=6)


@dataclass(frozen=True)
class Made:
    """What a bundle is made of, and the bundle."""

    backbone: Backbone
    head: Head
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
    head = PredictedLoss(SIZES, hidden=32)
    head.prepare(torch.from_numpy(representation), torch.from_numpy(labels))
    head.eval()
    model = fit_novelty(representation, labels)
    uncertainty = predict(head, representation)
    quantiles = reference_quantiles(uncertainty, 21), reference_quantiles(novelty(model, representation), 21)
    calibration = Calibration("stripes", IMAGES, *quantiles, model)
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    bundle = exported(folder, backbone, head, calibration, images)
    return Made(backbone, head, calibration, images, bundle)


def exported(
    folder: Path, backbone: Backbone, head: Head, calibration: Calibration, images: NDArray[np.uint8]
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


def features(made: Made, images: NDArray[np.uint8], sizes: Sizes) -> NDArray[np.float32]:
    """(n, f) of images (n, h, w, 3), as wide as the sizes say."""
    return representer(made.backbone, TORCH, layers=sizes == LAYERS)(torch.from_numpy(images))


def other_examples(made: Made, sizes: Sizes) -> Examples:
    """Other images in two views each, with losses of no meaning."""
    drawn, labels = pictures(IMAGES // 6, seed=1, faintest=0.2)
    clean = features(made, np.stack([preprocess(image, made.backbone.preprocessing) for image in drawn]), sizes)
    rng = np.random.default_rng(0)
    views = np.stack([clean, clean + rng.normal(0, 0.1, clean.shape).astype(np.float32)])
    return Examples(views, labels, rng.exponential(size=views.shape[:2]).astype(np.float32))


@pytest.mark.parametrize("method", METHODS)
def test_a_bundle_of_every_method_says_what_its_head_says_in_torch(method: str, made: Made, tmp_path: Path) -> None:
    sizes = LAYERS if METHODS[method].layers else SIZES
    head = fitted_head(method, other_examples(made, sizes), sizes)

    bundle = exported(tmp_path / "bundle", made.backbone, head, made.calibration, made.images)

    clean = features(made, made.images, sizes)
    uncertainty, embedding = predict(head, clean), embed(head, clean)
    assert np.ptp(uncertainty) > 1e-3
    assert bundle.manifest.dimension == embedding.shape[1]
    for batch_size in (1, 32):
        found = open_graph(bundle.graph_path, batch_size=batch_size)(made.images)
        assert np.abs(found[0] - embedding).max() <= 1e-4
        assert np.allclose(found[1], uncertainty, rtol=1e-3, atol=1e-4)
        assert spearman(found[1], uncertainty) >= 0.9999
        pooled = in_graph(made, made.images, batch_size)
        assert np.allclose(found[2], pooled["novelty"], rtol=1e-3)
        assert np.allclose(found[3], pooled["class_entropy"], atol=1e-4)


def test_a_bundle_whose_head_sees_all_layers_agrees_with_torch(made: Made, tmp_path: Path) -> None:
    clean = features(made, made.images, LAYERS)
    torch.manual_seed(0)
    head = PredictedLoss(LAYERS, hidden=16, members=2)
    head.prepare(*other_examples(made, LAYERS).clean(IMAGES, seed=0))

    bundle = exported(tmp_path / "bundle", made.backbone, head, made.calibration, made.images)

    embedding, uncertainty, novelty_, entropy = open_graph(bundle.graph_path, batch_size=7)(made.images)
    pooled = in_graph(made, made.images, 7)
    assert np.allclose(uncertainty, predict(head, clean), rtol=1e-3, atol=1e-4)
    assert bundle.manifest.dimension == 96
    assert bundle.manifest.metrics["parity"]["min_uncertainty_spearman"] >= 0.9999
    assert np.allclose(embedding, pooled["embedding"], atol=1e-5)
    assert np.allclose(novelty_, pooled["novelty"], rtol=1e-3)
    assert np.allclose(entropy, pooled["class_entropy"], atol=1e-5)
    assert spearman(uncertainty, pooled["uncertainty"]) < 0.99


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
    constant = PredictedLoss(SIZES, hidden=32).eval()
    torch.nn.init.zeros_(list(constant.parameters())[-2])

    with pytest.raises(ExportError, match=r"cannot be compared with torch on 48 images: .*equal"):
        exported(tmp_path / "bundle", made.backbone, constant, made.calibration, made.images)


def test_a_graph_of_another_head_is_refused(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "export_graph", graph_from(made.bundle.graph_path))
    torch.manual_seed(1)
    other = PredictedLoss(SIZES, hidden=32).eval()

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

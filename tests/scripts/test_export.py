import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from models import export as exporting
from models.backbone import load_backbone
from models.bundle import Bundle, load_bundle
from models.calibration import load_calibration
from models.datasets import open_dataset
from models.export import ExportError
from models.graph import open_graph
from models.heads import load_head, predict
from models.precision import PrecisionError
from models.preprocess import preprocess
from models.representer import representer
from scripts import export
from tests.offline import TORCH
from tests.scripts.conftest import Stages


def arguments(stages: Stages, out: Path, *more: str) -> list[str]:
    named = [*stages.judged, "--calibration", stages.path("calibration"), "--data", stages.path("test.npz")]
    return [*named, "--images", "40", "--name", "stripes", "--out", str(out), *more]


@pytest.fixture(scope="module")
def bundle(calibrated: Stages, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundles")
    figures = {"r_auroc": 0.8, "aurc": 0.1}
    results = {
        "data": {"stripes": {"recall_at_1": 0.9, "scores": {"head": figures, "class_entropy": {"r_auroc": 0.6}}}}
    }
    (folder / "results.json").write_text(json.dumps(results))
    export.main(arguments(calibrated, folder / "stripes", "--evaluation", str(folder / "results.json")))
    return load_bundle(folder / "stripes")


def test_the_bundle_says_of_a_picture_what_the_stages_say(bundle: Bundle, calibrated: Stages) -> None:
    backbone = load_backbone(calibrated.root / "backbone")
    dataset = open_dataset(calibrated.path("test.npz"))
    pixels = np.stack([preprocess(dataset.image(i), bundle.preprocessing) for i in range(len(dataset))])
    representation = representer(backbone, TORCH)(torch.from_numpy(pixels))

    embedding, uncertainty, _, _ = open_graph(bundle.graph_path, batch_size=7)(pixels)

    expected = representation / np.linalg.norm(representation, axis=1, keepdims=True)
    assert np.abs(embedding - expected).max() <= 1e-4
    head = load_head(calibrated.root / "head", backbone.hash).module
    assert np.allclose(uncertainty, predict(head, representation), rtol=1e-3, atol=1e-5)


def test_the_manifest_names_where_everything_comes_from(bundle: Bundle, calibrated: Stages) -> None:
    manifest = bundle.manifest
    backbone = load_backbone(calibrated.root / "backbone")
    calibration = load_calibration(calibrated.root / "calibration", backbone.hash)

    assert manifest.name == "stripes"
    assert manifest.command.startswith("candor")
    assert manifest.training.licence == "CC0"
    assert manifest.training.data == calibrated.path("train.npz")
    assert manifest.reference.dataset == calibrated.path("reference.npz")
    assert manifest.reference.count == 60
    assert np.allclose(manifest.reference.uncertainty, calibration.uncertainty, rtol=1e-6)
    assert np.allclose(manifest.reference.novelty, calibration.novelty, rtol=1e-6)
    assert manifest.metrics["evaluation"] == {"stripes": {"recall_at_1": 0.9, "r_auroc": 0.8, "aurc": 0.1}}
    assert manifest.metrics["head"]["target"] == "retrieval"
    assert manifest.metrics["parity"]["images"] == 40


def test_another_command_can_be_recorded(
    bundle: Bundle, calibrated: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_before(monkeypatch, bundle.graph_path)

    export.main(arguments(calibrated, tmp_path / "out", "--command", "candor reproduce"))

    manifest = load_bundle(tmp_path / "out").manifest
    assert manifest.command == "candor reproduce"
    assert manifest.metrics["evaluation"] == {}
    assert manifest.graph_sha256 == bundle.manifest.graph_sha256


def made_before(monkeypatch: pytest.MonkeyPatch, graph: Path) -> None:
    """Let the exporter write a graph that was made before."""

    def copied(module: torch.nn.Module, example: torch.Tensor, path: Path, output_names: Sequence[str]) -> None:
        shutil.copyfile(graph, path)

    monkeypatch.setattr(exporting, "export_graph", copied)


def test_a_graph_that_disagrees_ends_the_stage_with_the_figures(
    bundle: Bundle, calibrated: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_before(monkeypatch, bundle.graph_path)
    monkeypatch.setattr(exporting, "MAX_EMBEDDING_ERROR", -1.0)

    with pytest.raises(ExportError, match="the ONNX graph disagrees with torch: Parity"):
        export.main(arguments(calibrated, tmp_path / "out"))

    assert not (tmp_path / "out").exists()


def test_lower_precision_goes_to_the_folder_and_float32_beside_it(
    bundle: Bundle, calibrated: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_before(monkeypatch, bundle.graph_path)

    export.main(arguments(calibrated, tmp_path / "out", "--precision", "fp16"))

    full, lowered = load_bundle(tmp_path / "out-fp32"), load_bundle(tmp_path / "out")
    assert full.hash == bundle.hash
    assert lowered.manifest.metrics["precision"]["original"] == full.hash
    assert lowered.manifest.metrics["precision"]["precision"] == "fp16"


def test_lower_precision_that_says_something_else_leaves_float32_alone(
    bundle: Bundle, calibrated: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_before(monkeypatch, bundle.graph_path)
    monkeypatch.setattr("models.precision.MIN_COSINE", 1.1)

    with pytest.raises(PrecisionError, match="something else in lower precision"):
        export.main(arguments(calibrated, tmp_path / "out", "--precision", "fp16"))

    assert [path.name for path in tmp_path.iterdir()] == ["out-fp32"]

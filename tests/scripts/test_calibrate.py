from pathlib import Path

import numpy as np
import pytest

from models.backbone import load_backbone
from models.calibration import CalibrationError, load_calibration
from models.heads import load_head, predict
from models.representations import load_representations
from scripts import calibrate
from tests.scripts.conftest import Stages
from uncertainty.calibration import ReferenceQuantiles
from uncertainty.novelty import fit_novelty, novelty


def test_quantiles_are_those_of_the_reference_images(calibrated: Stages) -> None:
    backbone = load_backbone(calibrated.root / "backbone")
    found = load_calibration(calibrated.root / "calibration", backbone.hash)
    training = load_representations(calibrated.root / "train-cache", backbone.hash)
    reference = np.asarray(load_representations(calibrated.root / "reference-cache", backbone.hash).clean, np.float32)
    head = load_head(calibrated.root / "head", backbone.hash).module
    model = fit_novelty(np.asarray(training.clean, np.float64), training.labels)

    assert (found.dataset, found.count) == (calibrated.path("reference.npz"), 60)
    assert found.uncertainty.shape == found.novelty.shape == (21,)
    assert np.allclose(found.uncertainty, np.quantile(predict(head, reference), np.linspace(0, 1, 21)), rtol=1e-6)
    assert np.allclose(found.novelty, np.quantile(novelty(model, reference), np.linspace(0, 1, 21)), rtol=1e-6)
    assert np.array_equal(found.novelty_model.whitening, model.whitening)
    assert np.array_equal(found.novelty_model.centroids, model.centroids)
    assert found.novelty_model.shrinkage == model.shrinkage
    assert found.novelty_model.centroids.shape == (6, 96)


def test_percentiles_of_the_reference_images_spread_evenly(calibrated: Stages) -> None:
    backbone = load_backbone(calibrated.root / "backbone")
    found = load_calibration(calibrated.root / "calibration", backbone.hash)
    reference = load_representations(calibrated.root / "reference-cache", backbone.hash)
    head = load_head(calibrated.root / "head", backbone.hash).module

    shares = np.sort(ReferenceQuantiles(found.uncertainty).percentile(predict(head, reference.clean)))

    assert np.allclose(shares, np.linspace(0, 1, 60), atol=0.06)


def test_the_reference_set_can_be_named(calibrated: Stages, tmp_path: Path) -> None:
    arguments = [*calibrated.judged, "--cache", calibrated.path("train-cache"), "--out", str(tmp_path)]
    arguments += ["--reference", calibrated.path("reference-cache"), "--reference-name", "photos nobody has seen"]

    calibrate.main(arguments)

    found = load_calibration(tmp_path, load_backbone(calibrated.root / "backbone").hash)
    assert found.dataset == "photos nobody has seen"
    assert found.uncertainty.shape == (201,)


def test_a_calibration_of_another_backbone_is_refused(calibrated: Stages) -> None:
    with pytest.raises(CalibrationError, match="was made with another backbone; calibrate again"):
        load_calibration(calibrated.root / "calibration", "sha256:another")


def test_a_folder_without_a_calibration_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="holds no calibration; make one with `candor calibrate`"):
        load_calibration(tmp_path, "sha256:any")


def test_a_head_of_all_layers_is_calibrated_on_all_layers(with_layers: Stages, cached: Stages, tmp_path: Path) -> None:
    arguments = [*with_layers.frozen, "--head", with_layers.path("head-layers"), "--cache", cached.path("train-cache")]
    calibrate.main([*arguments, "--reference", with_layers.path("reference-layers"), "--out", str(tmp_path)])

    backbone = load_backbone(with_layers.root / "backbone")
    found = load_calibration(tmp_path, backbone.hash)
    reference = load_representations(with_layers.root / "reference-layers", backbone.hash)
    training = load_representations(with_layers.root / "train-cache", backbone.hash)
    head = load_head(with_layers.root / "head-layers", backbone.hash).module
    model = fit_novelty(np.asarray(training.clean, np.float64), training.labels)
    shares = np.linspace(0, 1, 201)
    assert np.allclose(found.uncertainty, np.quantile(predict(head, reference.features[0]), shares), rtol=1e-6)
    pooled = np.asarray(reference.clean, np.float32)
    assert np.allclose(found.novelty, np.quantile(novelty(model, pooled), shares), rtol=1e-6)
    assert found.novelty_model.centroids.shape == (6, 96)


def test_a_head_of_the_pooled_columns_is_calibrated_on_any_reference(
    with_head: Stages, with_layers: Stages, calibrated: Stages, tmp_path: Path
) -> None:
    arguments = [*with_head.judged, "--cache", with_head.path("train-cache"), "--quantiles", "21"]
    calibrate.main([*arguments, "--reference", with_layers.path("reference-layers"), "--out", str(tmp_path)])

    backbone = load_backbone(with_head.root / "backbone")
    found, expected = (load_calibration(path, backbone.hash) for path in (tmp_path, calibrated.root / "calibration"))
    assert np.allclose(found.uncertainty, expected.uncertainty, rtol=1e-2)
    assert np.allclose(found.novelty, expected.novelty, rtol=1e-2)


def test_a_head_of_all_layers_needs_a_reference_of_all_layers(
    with_layers: Stages, cached: Stages, tmp_path: Path
) -> None:
    arguments = [*with_layers.frozen, "--head", with_layers.path("head-layers"), "--cache", cached.path("train-cache")]

    with pytest.raises(SystemExit, match="cache the reference with `candor cache-representations --layers`"):
        calibrate.main([*arguments, "--reference", cached.path("reference-cache"), "--out", str(tmp_path)])

"""`candor lower-precision` on a bundle made by the stages."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.bundle import Bundle, load_bundle
from models.graph import open_graph
from models.precision import PrecisionError
from scripts import lower_precision
from tests.scripts.conftest import Stages


@pytest.fixture(scope="module")
def lower(exported: Stages, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Bundle]:
    def run(*more: str, precision: str = "fp16") -> Bundle:
        out = tmp_path_factory.mktemp("lowered") / "bundle"
        data = ["--data", exported.path("test.npz"), "--precision", precision]
        lower_precision.main(["--bundle", exported.path("bundle"), *data, "--out", str(out), *more])
        return load_bundle(out)

    return run


def test_a_lowered_bundle_is_one_that_says_what_it_was_made_of(exported: Stages, lower: Callable[..., Bundle]) -> None:
    original = load_bundle(Path(exported.path("bundle")))

    found = lower()

    assert found.hash != original.hash
    figures = found.manifest.metrics["precision"]
    assert (figures["precision"], figures["original"]) == ("fp16", original.hash)
    assert figures["cosine_mean"] > 0.999
    assert figures["bytes"] == found.graph_path.stat().st_size
    assert found.manifest.reference == original.manifest.reference
    assert {**found.manifest.metrics, "precision": None} == {**original.manifest.metrics, "precision": None}


def test_percentiles_can_be_taken_anew(exported: Stages, lower: Callable[..., Bundle]) -> None:
    found = lower("--reference", exported.path("reference.npz"))

    images, _ = lower_precision.read_images(exported.path("reference.npz"), None, found.preprocessing)
    uncertainty = open_graph(found.graph_path)(images)[1]
    reference = found.manifest.reference
    assert reference.count == len(images)
    assert reference.uncertainty[0] == pytest.approx(float(uncertainty.min()), rel=1e-5)
    assert reference.uncertainty[-1] == pytest.approx(float(uncertainty.max()), rel=1e-5)
    assert found.uncertainty_percentile(uncertainty).mean() == pytest.approx(0.5, abs=0.05)


def test_what_says_something_else_is_not_written(
    exported: Stages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.precision.MIN_COSINE", 1.1)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "old").touch()
    arguments = ["--bundle", exported.path("bundle"), "--data", exported.path("test.npz"), "--precision", "fp16"]

    with pytest.raises(PrecisionError, match="something else in lower precision"):
        lower_precision.main([*arguments, "--out", str(tmp_path / "bundle")])

    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["old"]


def test_the_default_bundle_is_in_int8_and_says_what_it_costs(repository: Path) -> None:
    default, original = (load_bundle(repository / "models" / "bundles" / name) for name in ("default", "default-fp32"))

    figures = default.manifest.metrics["precision"]

    assert figures["original"] == original.hash
    assert figures["bytes"] < original.graph_path.stat().st_size / 2
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    embeddings = [open_graph(each.graph_path)(noise)[0] for each in (default, original)]
    assert (embeddings[0] * embeddings[1]).sum(axis=1).min() > 0.97
    assert json.loads(json.dumps(figures))["images"] >= 4000

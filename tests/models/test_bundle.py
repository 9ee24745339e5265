import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.bundle import Bundle, BundleError, Manifest, bundle_hash, load_bundle
from models.preprocess import Preprocessing

GRAPH = b"any bytes: the graph is only hashed here"


def manifest() -> dict[str, Any]:
    return {
        "format_version": 1,
        "name": "tiny",
        "backbone": {"name": "mobilenetv3_small_050", "args": {"num_classes": 0}},
        "preprocessing": {
            "size": 64,
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.2, 0.2, 0.2],
        },
        "dimension": 8,
        "outputs": ["embedding", "uncertainty", "novelty"],
        "graph_sha256": hashlib.sha256(GRAPH).hexdigest(),
        "reference": {
            "dataset": "random",
            "count": 5,
            "uncertainty": [0.0, 1.0, 2.0, 3.0, 4.0],
            "novelty": [10.0, 20.0, 20.0, 20.0, 40.0],
        },
        "training": {"data": "none", "licence": "CC0"},
    }


def written(folder: Path, content: dict[str, Any] | str, graph: bytes | None = GRAPH) -> Path:
    (folder / "bundle.json").write_text(content if isinstance(content, str) else json.dumps(content))
    if graph is not None:
        (folder / "model.onnx").write_bytes(graph)
    return folder


def changed(path: str, value: object) -> dict[str, Any]:
    """The manifest with one value replaced or added, e.g. at `reference.count`."""
    content = manifest()
    *parents, last = path.split(".")
    place = content
    for name in parents:
        place = place[name]
    place[last] = value
    return content


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in manifest().items() if key != name}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(written(tmp_path, manifest()))


def test_a_whole_bundle_loads(bundle: Bundle, tmp_path: Path) -> None:
    assert bundle.graph_path == tmp_path / "model.onnx"
    assert bundle.manifest.name == "tiny"
    assert bundle.manifest.dimension == 8
    assert bundle.hash.startswith("sha256:")
    assert len(bundle.hash) == len("sha256:") + 64


def test_preprocessing_is_the_manifests(bundle: Bundle) -> None:
    assert bundle.preprocessing == Preprocessing(64, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


def test_percentiles_are_shares_of_the_reference_set(bundle: Bundle) -> None:
    scores = np.array([-1.0, 0.0, 1.5, 4.0, 99.0], dtype=np.float32)
    assert bundle.uncertainty_percentile(scores).tolist() == [0.0, 0.0, 0.375, 1.0, 1.0]
    assert bundle.novelty_percentile(np.array([15.0, 20.0, 30.0], np.float32)).tolist() == [0.125, 0.5, 0.875]


@pytest.mark.parametrize("name", ["model.onnx", "bundle.json"])
def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    (written(tmp_path, manifest()) / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing.*candor export"):
        load_bundle(tmp_path)


def test_a_folder_that_does_not_exist_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is no bundle"):
        load_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("graph", [b"", GRAPH + b"!", b"another graph"])
def test_a_graph_other_than_the_hashed_one_is_refused(tmp_path: Path, graph: bytes) -> None:
    with pytest.raises(BundleError, match=r"is not the graph bundle\.json describes; export the bundle again"):
        load_bundle(written(tmp_path, manifest(), graph))


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (without("graph_sha256"), "graph_sha256"),
        (without("reference"), "reference"),
        (changed("format_version", 2), "format_version"),
        (changed("name", ""), "name"),
        (changed("surprise", 1), "surprise"),
        (changed("preprocessing.surprise", 1), "preprocessing.surprise"),
        (changed("preprocessing.interpolation", "area"), "preprocessing.interpolation"),
        (changed("preprocessing.crop_pct", 0.0), "preprocessing.crop_pct"),
        (changed("preprocessing.crop_pct", 1.5), "preprocessing.crop_pct"),
        (changed("preprocessing.mean", [0.5]), "preprocessing.mean"),
        (changed("dimension", 0), "dimension"),
        (changed("dimension", "many"), "dimension"),
        (changed("graph_sha256", "abc"), "graph_sha256"),
        (changed("reference.count", 0), "reference.count"),
        (changed("reference.uncertainty", [1.0]), "reference.uncertainty"),
        (changed("reference.uncertainty", [2.0, 1.0]), "uncertainty quantiles must be finite and ascending"),
        (changed("reference.novelty", [1.0, 3.0, 2.0]), "novelty quantiles must be finite and ascending"),
        (changed("reference.novelty", [1.0, float("inf")]), "novelty quantiles must be finite and ascending"),
        (changed("reference.uncertainty", [float("nan"), 1.0]), "uncertainty quantiles must be finite and ascending"),
        ("{", "JSON"),
        ("[]", "should be an object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_manifest_that_breaks_the_schema_says_where(
    tmp_path: Path, content: dict[str, Any] | str, place: str
) -> None:
    with pytest.raises(BundleError, match="breaks the schema of format 1") as raised:
        load_bundle(written(tmp_path, content))
    assert place in str(raised.value)
    assert "export" in str(raised.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("graph_sha256", "0" * 64),
        ("preprocessing.size", 96),
        ("preprocessing.crop_pct", 0.9),
        ("preprocessing.interpolation", "bilinear"),
        ("preprocessing.mean", [0.4, 0.5, 0.5]),
        ("preprocessing.std", [0.2, 0.2, 0.3]),
    ],
)
def test_the_hash_changes_with_what_decides_an_embedding(path: str, value: object) -> None:
    assert bundle_hash(Manifest.model_validate(changed(path, value))) != bundle_hash(
        Manifest.model_validate(manifest())
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("reference.uncertainty", [0.0, 9.0]),
        ("reference.novelty", [1.0, 2.0]),
        ("reference.dataset", "another"),
        ("name", "renamed"),
        ("metrics", {"r_auroc": 0.7}),
        ("created", "2030-01-01"),
    ],
)
def test_the_hash_stays_with_what_only_describes_it(path: str, value: object) -> None:
    assert bundle_hash(Manifest.model_validate(changed(path, value))) == bundle_hash(
        Manifest.model_validate(manifest())
    )


def test_the_hash_survives_writing_and_reading() -> None:
    first = Manifest.model_validate(manifest())
    assert bundle_hash(Manifest.model_validate_json(first.model_dump_json())) == bundle_hash(first)

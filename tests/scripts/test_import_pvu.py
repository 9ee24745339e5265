import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.backbone import Backbone, load_backbone
from models.bundle import Bundle, file_sha256, load_bundle
from models.graph import open_graph
from models.heads import load_head
from models.pvu import PvuError
from models.recover import recover_backbone
from models.representations import load_representations
from scripts import calibrate, export, import_pvu
from tests.models.test_pvu import ARGS, CLASSES, HIDDEN, MODEL, Published, averaged, images, parallel, published_state
from tests.offline import TORCH, pictures, write_packed

PER_CLASS = 9
COUNT = 6 * PER_CLASS


@dataclass(frozen=True)
class Imported:
    """A checkpoint, and what was made of it."""

    checkpoint: Path
    out: Path
    backbone: Backbone
    bundle: Bundle


def arguments(folder: Path, *more: str) -> list[str]:
    """The command on the checkpoint and the images in a folder."""
    given = [str(folder / "tiny.pth.tar"), "--backbone", MODEL, "--args", json.dumps(ARGS), "--size", "32"]
    given += ["--data", str(folder / "photos.npz"), "--out", str(folder / "tiny")]
    return [*given, "--device", TORCH, "--workers", "0", *more]


def prepared(folder: Path) -> Path:
    torch.save(averaged(parallel(published_state())), folder / "tiny.pth.tar")
    write_packed(folder / "photos.npz", *pictures(PER_CLASS, seed=0, faintest=0.1))
    return folder


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Imported:
    folder = prepared(tmp_path_factory.mktemp("pvu"))
    import_pvu.main(arguments(folder, "--licence", "CC BY 4.0", "--data-note", "ImageNet-21k"))
    out = folder / "tiny"
    return Imported(folder / "tiny.pth.tar", out, load_backbone(out / "backbone"), load_bundle(out / "bundle"))


def published_answers(seen: torch.Tensor) -> tuple[Any, Any, Any]:
    """Embedding (n, d), uncertainty (n,) and class entropy (n,) of the published model on (n, h, w, 3) uint8."""
    pixels = (seen.float() / 255 - 0.5) / 0.5
    with torch.inference_mode():
        logits, uncertainty, representation = Published()(pixels.permute(0, 3, 1, 2))
    probability = logits.double().softmax(dim=1).numpy()
    entropy = -(probability * np.log(probability)).sum(axis=1)
    vectors = representation.double().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), uncertainty.numpy(), entropy


def test_the_bundle_answers_as_the_published_model(imported: Imported) -> None:
    embedding, uncertainty, entropy = published_answers(images(12))

    found = dict(
        zip(imported.bundle.manifest.outputs, open_graph(imported.bundle.graph_path)(images(12).numpy()), strict=True)
    )

    assert np.abs(found["embedding"] - embedding).max() <= 1e-5
    assert np.abs(found["uncertainty"] - uncertainty).max() <= 1e-5
    assert np.abs(found["class_entropy"] - entropy).max() <= 1e-4
    assert np.ptp(uncertainty) > 1e-2


def test_backbone_and_head_are_folders_as_every_stage_takes_them(imported: Imported) -> None:
    head = load_head(imported.out / "head", imported.backbone.hash)

    assert (imported.backbone.name, imported.backbone.args) == (MODEL, ARGS)
    assert imported.backbone.preprocessing.size == 32
    assert imported.backbone.classes == tuple(str(number) for number in range(CLASSES))
    assert head.description["method"] == "pvu"
    assert head.description["options"] == {"hidden": HIDDEN}
    assert torch.equal(head.module.state_dict()["layers.2.weight"], published_state()["unc_module.unc_module.2.weight"])


def test_the_bundle_says_where_its_weights_come_from(imported: Imported) -> None:
    manifest = imported.bundle.manifest

    origin = {"checkpoint": "tiny.pth.tar", "sha256": file_sha256(imported.checkpoint)}
    assert manifest.name == "tiny"
    assert (manifest.training.data, manifest.training.licence) == ("ImageNet-21k", "CC BY 4.0")
    assert manifest.training.details == origin
    assert manifest.metrics["head"] == {"method": "pvu", **origin}


def test_statistics_and_percentiles_come_from_different_images(imported: Imported) -> None:
    caches = [
        load_representations(imported.out / f"{name}-cache", imported.backbone.hash)
        for name in ("statistics", "reference")
    ]

    indices = [set(cached.index.tolist()) for cached in caches]
    assert indices[0].isdisjoint(indices[1])
    assert indices[0] | indices[1] == set(range(COUNT))
    assert [len(index) for index in indices] == [COUNT // 2, COUNT // 2]
    assert all(set(cached.labels.tolist()) == set(range(6)) for cached in caches)
    reference = imported.bundle.manifest.reference
    assert reference.count == COUNT // 2
    assert reference.dataset == f"half of {imported.checkpoint.parent / 'photos.npz'}"


def test_the_backbone_can_be_recovered_from_the_bundle(imported: Imported) -> None:
    recovered = recover_backbone(imported.bundle.path)

    assert recovered.hash == imported.backbone.hash
    assert recovered.training["data"] == "ImageNet-21k"


def test_reference_images_of_their_own_leave_all_others_to_the_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared(tmp_path)
    write_packed(tmp_path / "others.npz", *pictures(4, seed=1))
    commands = {}
    for stage in (calibrate, export):
        monkeypatch.setattr(stage, "main", lambda given, name=stage.__name__: commands.update({name: given}))

    import_pvu.main(arguments(tmp_path, "--reference", str(tmp_path / "others.npz"), "--limit", "20", "--name", "mine"))

    backbone = load_backbone(tmp_path / "tiny" / "backbone")
    caches = [
        load_representations(tmp_path / "tiny" / f"{name}-cache", backbone.hash) for name in ("statistics", "reference")
    ]
    assert [cached.index.size for cached in caches] == [20, 20]
    assert [cached.description["dataset"] for cached in caches] == [
        str(tmp_path / "photos.npz"),
        str(tmp_path / "others.npz"),
    ]
    calibration = commands["scripts.calibrate"]
    assert calibration[calibration.index("--reference-name") + 1] == str(tmp_path / "others.npz")
    assert commands["scripts.export"][commands["scripts.export"].index("--name") + 1] == "mine"


def test_halves_share_nothing_and_leave_nothing_out() -> None:
    index = np.arange(100, 121)

    first, second = import_pvu.halves(index)

    assert sorted([*first, *second]) == index.tolist()
    assert (len(first), len(second)) == (11, 10)
    assert (np.diff(first) > 0).all()
    assert not np.array_equal(first, index[:11])


def test_another_model_than_the_checkpoints_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    prepared(tmp_path)
    given = arguments(tmp_path)
    given[given.index("--args") + 1] = json.dumps({**ARGS, "depth": 3})

    with pytest.raises(PvuError, match=r"does not fit .*model\.blocks\.2\..* is missing"):
        import_pvu.main(given)

    assert not (tmp_path / "tiny").exists()

r"""Make a bundle of a published Pretrained Visual Uncertainties checkpoint (Kirchhof et al., arXiv:2402.16569).

    candor import-pvu vit_base.pth.tar --backbone vit_base_patch16_224.augreg_in21k --data photos/ --out runs/pvu-base

The checkpoint is read as tensors only: nothing is unpickled. It becomes `backbone` and `head`, folders as every stage
takes them. Percentiles and novelty refer to images: half of those of --data, drawn at random, give the class means and
the covariance behind `novelty`, and the other half the percentiles, unless --reference names images of their own.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.backbone import Backbone, save_backbone
from models.bundle import file_sha256
from models.dataset import Dataset, limited_index
from models.datasets import open_dataset
from models.heads import save_head
from models.pvu import imported_backbone, imported_head, read_pvu
from models.representations import cache_representations
from scripts import calibrate, export
from scripts.common import add_compute_arguments, command_line, current_commit, json_object, log_to_stderr, parser

METHOD = "pvu"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    options = _arguments().parse_args(argv)
    backbone = _import(options)
    _calibrate(backbone, options)
    arguments = [*_judged(options.out), "--calibration", str(options.out / "calibration"), "--data", options.data]
    export.main([*arguments, "--name", options.name or options.out.name, "--out", str(options.out / "bundle")])


def halves(index: NDArray[np.int64], seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions (n,) as two random halves without overlap, each in ascending order."""
    first, second = np.array_split(np.random.default_rng(seed).permutation(index), 2)
    return np.sort(first), np.sort(second)


def _import(options: argparse.Namespace) -> Backbone:
    """Write backbone and head."""
    checkpoint = read_pvu(options.checkpoint)
    made, head = imported_backbone(checkpoint, options.backbone, options.args), imported_head(checkpoint)
    changed = {key: getattr(options, key) for key in ("size", "crop_pct") if getattr(options, key) is not None}
    origin = {"checkpoint": options.checkpoint.name, "sha256": file_sha256(options.checkpoint)}
    training = {"data": options.data_note, "licence": options.licence, **origin}
    backbone = replace(made, preprocessing=replace(made.preprocessing, **changed), training=training)
    save_backbone(backbone, options.out / "backbone")
    description = {
        "backbone_hash": backbone.hash,
        "data": [options.data_note],
        "training": {"method": METHOD, **origin},
        "command": command_line(),
        "commit": current_commit(),
    }
    save_head(head, METHOD, {"hidden": checkpoint.hidden}, options.out / "head", description)
    log_to_stderr().info("%s: %s, %d classes", options.out, options.backbone, checkpoint.classes)
    return backbone


def _calibrate(backbone: Backbone, options: argparse.Namespace) -> None:
    dataset = open_dataset(options.data)
    statistics = limited_index(len(dataset), options.limit)
    if options.reference:
        others = open_dataset(options.reference)
        reference, name = limited_index(len(others), options.limit), options.reference
    else:
        others, name = dataset, f"half of {options.data}"
        statistics, reference = halves(statistics)
    for folder, images, index in (("statistics", dataset, statistics), ("reference", others, reference)):
        _cache(backbone, images, index, options.out / f"{folder}-cache", options)
    arguments = [*_judged(options.out), "--cache", str(options.out / "statistics-cache")]
    arguments += ["--reference", str(options.out / "reference-cache")]
    arguments += ["--reference-name", options.reference_name or name]
    calibrate.main([*arguments, "--out", str(options.out / "calibration")])


def _cache(
    backbone: Backbone, dataset: Dataset, index: NDArray[np.int64], folder: Path, options: argparse.Namespace
) -> None:
    compute: Mapping[str, Any] = {"workers": options.workers, "device": options.device}
    cache_representations(backbone, dataset, folder, index=index, dtype="float32", **compute)


def _judged(out: Path) -> list[str]:
    return ["--backbone", str(out / "backbone"), "--head", str(out / "head")]


def _arguments() -> argparse.ArgumentParser:
    arguments = parser("import-pvu", __doc__)
    arguments.add_argument("checkpoint", type=Path, help="torch file of the published layout")
    arguments.add_argument("--backbone", required=True, help="timm model name")
    arguments.add_argument("--args", type=json_object, default={}, help="JSON arguments for timm.create_model")
    arguments.add_argument("--size", type=int, help="input size in pixels, instead of the model's own")
    arguments.add_argument("--crop-pct", type=float, help="share of the short side kept by the centre crop")
    arguments.add_argument("--data", required=True, help="data set spec of labelled images, e.g. 'photos/'")
    arguments.add_argument("--reference", help="data set spec of the images that percentiles refer to")
    arguments.add_argument("--reference-name", help="name of the reference set, as answers cite it")
    arguments.add_argument("--limit", type=int, help="use at most this many images of each set, drawn at random")
    arguments.add_argument("--data-note", default="unknown", help="what the weights were trained on")
    arguments.add_argument("--licence", default="unknown", help="on what terms the weights may be used")
    arguments.add_argument("--name", help="name of the bundle; that of the folder by default")
    arguments.add_argument("--out", type=Path, required=True, help="folder of the artefacts; the bundle in OUT/bundle")
    add_compute_arguments(arguments)
    return arguments


if __name__ == "__main__":
    main()

r"""Make a faster bundle of one that is there: its backbone in int8 for CPUs, or fp16 for GPUs, if it says the same.

    candor lower-precision --bundle bundles/mine --precision int8 --data 'photos/' --out bundles/mine-int8

The images of `--data` should be of several classes, none of them trained on: embeddings, R@1, R-AUROC and the order of
uncertainty are compared on them, and nothing is written where they differ by more than models/precision.py allows. The
figures go into the bundle. `--reference` names the bundle's reference images, to take percentiles from them anew.
"""

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from models.bundle import GRAPH_FILE, MANIFEST_FILE, Bundle, Manifest, Reference, file_sha256, load_bundle
from models.dataset import limited_index
from models.datasets import open_dataset
from models.export import rounded
from models.graph import open_graph
from models.precision import Precision, PrecisionError, compare, lower_graph, require
from models.preprocess import Preprocessing, preprocess
from scripts.common import command_line, current_commit, log_to_stderr, parser
from uncertainty.calibration import reference_quantiles

MOST = 4000  # images to compare on
CALIBRATED = 256  # images that the ranges of int8 are taken from


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    options = _arguments().parse_args(argv)
    bundle = load_bundle(options.bundle)
    images, labels = read_images(options.data, options.images, bundle.preprocessing)
    reference = options.reference and read_images(options.reference, None, bundle.preprocessing)[0]
    report(lowered_bundle(bundle, options.precision, images, labels, options.out, reference))


def report(lowered: Bundle) -> None:
    """Say where the bundle is and how it agrees with the one it was made of."""
    log_to_stderr().info(
        "%s: %s, %s", lowered.path, lowered.hash[:19], json.dumps(lowered.manifest.metrics["precision"])
    )


def lowered_bundle(
    bundle: Bundle,
    precision: Precision,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    folder: Path,
    reference: NDArray[np.uint8] | None = None,
) -> Bundle:
    """Write the bundle in lower precision, once it has agreed with itself on images (n, h, w, 3) with labels (n,).

    Raises:
        PrecisionError: where the two disagree, or cannot be compared; the folder is left as it was.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        _write_lowered(bundle, precision, images, labels, partial, reference)
        shutil.rmtree(folder, ignore_errors=True)
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return load_bundle(folder)


def _write_lowered(
    bundle: Bundle,
    precision: Precision,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    folder: Path,
    reference: NDArray[np.uint8] | None,
) -> None:
    graph = folder / GRAPH_FILE
    calibrated = images[np.linspace(0, len(images) - 1, min(CALIBRATED, len(images))).round().astype(int)]
    lower_graph(bundle.graph_path, graph, precision, calibrated)
    try:
        agreement = compare(bundle.graph_path, graph, images, labels)
    except ValueError as error:  # no class twice, or no mistake among them
        raise PrecisionError(f"{len(images)} images are too few or too easy to compare on: {error}") from error
    require(agreement)
    old = bundle.manifest
    sizes = {"bytes": graph.stat().st_size, "bytes_original": bundle.graph_path.stat().st_size}
    figures = {"precision": precision, "original": bundle.hash, **asdict(agreement), **sizes}
    changed: dict[str, Any] = {
        "graph_sha256": file_sha256(graph),
        "metrics": {**old.metrics, "precision": figures},
        "reference": old.reference if reference is None else _taken_anew(old.reference, graph, reference),
        "command": command_line(),
        "commit": current_commit(),
    }
    manifest = Manifest.model_validate({**old.model_dump(), **changed})
    (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1) + "\n")


def read_images(
    spec: str, count: int | None, preprocessing: Preprocessing
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Preprocessed images (n, h, w, 3) and labels (n,) of a data set, at most `count` of them."""
    dataset = open_dataset(spec)
    index = limited_index(len(dataset), count)
    return np.stack([preprocess(dataset.image(int(i)), preprocessing) for i in index]), dataset.labels[index]


def _taken_anew(old: Reference, graph: Path, images: NDArray[np.uint8]) -> Reference:
    """The same quantiles, of what the graph says of the reference images."""
    outputs = open_graph(graph, batch_size=32)(images)
    uncertainty, novelty = (rounded(reference_quantiles(outputs[i], len(old.uncertainty))) for i in (1, 2))
    return old.model_copy(update={"count": len(images), "uncertainty": uncertainty, "novelty": novelty})


def _arguments() -> argparse.ArgumentParser:
    arguments = parser("lower-precision", __doc__)
    arguments.add_argument("--bundle", type=Path, required=True, help="bundle folder to start from")
    arguments.add_argument("--precision", choices=get_args(Precision), required=True)
    arguments.add_argument("--data", required=True, help="data set spec of labelled images to compare on")
    arguments.add_argument("--images", type=int, default=MOST, help="at most this many of them")
    arguments.add_argument("--reference", help="data set spec of the reference images, to take percentiles anew")
    arguments.add_argument("--out", type=Path, required=True, help="bundle folder to write; replaced as a whole")
    return arguments


if __name__ == "__main__":
    main()

r"""Fit what raw scores are compared with: reference percentiles, and the statistics behind `novelty`.

    candor calibrate --backbone runs/backbone --head runs/head --cache runs/cache-train \
        --reference runs/cache-reference --out runs/calibration

`--cache` holds labelled training images, whose class means and shared covariance define what is not novel;
`--reference` holds images of which neither backbone nor head has seen any, whose quantiles percentiles refer to.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.backbone import load_backbone
from models.calibration import Calibration, save_calibration
from models.heads import load_head, predict
from models.representations import load_representations
from scripts.common import log_to_stderr, parser
from uncertainty.calibration import reference_quantiles
from uncertainty.novelty import fit_novelty, novelty


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    options = _arguments().parse_args(argv)
    backbone = load_backbone(options.backbone)
    head = load_head(options.head, backbone.hash)
    training = load_representations(options.cache, backbone.hash)
    reference = load_representations(options.reference, backbone.hash)
    if head.layers and not reference.description["layers"]:
        raise SystemExit("the head sees all layers; cache the reference with `candor cache-representations --layers`")
    model = fit_novelty(np.asarray(training.clean, dtype=np.float64), training.labels)
    clean = np.asarray(reference.clean, dtype=np.float32)
    features = reference.features[0] if head.layers else clean
    calibration = Calibration(
        dataset=options.reference_name or reference.description["dataset"],
        count=len(clean),
        uncertainty=reference_quantiles(predict(head.module, features), options.quantiles),
        novelty=reference_quantiles(novelty(model, clean), options.quantiles),
        novelty_model=model,
    )
    save_calibration(calibration, backbone.hash, options.out)
    log_to_stderr().info("%s: %d reference images, %d novelty centroids", options.out, len(clean), len(model.centroids))


def _arguments() -> argparse.ArgumentParser:
    arguments = parser("calibrate", __doc__)
    arguments.add_argument("--backbone", type=Path, required=True, help="backbone folder")
    arguments.add_argument("--head", type=Path, required=True, help="head folder")
    arguments.add_argument("--cache", type=Path, required=True, help="cache of labelled training images")
    arguments.add_argument("--reference", type=Path, required=True, help="cache of reference images")
    arguments.add_argument("--reference-name", help="name of the reference set, as answers cite it")
    arguments.add_argument("--quantiles", type=int, default=201, help="quantiles kept of each score")
    arguments.add_argument("--out", type=Path, required=True, help="calibration folder to write")
    return arguments


if __name__ == "__main__":
    main()

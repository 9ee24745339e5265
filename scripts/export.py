r"""Make a bundle of backbone, head and calibration: one ONNX graph that agrees with torch, and bundle.json.

    candor export --backbone runs/backbone --head runs/head --calibration runs/calibration --data 'val.npz' \
        --evaluation runs/evaluation/results.json --name mine --out bundles/mine

A folder that is already there is replaced, once the new graph has agreed with torch. With `--precision int8`, for CPUs,
or `fp16`, for GPUs, that graph goes to `OUT-fp32`, and one in lower precision to `OUT` if it says the same of the
labelled images of `--data`, as `candor lower-precision` has it.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from models.backbone import load_backbone
from models.calibration import load_calibration
from models.dataset import limited_index
from models.datasets import open_dataset
from models.export import export_bundle
from models.heads import load_head
from models.precision import Precision
from models.preprocess import preprocess
from scripts.common import command_line, current_commit, log_to_stderr, parser
from scripts.lower_precision import MOST, lowered_bundle, read_images, report


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    options = _arguments().parse_args(argv)
    backbone = load_backbone(options.backbone)
    dataset = open_dataset(options.data)
    index = limited_index(len(dataset), options.images)
    images = np.stack([preprocess(dataset.image(int(i)), backbone.preprocessing) for i in index])  # (n, h, w, 3)
    head = load_head(options.head, backbone.hash)
    full = options.out if options.precision == "fp32" else options.out.with_name(f"{options.out.name}-fp32")
    noted = {"head": options.head_data, "licence": options.licence}
    training = {**backbone.training, **{key: value for key, value in noted.items() if value}}
    bundle = export_bundle(
        replace(backbone, training=training),
        head.module,
        load_calibration(options.calibration, backbone.hash),
        images,
        full,
        name=options.name,
        metrics={"head": head.description["training"], "evaluation": _figures(options.evaluation)},
        provenance={"command": options.command or command_line(), "commit": current_commit()},
    )
    log_to_stderr().info("%s: %s, %s", full, bundle.hash[:19], json.dumps(bundle.manifest.metrics["parity"]))
    if options.precision != "fp32":
        labelled = read_images(options.data, MOST, bundle.preprocessing)
        report(lowered_bundle(bundle, options.precision, *labelled, options.out))


def _figures(path: Path | None) -> dict[str, Any]:
    """R@1 and the head's row, where there was something to rank, of each data set in an evaluation's results.json."""
    if path is None:
        return {}
    data = json.loads(path.read_text())["data"]
    return {
        name: {"recall_at_1": found["recall_at_1"], **found["scores"].get("head", {})} for name, found in data.items()
    }


def _arguments() -> argparse.ArgumentParser:
    arguments = parser("export", __doc__)
    arguments.add_argument("--backbone", type=Path, required=True, help="backbone folder")
    arguments.add_argument("--head", type=Path, required=True, help="head folder")
    arguments.add_argument("--calibration", type=Path, required=True, help="calibration folder")
    arguments.add_argument("--data", required=True, help="data set spec of real images to prove the graph on")
    arguments.add_argument("--images", type=int, default=256, help="how many of them")
    arguments.add_argument("--precision", choices=("fp32", *get_args(Precision)), default="fp32")
    arguments.add_argument("--evaluation", type=Path, help="results.json of an evaluation, to keep its figures")
    arguments.add_argument("--name", required=True, help="name of the bundle")
    arguments.add_argument("--head-data", help="what the head was trained on, for the record")
    arguments.add_argument("--licence", help="terms of the bundle, instead of those of the backbone")
    arguments.add_argument("--command", help="command to record instead of this one")
    arguments.add_argument("--out", type=Path, required=True, help="bundle folder to write; replaced as a whole")
    return arguments


if __name__ == "__main__":
    main()

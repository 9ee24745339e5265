"""From a folder of your images to a bundle, in one command: a calibrated, evaluated head behind a timm backbone.

    candor fit --backbone vit_small_patch16_224.augreg_in1k --data photos/ --out runs/photos
    candor fit --backbone runs/vit/backbone --data 'photos/*.npz' --out runs/photos
    candor serve --bundle runs/photos/bundle

`--backbone` is a backbone folder, or a timm name or `hf-hub:` id, whose weights are downloaded unless --weights names a
file. With ten classes or more, a fifth of them is only reported on; with fewer, a fifth of the images is. A folder of
images without sub-folders has no classes: its head learns whether a crop finds the image that it was taken from. --head
and --pvu bring a head that is already trained. The log shows each stage as the command that it is, a run that was
stopped goes on where it was, and OUT/report.md says what came of it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from models.datasets import open_dataset
from models.methods.registry import METHODS
from scripts.common import add_compute_arguments, log_to_stderr, parser
from scripts.fitting.ledger import run_stages
from scripts.fitting.plan import METHOD, TO_BACKBONE, TO_PVU, Plan
from scripts.fitting.report import write_report
from scripts.fitting.split import divide, keep_split, require_usable

LEDGER = "stages.json"


def main(argv: Sequence[str] | None = None) -> None:
    """Run every stage that is not finished, and write the report."""
    arguments = _arguments()
    options = arguments.parse_args(argv)
    _require_consistent(arguments, options)
    options.name = options.name or options.out.name
    matplotlib.use("agg")
    dataset = open_dataset(options.data)
    require_usable(dataset)
    split = divide(dataset, options.seed)
    plan = Plan(options, split)
    keep_split(split, dataset, options.seed, options.out / "split.json")
    log_to_stderr().info("%s: %s", options.out / "split.json", split)
    run_stages(plan.stages(), options.out / LEDGER, plan.given())
    report = write_report(options.out, plan, split, dataset)
    log_to_stderr().info("%s\n%s: candor serve --bundle %s", report, options.out / "report.md", options.out / "bundle")


def _require_consistent(arguments: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Refuse options that would not be used."""
    folder = Path(options.backbone).is_dir()
    if folder and options.pvu:
        arguments.error("--pvu needs a timm name as --backbone: the checkpoint holds the weights")
    taken = TO_PVU if options.pvu else () if folder else (*TO_BACKBONE, "data_note", "half_normalised")
    for name in sorted({*TO_BACKBONE, *TO_PVU, "half_normalised"} - set(taken)):
        if getattr(options, name):
            holder = options.pvu or options.backbone
            arguments.error(f"--{name.replace('_', '-')} is for a timm model's own weights; {holder} has its own")


def _arguments() -> argparse.ArgumentParser:
    arguments = parser("fit", __doc__)
    arguments.add_argument("--backbone", required=True, help="backbone folder, timm name or hf-hub: id")
    arguments.add_argument("--data", required=True, help="folder of class folders or of images, or any data set spec")
    arguments.add_argument("--out", type=Path, required=True, help="folder of the artefacts; the bundle in OUT/bundle")
    arguments.add_argument("--name", help="name of the bundle; that of the folder by default")
    head = arguments.add_mutually_exclusive_group()
    head.add_argument("--head", type=Path, help="head folder, trained behind this backbone, instead of a new head")
    head.add_argument("--pvu", type=Path, help="published PVU checkpoint, whose backbone and head are taken")
    head.add_argument("--method", choices=tuple(METHODS), default=METHOD, help="how to train the head")
    model = arguments.add_argument_group("a timm model", "as for `candor import-backbone`")
    model.add_argument("--weights", type=Path, help=".safetensors, .pth (tensors only) or .npz, instead of a download")
    model.add_argument("--args", help="JSON arguments for timm.create_model")
    model.add_argument("--classes", help="names of its classifier's classes: a file with one per line, or their number")
    model.add_argument("--size", type=int, help="input size in pixels, instead of the model's own")
    model.add_argument("--crop-pct", type=float, help="share of the short side kept by the centre crop")
    model.add_argument("--half-normalised", action="store_true", help="pixels in [-1, 1]: mean and std of one half")
    model.add_argument("--data-note", help="what the weights were trained on")
    model.add_argument("--licence", help="on what terms the weights may be used")
    arguments.add_argument("--seed", type=int, default=0, help="seed of the split, the augmentations and the head")
    add_compute_arguments(arguments)
    return arguments


if __name__ == "__main__":
    main()

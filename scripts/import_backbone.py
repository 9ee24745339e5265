"""Make a backbone folder from a timm model: with its pretrained weights, or with weights from a file.

    candor import-backbone vit_small_patch16_224.augreg_in21k --pretrained --out backbones/vit-small
    candor import-backbone mobilenetv2_100 --args '{"pad_type": "same"}' --weights state_dict.npz --classes 1000 --out b

Weights from a file are read as tensors only: nothing is unpickled.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from models.backbone import create_backbone, read_state_dict, save_backbone
from scripts.common import json_object, log_to_stderr, parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    options = _arguments().parse_args(argv)
    names = Path(options.classes).read_text().split("\n") if not options.classes.isdigit() else None
    classes = tuple(n for n in names if n) if names else tuple(str(i) for i in range(int(options.classes)))
    backbone = create_backbone(options.model, classes=classes, args=options.args, pretrained=options.pretrained)
    if options.weights:
        try:
            backbone.module.load_state_dict(read_state_dict(options.weights))
        except RuntimeError as error:
            raise SystemExit(f"{options.weights} does not fit {options.model}: {error}") from error
    changed = {key: getattr(options, key) for key in ("size", "crop_pct") if getattr(options, key) is not None}
    if options.half_normalised:
        changed |= {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    source = {"data": options.data, "licence": options.licence}
    backbone = replace(backbone, preprocessing=replace(backbone.preprocessing, **changed), training=source)
    save_backbone(backbone, options.out)
    log_to_stderr().info("%s: %s, %s", options.out, options.model, backbone.hash[:19])


def _arguments() -> argparse.ArgumentParser:
    arguments = parser("import-backbone", __doc__)
    arguments.add_argument("model", help="timm model name")
    arguments.add_argument("--args", type=json_object, default={}, help="JSON arguments for timm.create_model")
    weights = arguments.add_mutually_exclusive_group(required=True)
    weights.add_argument("--pretrained", action="store_true", help="download timm's weights")
    weights.add_argument("--weights", type=Path, help=".safetensors, .pth (tensors only) or .npz")
    arguments.add_argument("--classes", default="1000", help="number of classes, or a file with one name per line")
    arguments.add_argument("--size", type=int, help="input size in pixels, instead of the model's own")
    arguments.add_argument("--crop-pct", type=float, help="share of the short side kept by the centre crop")
    arguments.add_argument("--half-normalised", action="store_true", help="pixels in [-1, 1]: mean and std of one half")
    arguments.add_argument("--data", default="unknown", help="what the weights were trained on")
    arguments.add_argument("--licence", default="unknown", help="on what terms the weights may be used")
    arguments.add_argument("--out", type=Path, required=True, help="backbone folder to write")
    return arguments


if __name__ == "__main__":
    main()

"""Make a backbone folder from a timm model: with its pretrained weights, those of a file, or those of a bundle.

    candor import-backbone vit_small_patch16_224.augreg_in21k --pretrained --out backbones/vit-small
    candor import-backbone mobilenetv2_100 --args '{"pad_type": "same"}' --weights state_dict.npz --out b
    candor import-backbone --bundle bundles/mine --out backbones/mine

Weights from a file are read as tensors only: nothing is unpickled. A bundle says itself which model it holds, with what
arguments and preprocessing, and what it was trained on. The classes are those of the classifier among the weights, and
named by their numbers unless --classes names a file.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from models.backbone import Backbone, classifier_weight, create_backbone, numbered, read_state_dict, save_backbone
from models.recover import recover_backbone
from scripts.common import json_object, log_to_stderr, parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    arguments = _arguments()
    options = arguments.parse_args(argv)
    if options.bundle is None and options.model is None:
        arguments.error("the timm model is needed without --bundle")
    if options.bundle is not None and options.args:
        arguments.error("--args are the bundle's own")
    backbone = _created(options) if options.bundle is None else _recovered(options)
    changed = {key: getattr(options, key) for key in ("size", "crop_pct") if getattr(options, key) is not None}
    if options.half_normalised:
        changed |= {"mean": (0.5,) * 3, "std": (0.5,) * 3}
    source = {key: getattr(options, key) for key in ("data", "licence") if getattr(options, key) is not None}
    training = {"data": "unknown", "licence": "unknown", **backbone.training, **source}
    backbone = replace(backbone, preprocessing=replace(backbone.preprocessing, **changed), training=training)
    save_backbone(backbone, options.out)
    log_to_stderr().info("%s: %s, %s", options.out, backbone.name, backbone.hash[:19])


def _created(options: argparse.Namespace) -> Backbone:
    state = read_state_dict(options.weights) if options.weights else {}
    classes = _class_names(options.classes) if options.classes else _classes_of(state, options.model)
    backbone = create_backbone(options.model, classes=classes, args=options.args, pretrained=options.pretrained)
    if options.weights:
        try:
            backbone.module.load_state_dict(state)
        except RuntimeError as error:
            raise SystemExit(f"{options.weights} does not fit {options.model}: {error}") from error
    return backbone


def _classes_of(state: Mapping[str, Tensor], model: str) -> tuple[str, ...] | None:
    """The classes of the classifier among these weights, or None, for timm's own, where none is found there."""
    weight = state.get(classifier_weight(model))
    return None if weight is None else numbered(len(weight))


def _recovered(options: argparse.Namespace) -> Backbone:
    backbone = recover_backbone(options.bundle)
    if options.model not in (None, backbone.name):
        raise SystemExit(f"{options.bundle} holds {backbone.name}, not {options.model}")
    classes = _class_names(options.classes) if options.classes else backbone.classes
    if len(classes) != len(backbone.classes):
        raise SystemExit(f"{options.bundle} has {len(backbone.classes)} classes, not {len(classes)}")
    return replace(backbone, classes=classes)


def _class_names(text: str) -> tuple[str, ...]:
    """The lines of a file, or as many numbers from 0."""
    if text.isdigit():
        return numbered(int(text))
    return tuple(name for name in Path(text).read_text().split("\n") if name)


def _arguments() -> argparse.ArgumentParser:
    arguments = parser("import-backbone", __doc__)
    arguments.add_argument("model", nargs="?", help="timm model name; a bundle knows its own")
    arguments.add_argument("--args", type=json_object, default={}, help="JSON arguments for timm.create_model")
    weights = arguments.add_mutually_exclusive_group(required=True)
    weights.add_argument("--pretrained", action="store_true", help="download timm's weights")
    weights.add_argument("--weights", type=Path, help=".safetensors, .pth (tensors only) or .npz")
    weights.add_argument("--bundle", type=Path, help="bundle folder, whose graph holds the weights")
    arguments.add_argument("--classes", help="a file with one class name per line, or their number")
    arguments.add_argument("--size", type=int, help="input size in pixels, instead of the model's own")
    arguments.add_argument("--crop-pct", type=float, help="share of the short side kept by the centre crop")
    arguments.add_argument("--half-normalised", action="store_true", help="pixels in [-1, 1]: mean and std of one half")
    arguments.add_argument("--data", help="what the weights were trained on")
    arguments.add_argument("--licence", help="on what terms the weights may be used")
    arguments.add_argument("--out", type=Path, required=True, help="backbone folder to write")
    return arguments


if __name__ == "__main__":
    main()

"""Run a frozen backbone once over a data set, clean and augmented, and keep its representations.

    candor cache-representations --backbone runs/backbone --data 'tiny/train-9.npz' --views 4 --out runs/cache

An interrupted run goes on where it stopped.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models.augment import Augmentation
from models.backbone import load_backbone
from models.dataset import limited_index
from models.datasets import open_dataset
from models.representations import cache_representations
from scripts.common import add_compute_arguments, log_to_stderr, parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    options = _arguments().parse_args(argv)
    dataset = open_dataset(options.data)
    cached = cache_representations(
        load_backbone(options.backbone),
        dataset,
        options.out,
        augmented_views=options.views,
        augmentation=Augmentation(options.min_scale, options.jitter, options.seed, options.degraded),
        index=limited_index(len(dataset), options.limit),
        layers=options.layers,
        dtype=options.dtype,
        batch_size=options.batch_size,
        workers=options.workers,
        device=options.device,
    )
    log_to_stderr().info("%s: %s views, images, dimensions", options.out, np.shape(cached.features))


def _arguments() -> argparse.ArgumentParser:
    arguments = parser("cache-representations", __doc__)
    arguments.add_argument("--backbone", type=Path, required=True, help="backbone folder")
    arguments.add_argument("--data", required=True, help="data set spec, e.g. 'photos/' or 'train-*.npz@0-49'")
    arguments.add_argument("--limit", type=int, help="use at most this many images, drawn at random")
    arguments.add_argument("--views", type=int, default=0, help="augmented views beside the clean one")
    arguments.add_argument("--min-scale", type=float, default=0.08, help="smallest share of the area a crop keeps")
    arguments.add_argument("--jitter", type=float, default=0.4, help="strength of the colour jitter")
    arguments.add_argument(
        "--degraded", type=float, default=0.0, help="share of the views that are blurred, noisy or compressed too"
    )
    arguments.add_argument("--seed", type=int, default=0, help="seed of the augmentations")
    arguments.add_argument("--layers", action="store_true", help="keep mean and spread of every layer as well")
    arguments.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    arguments.add_argument("--batch-size", type=int, default=64)
    arguments.add_argument("--out", type=Path, required=True, help="cache folder to write")
    add_compute_arguments(arguments)
    return arguments


if __name__ == "__main__":
    main()

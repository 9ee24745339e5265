"""The models that are served: the default bundle, and three of timm's architectures with random weights.

Weights do not change what an image costs. They are seeded, and normalisation is set so that embeddings differ between
photos, in length too: they must tell whether a server has done its work.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.peers.catalogue import DEFAULT
from benchmarks.peers.catalogue import MODELS as MODELS  # whose bundles these are
from models.backbone import Backbone, create_backbone, represent
from models.bundle import DEFAULT_BUNDLE, MANIFEST_FILE
from models.calibration import Calibration
from models.export import export_bundle
from models.heads import predict
from models.images import ImageLimits, decode_image
from models.methods.base import Sizes
from models.methods.registry import make_head
from models.preprocess import preprocess
from uncertainty.calibration import reference_quantiles
from uncertainty.novelty import fit_novelty, novelty

SIDE = 224
SEED = 0
CLASSES = 10
METHOD = "retrieval-loss"


def bundle_of(model: str, folder: Path, photos: Sequence[Path]) -> Path:
    """The bundle folder of a model; exported first where it is missing."""
    if model == DEFAULT:
        return DEFAULT_BUNDLE
    bundle = folder / model
    if not (bundle / MANIFEST_FILE).is_file():
        _export(model, bundle, photos)
    return bundle


def _export(model: str, folder: Path, photos: Sequence[Path]) -> None:
    torch.manual_seed(SEED)
    made = create_backbone(model, classes=tuple(map(str, range(1000))))
    backbone = replace(made, preprocessing=replace(made.preprocessing, size=SIDE))
    limits = ImageLimits()
    images = np.stack(
        [preprocess(decode_image(photo.read_bytes(), limits), backbone.preprocessing) for photo in photos]
    )  # (n, h, w, 3)
    _settle(backbone, images)
    features = _represented(backbone, images)
    labels = np.arange(len(features)) % CLASSES
    head = make_head(METHOD, Sizes(features.shape[1], features.shape[1], CLASSES))
    head.prepare(torch.from_numpy(features), torch.from_numpy(labels))
    model_of_novelty = fit_novelty(features.astype(np.float64), labels)
    calibration = Calibration(
        dataset="the benchmark's photos",
        count=len(features),
        uncertainty=reference_quantiles(predict(head, features), 101),
        novelty=reference_quantiles(novelty(model_of_novelty, features), 101),
        novelty_model=model_of_novelty,
    )
    provenance = {"command": "python -m benchmarks.peers", "commit": "none"}
    export_bundle(backbone, head.eval(), calibration, images, folder, name=model, metrics={}, provenance=provenance)


def _settle(backbone: Backbone, images: NDArray[np.uint8]) -> None:
    """Take the statistics of batch normalisation from (n, h, w, 3) images, and scale layer normalisation, in place."""
    with torch.no_grad():
        for layer in backbone.module.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.reset_running_stats()
                layer.momentum = None  # the plain average of what comes
            if isinstance(layer, nn.LayerNorm):
                nn.init.uniform_(layer.weight, 0.5, 1.5)  # else all embeddings are of one length
        backbone.module.train()
        _represented(backbone, images)
        backbone.module.eval()


def _represented(backbone: Backbone, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(n, h, w, 3) -> (n, d)."""
    with torch.no_grad():
        parts = [
            represent(backbone.module, torch.from_numpy(part), backbone.preprocessing).numpy()
            for part in np.array_split(images, max(1, len(images) // CLASSES))
        ]
    return np.concatenate(parts)

"""From backbone, head and calibration to a bundle: one ONNX graph, proven to agree with torch before it is kept."""

import datetime
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import timm
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbone import Backbone, classify, represent, represent_layers
from models.bundle import (
    FORMAT_VERSION,
    GRAPH_FILE,
    MANIFEST_FILE,
    BackboneSpec,
    Bundle,
    Manifest,
    PreprocessingSpec,
    Reference,
    Training,
    file_sha256,
    load_bundle,
)
from models.calibration import Calibration
from models.errors import UserError
from models.graph import export_graph, open_graph
from models.methods.base import Head
from uncertainty.metrics import spearman

OUTPUTS = ("embedding", "uncertainty", "novelty", "class_entropy")
BATCH_SIZES = (1, 3, 32)
MAX_EMBEDDING_ERROR = 1e-4
MAX_BATCH_DIFFERENCE = 1e-5
MIN_SPEARMAN = 0.9999


class ExportError(UserError):
    """A graph that does not say what the torch model says; the message gives the figures."""


class ServedModel(nn.Module):
    """Everything between uint8 pixels and the outputs of a bundle, as one module."""

    whitening: Tensor
    centroids: Tensor

    def __init__(self, backbone: Backbone, head: Head, calibration: Calibration) -> None:
        super().__init__()
        self.module, self.head = backbone.module, head
        self._represent = represent_layers if head.sizes.features > head.sizes.dimension else represent
        self._preprocessing = backbone.preprocessing
        self.register_buffer("whitening", torch.from_numpy(calibration.novelty_model.whitening).float())
        self.register_buffer("centroids", torch.from_numpy(calibration.novelty_model.centroids).float())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(b, h, w, 3) uint8 -> embedding (b, d') of unit norm; uncertainty, novelty and class entropy (b,) each."""
        features = self._represent(self.module, image, self._preprocessing)  # (b, f)
        representation = self.head.pooled(features)  # (b, d)
        direction = F.normalize(representation, dim=1)
        offset = (direction @ self.whitening).unsqueeze(1) - self.centroids  # (b, c, d)
        novelty = offset.square().sum(dim=2).min(dim=1).values
        log_probability = F.log_softmax(classify(self.module, representation), dim=1)
        entropy = -(log_probability.exp() * log_probability).sum(dim=1)
        return self.head.embed(features), self.head(features), novelty, entropy


@dataclass(frozen=True)
class Parity:
    """How far the graph is from torch, and from itself at other batch sizes, over `images` images."""

    images: int
    max_embedding_error: float
    max_batch_difference: float
    min_uncertainty_spearman: float
    max_novelty_relative_error: float


def export_bundle(
    backbone: Backbone,
    head: Head,
    calibration: Calibration,
    images: NDArray[np.uint8],
    folder: Path,
    *,
    name: str,
    metrics: Mapping[str, Any],
    provenance: Mapping[str, str],
) -> Bundle:
    """Write a bundle folder, after its graph has agreed with torch on `images` (n, h, w, 3).

    Raises:
        ExportError: where the two disagree by more than the limits above; the folder is left as it was.
    """
    model = ServedModel(backbone, head, calibration).eval()
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    export_graph(model, torch.from_numpy(images[:2]), partial / GRAPH_FILE, OUTPUTS)
    try:
        parity = measure_parity(model, partial / GRAPH_FILE, images)
    except ValueError as error:  # scores that are constant or not finite
        raise ExportError(f"the ONNX graph cannot be compared with torch on {len(images)} images: {error}") from error
    _require_parity(parity)
    stated_elsewhere = {"data", "licence", "command", "commit"}
    details = {key: value for key, value in backbone.training.items() if key not in stated_elsewhere}
    manifest = Manifest(
        format_version=FORMAT_VERSION,
        name=name,
        backbone=BackboneSpec(name=backbone.name, args=dict(backbone.args)),
        preprocessing=PreprocessingSpec(**asdict(backbone.preprocessing)),
        dimension=_embedding_dimension(model, images),
        outputs=list(OUTPUTS),
        graph_sha256=file_sha256(partial / GRAPH_FILE),
        reference=Reference(
            dataset=calibration.dataset,
            count=calibration.count,
            uncertainty=rounded(calibration.uncertainty),
            novelty=rounded(calibration.novelty),
        ),
        training=Training(
            data=str(backbone.training.get("data", "unknown")),
            licence=str(backbone.training.get("licence", "unknown")),
            details=details,
        ),
        calibration={"novelty_shrinkage": calibration.novelty_model.shrinkage},
        metrics={**metrics, "parity": asdict(parity)},
        versions=_versions(),
        created=_timestamp(),
        **provenance,
    )
    (partial / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
    return load_bundle(folder)


def measure_parity(model: nn.Module, graph: Path, images: NDArray[np.uint8]) -> Parity:
    """Compare the graph at each batch size with torch and with each other, on (n, h, w, 3) images."""
    with torch.inference_mode():
        expected = [output.numpy() for output in model(torch.from_numpy(images))]
    found = [open_graph(graph, batch_size=size)(images) for size in BATCH_SIZES]
    return Parity(
        images=len(images),
        max_embedding_error=max(float(np.abs(run[0] - expected[0]).max()) for run in found),
        max_batch_difference=max(float(np.abs(run[0] - found[0][0]).max()) for run in found),
        min_uncertainty_spearman=min(spearman(run[1], expected[1]) for run in found),
        max_novelty_relative_error=max(float(np.abs(run[2] / expected[2] - 1).max()) for run in found),
    )


def _require_parity(parity: Parity) -> None:
    agrees = (
        parity.max_embedding_error <= MAX_EMBEDDING_ERROR
        and parity.max_batch_difference <= MAX_BATCH_DIFFERENCE
        and parity.min_uncertainty_spearman >= MIN_SPEARMAN
    )
    if not agrees:  # so that a NaN is refused as well
        raise ExportError(f"the ONNX graph disagrees with torch: {parity}")


def _embedding_dimension(model: nn.Module, images: NDArray[np.uint8]) -> int:
    with torch.inference_mode():
        return int(model(torch.from_numpy(images[:1]))[0].shape[1])


def rounded(quantiles: NDArray[np.float64]) -> list[float]:
    """Seven significant digits, more than float32 scores have."""
    return [float(f"{value:.7g}") for value in quantiles]


def _versions() -> dict[str, str]:
    modules = {"torch": torch, "timm": timm, "onnx": onnx, "onnxruntime": onnxruntime, "numpy": np}
    return {"python": platform.python_version(), **{name: str(m.__version__) for name, m in modules.items()}}


def _timestamp() -> str:
    """UTC, to the second; SOURCE_DATE_EPOCH fixes it for repeatable builds."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.datetime.fromtimestamp(int(epoch), datetime.UTC) if epoch else datetime.datetime.now(datetime.UTC)
    return now.isoformat(timespec="seconds")

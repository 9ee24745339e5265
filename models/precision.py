"""A bundle's graph in lower precision, kept only if it says the same of real images.

What is lowered is the backbone; preprocessing, the head and novelty stay in float32, as their numbers reach users.
"""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from models.errors import UserError
from models.graph import open_graph
from uncertainty.metrics import r_auroc, recall_at_1, spearman
from uncertainty.neighbours import nearest_neighbour

Precision = Literal["fp16", "int8"]

SCOPES: Final = "pkg.torch.onnx.name_scopes"  # where the exporter says which module a node comes from
BACKBONE: Final = "module"
MULTIPLIED: Final = ("MatMul", "Gemm")
CONVOLVED: Final = ("Conv", "Relu", "Add", "MaxPool", "Clip", "GlobalAveragePool")
FEW_CONVOLUTIONS: Final = 3  # a transformer's patches take one or a few
CALIBRATION_BATCH: Final = 16

MIN_COSINE: Final = 0.99  # mean over images
MAX_RECALL_CHANGE: Final = 0.005
MAX_R_AUROC_CHANGE: Final = 0.005
MIN_SPEARMAN: Final = 0.99


class PrecisionError(UserError):
    """A graph that cannot be lowered, or that says something else once it is; the message gives the figures."""


@dataclass(frozen=True)
class Agreement:
    """What a lowered graph says of labelled images beside what the original says."""

    images: int
    cosine_mean: float
    cosine_least: float
    recall_at_1: float
    recall_at_1_original: float
    r_auroc: float
    r_auroc_original: float
    uncertainty_spearman: float

    def holds(self) -> bool:
        """Whether it may be served instead; False as well where a figure is not a number."""
        return (
            self.cosine_mean >= MIN_COSINE
            and abs(self.recall_at_1 - self.recall_at_1_original) <= MAX_RECALL_CHANGE
            and abs(self.r_auroc - self.r_auroc_original) <= MAX_R_AUROC_CHANGE
            and self.uncertainty_spearman >= MIN_SPEARMAN
        )


def lower_graph(graph: Path, out: Path, precision: Precision, images: NDArray[np.uint8]) -> None:
    """Write the graph with its backbone in `precision`: fp16 for GPUs, int8 for CPUs.

    int8 is dynamic for matrices, as transformers have them; convolutions are calibrated on `images` (n, h, w, 3).

    Raises:
        PrecisionError: when the graph does not say which of its nodes are the backbone's.
    """
    model = onnx.load(graph)
    inside = [node.name for node in model.graph.node if _scope(node).partition(".")[0] == BACKBONE]
    if not inside:
        raise PrecisionError(f"{graph} does not say which nodes are the backbone's; export the bundle again")
    if precision == "fp16":
        outside = [node.name for node in model.graph.node if node.name not in set(inside)]
        onnx.save(convert_float_to_float16(model, keep_io_types=True, node_block_list=outside), out)
    elif sum(node.op_type == "Conv" for node in model.graph.node) <= FEW_CONVOLUTIONS:
        _quantise_matrices(graph, out, inside)
    else:
        _quantise_convolutions(graph, out, inside, images)


def compare(graph: Path, lowered: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Agreement:
    """Both graphs on labelled images (n, h, w, 3), (n,)."""
    original, found = (open_graph(path, batch_size=32)(images) for path in (graph, lowered))
    cosine = (original[0] * found[0]).sum(axis=1)
    recall, ranking = zip(*(_retrieval(outputs, labels) for outputs in (original, found)), strict=True)
    return Agreement(
        images=len(images),
        cosine_mean=float(cosine.mean()),
        cosine_least=float(cosine.min()),
        recall_at_1=recall[1],
        recall_at_1_original=recall[0],
        r_auroc=ranking[1],
        r_auroc_original=ranking[0],
        uncertainty_spearman=spearman(original[1], found[1]),
    )


def require(agreement: Agreement) -> None:
    """Refuse what must not be served.

    Raises:
        PrecisionError: with all figures.
    """
    if not agreement.holds():
        raise PrecisionError(
            f"the graph says something else in lower precision: {asdict(agreement)}; needed are a mean cosine and a "
            f"Spearman of {MIN_COSINE} and {MIN_SPEARMAN}, R@1 within {MAX_RECALL_CHANGE}, R-AUROC within "
            f"{MAX_R_AUROC_CHANGE}"
        )


def _retrieval(outputs: Sequence[NDArray[np.float32]], labels: NDArray[np.int64]) -> tuple[float, float]:
    """R@1 and R-AUROC."""
    neighbour, _ = nearest_neighbour(outputs[0])
    return recall_at_1(labels, neighbour), r_auroc(outputs[1], labels[neighbour] == labels)


def _quantise_matrices(graph: Path, out: Path, inside: Sequence[str]) -> None:
    renamed = [f"{name}_MatMul" for name in inside]  # as the quantiser writes a Gemm
    quantize_dynamic(
        graph,
        out,
        op_types_to_quantize=list(MULTIPLIED),
        nodes_to_quantize=[*inside, *renamed],
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
    )


def _quantise_convolutions(graph: Path, out: Path, inside: Sequence[str], images: NDArray[np.uint8]) -> None:
    prepared = out.with_suffix(".prepared.onnx")
    quant_pre_process(graph, prepared, skip_symbolic_shape=True)
    kept = {node.name: node.op_type for node in onnx.load(prepared).graph.node}
    try:
        quantize_static(
            prepared,
            out,
            _Batches(images),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(CONVOLVED),
            nodes_to_quantize=[name for name, kind in kept.items() if kind in CONVOLVED and name in set(inside)],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,  # seven bits: eight overflow on processors without VNNI
        )
    finally:
        prepared.unlink(missing_ok=True)


def _scope(node: onnx.NodeProto) -> str:
    """The submodule that a node comes from, as in `module.blocks.0.attn`; empty where it is of none."""
    text = next((entry.value for entry in node.metadata_props if entry.key == SCOPES), "[]")
    scopes: list[str] = ast.literal_eval(text)
    return next((scope for scope in scopes if scope), "")


class _Batches(CalibrationDataReader):  # type: ignore[misc]
    """Images as the quantiser asks for them."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        self._parts: Iterator[dict[str, Any]] = iter(
            [{"image": images[i : i + CALIBRATION_BATCH]} for i in range(0, len(images), CALIBRATION_BATCH)]
        )

    def get_next(self) -> dict[str, Any] | None:
        """The next batch, None at the end."""
        return next(self._parts, None)

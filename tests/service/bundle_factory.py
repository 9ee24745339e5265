"""A tiny bundle whose numbers a test can work out in numpy: patch colours for an embedding, flatness for doubt."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIZE = 32
GRID = 4
DIMENSION = 3 * GRID * GRID
MEAN, STD = 0.5, 0.5
EPSILON = 0.05


def expected(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], float, float]:
    """(32, 32, 3) pixels -> (48,) unit embedding, uncertainty, novelty, as the graph should give them."""
    scaled = (pixels.astype(np.float64) / 255.0 - MEAN) / STD
    patches = scaled.reshape(GRID, SIZE // GRID, GRID, SIZE // GRID, 3).mean(axis=(1, 3))  # (4, 4, 3)
    flat = patches.transpose(2, 0, 1).reshape(-1)  # (48,)
    contrast = np.abs(scaled - scaled.mean(axis=(0, 1))).mean()
    return flat / np.linalg.norm(flat), 1.0 / (EPSILON + contrast), float(np.linalg.norm(flat))


def make_bundle(
    folder: Path, *, name: str = "tiny", scale: float = 1.0, sign: int = 1, grid: int = GRID, **changes: Any
) -> Path:
    """Write a bundle.

    `scale` is of its uncertainty, `sign` of its embedding, `grid` decides its dimension: each changes its hash.
    `changes` are fields of the manifest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    graph = _graph(scale, sign, grid).SerializeToString()
    (folder / "model.onnx").write_bytes(graph)
    manifest = {
        "format_version": 1,
        "name": name,
        "backbone": {"name": "patches"},
        "preprocessing": {
            "size": SIZE,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": [MEAN] * 3,
            "std": [STD] * 3,
        },
        "dimension": 3 * grid * grid,
        "outputs": ["embedding", "uncertainty", "novelty", "class_entropy"],
        "graph_sha256": hashlib.sha256(graph).hexdigest(),
        "reference": {
            "dataset": "made up",
            "count": 101,
            "uncertainty": np.linspace(0.0, 20.0, 101).tolist(),
            "novelty": np.linspace(0.0, 10.0, 101).tolist(),
        },
        "training": {"data": "none", "licence": "none"},
        **changes,
    }
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


def _graph(scale: float, sign: int, grid: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["planes", "gain"], ["gained"]),
        helper.make_node("Add", ["gained", "offset"], ["scaled"]),
        helper.make_node(
            "AveragePool", ["scaled"], ["patches"], kernel_shape=[SIZE // grid] * 2, strides=[SIZE // grid] * 2
        ),
        helper.make_node("Flatten", ["patches"], ["flat"], axis=1),
        helper.make_node("ReduceL2", ["flat", "columns"], ["length"], keepdims=1),
        helper.make_node("Max", ["length", "tiny"], ["safe_length"]),
        helper.make_node("Mul", ["flat", "sign"], ["signed"]),
        helper.make_node("Div", ["signed", "safe_length"], ["embedding"]),
        helper.make_node("Squeeze", ["length", "columns"], ["novelty"]),
        helper.make_node("ReduceMean", ["scaled", "pixels"], ["colour"], keepdims=1),
        helper.make_node("Sub", ["scaled", "colour"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["distance"]),
        helper.make_node("ReduceMean", ["distance", "all"], ["contrast"], keepdims=0),
        helper.make_node("Add", ["contrast", "epsilon"], ["softened"]),
        helper.make_node("Div", ["scale", "softened"], ["uncertainty"]),
        helper.make_node("Identity", ["contrast"], ["class_entropy"]),
    ]
    constants = {
        "gain": np.float32(1.0 / (255.0 * STD)),
        "offset": np.float32(-MEAN / STD),
        "tiny": np.float32(1e-12),
        "epsilon": np.float32(EPSILON),
        "scale": np.float32(scale),
        "sign": np.float32(sign),
        "columns": np.array([1], dtype=np.int64),
        "pixels": np.array([2, 3], dtype=np.int64),
        "all": np.array([1, 2, 3], dtype=np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", SIZE, SIZE, 3])],
        [
            helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", 3 * grid * grid]),
            *(
                helper.make_tensor_value_info(output, TensorProto.FLOAT, ["B"])
                for output in ("uncertainty", "novelty", "class_entropy")
            ),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    onnx.checker.check_model(model)
    return model

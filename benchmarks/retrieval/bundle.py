"""A bundle of any dimension with random weights: what a server needs to hold vectors of that dimension."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from models.bundle import Bundle, load_bundle

SIZE = 32


def make_bundle(folder: Path, dimension: int) -> Bundle:
    """Write and load the bundle; for one dimension it is the same each time, hash included."""
    folder.mkdir(parents=True, exist_ok=True)
    graph = _graph(dimension).SerializeToString(deterministic=True)
    (folder / "model.onnx").write_bytes(graph)
    manifest = {
        "format_version": 1,
        "name": f"random-{dimension}",
        "backbone": {"name": "random"},
        "preprocessing": {
            "size": SIZE,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
        },
        "dimension": dimension,
        "outputs": ["embedding", "uncertainty", "novelty"],
        "graph_sha256": hashlib.sha256(graph).hexdigest(),
        "reference": {
            "dataset": "made up",
            "count": 101,
            "uncertainty": np.linspace(0.0, 10.0, 101).tolist(),
            "novelty": np.linspace(0.0, 10.0, 101).tolist(),
        },
        "training": {"data": "none: random weights", "licence": "none"},
    }
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return load_bundle(folder)


def _graph(dimension: int) -> onnx.ModelProto:
    """Column means times random weights, at unit length; the mean of all pixels is uncertainty and novelty."""
    weights = np.random.default_rng(dimension).standard_normal((3 * SIZE, dimension)).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["pixels", "white"], ["scaled"]),
        helper.make_node("ReduceMean", ["scaled", "rows"], ["columns"], keepdims=0),  # (B, W, 3)
        helper.make_node("Flatten", ["columns"], ["flat"], axis=1),  # (B, W * 3)
        helper.make_node("MatMul", ["flat", "weights"], ["projected"]),  # (B, D)
        helper.make_node("ReduceL2", ["projected", "features"], ["length"], keepdims=1),
        helper.make_node("Max", ["length", "tiny"], ["safe_length"]),
        helper.make_node("Div", ["projected", "safe_length"], ["embedding"]),
        helper.make_node("ReduceMean", ["flat", "features"], ["uncertainty"], keepdims=0),
        helper.make_node("Identity", ["uncertainty"], ["novelty"]),
    ]
    constants = {
        "white": np.float32(255.0),
        "tiny": np.float32(1e-12),
        "rows": np.array([1], dtype=np.int64),
        "features": np.array([1], dtype=np.int64),
        "weights": weights,
    }
    outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["B", dimension])]
    outputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B"]) for name in ("uncertainty", "novelty")]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", SIZE, SIZE, 3])
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "random", [image], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 10
    return model

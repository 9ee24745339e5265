"""Torch modules as ONNX graphs with a dynamic batch, and graphs as functions on arrays."""

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Run = Callable[[NDArray[np.uint8]], list[NDArray[np.float32]]]


def export_graph(module: nn.Module, example: Tensor, path: Path, output_names: Sequence[str]) -> None:
    """Write a module of one `image` (b, ...) input as one self-contained ONNX file, with b left open.

    Example must have a batch of at least 2, since a batch of 1 would be taken for a constant.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The exporter warns of its own internals.
        torch.onnx.export(
            module.eval(),
            (example,),
            path,
            input_names=["image"],
            output_names=list(output_names),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
            opset_version=18,
        )


def open_graph(path: Path, threads: int = 0, batch_size: int | None = None) -> Run:
    """A function from (b, h, w, 3) uint8 to the graph's outputs, on the CPU; run in pieces of `batch_size` images."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    def run(images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        step = batch_size or len(images)
        parts = [session.run(None, {"image": images[i : i + step]}) for i in range(0, len(images), step)]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    return run

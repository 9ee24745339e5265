"""A lane runs one batch at a time: buffers of its own, and on a GPU a session, hence a stream, of its own.

While one lane's batch is computed, another lane copies its own to the GPU or its results back.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

INPUT: Final = "image"
OUTPUTS: Final = ("embedding", "uncertainty", "novelty")
CAPTURE_RUNS: Final = 3  # after which onnxruntime replays a CUDA graph: it runs twice as usual, then captures

Memory = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Outputs:
    """What the graph says of B images: `embedding` is (B, D) of unit L2 norm, the others (B,)."""

    embedding: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    novelty: NDArray[np.float32]


class Lane(Protocol):
    """One inference at a time."""

    def run(self, images: Sequence[NDArray[np.uint8]], bucket: int) -> Outputs:
        """Images of (H, W, 3), at most `bucket` of them, padded to that many, to outputs of as many as were given."""


class HostLane:
    """Runs from and to the processor's own memory: onnxruntime reads the batch where it lies."""

    def __init__(self, session: ort.InferenceSession, max_batch: int, size: int) -> None:
        self._session = session
        self._batch = np.zeros((max_batch, size, size, 3), dtype=np.uint8)

    def run(self, images: Sequence[NDArray[np.uint8]], bucket: int) -> Outputs:
        """As `Lane` says."""
        batch = _fill(self._batch, images, bucket)
        outputs = self._session.run(list(OUTPUTS), {INPUT: batch})
        return Outputs(*(output[: len(images)] for output in outputs))


class BoundLane:
    """Runs on buffers bound once for each batch size, in a device's memory: nothing is allocated while serving.

    With `graph_ids`, each size has a CUDA graph of its own, which needs just that: the same buffers every time.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        buckets: Sequence[int],
        size: int,
        dimension: int,
        *,
        memory: Memory,
        cuda_graphs: bool = False,
    ) -> None:
        self._session = session
        self._batch = np.zeros((max(buckets), size, size, 3), dtype=np.uint8)
        self._bound = {
            bucket: _bind(session, bucket, size, dimension, memory, graph_id=number if cuda_graphs else None)
            for number, bucket in enumerate(buckets, start=1)
        }

    def run(self, images: Sequence[NDArray[np.uint8]], bucket: int) -> Outputs:
        """As `Lane` says."""
        bound = self._bound[bucket]
        bound.image.update_inplace(_fill(self._batch, images, bucket))
        self._session.run_with_iobinding(bound.binding, bound.options)
        # Copied: the next run writes to the same buffers, which on a CPU `numpy()` gives as they are.
        return Outputs(*(value.numpy()[: len(images)].copy() for value in bound.outputs))


@dataclass(frozen=True)
class _Bound:
    """The buffers of one batch size, bound to a session's input and outputs."""

    binding: ort.IOBinding
    image: ort.OrtValue
    outputs: tuple[ort.OrtValue, ...]
    options: ort.RunOptions


def _bind(
    session: ort.InferenceSession, bucket: int, size: int, dimension: int, memory: Memory, graph_id: int | None
) -> _Bound:
    binding, options = session.io_binding(), ort.RunOptions()
    if graph_id is not None:
        options.add_run_config_entry("gpu_graph_id", str(graph_id))
    image = ort.OrtValue.ortvalue_from_shape_and_type((bucket, size, size, 3), np.uint8, memory, 0)
    binding.bind_ortvalue_input(INPUT, image)
    shapes = ((bucket, dimension), (bucket,), (bucket,))
    outputs = tuple(ort.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, memory, 0) for shape in shapes)
    for name, value in zip(OUTPUTS, outputs, strict=True):
        binding.bind_ortvalue_output(name, value)
    return _Bound(binding, image, outputs, options)


def _fill(batch: NDArray[np.uint8], images: Sequence[NDArray[np.uint8]], bucket: int) -> NDArray[np.uint8]:
    """The images at the head of the buffer, then whatever was there: padding, whose results nobody reads."""
    for row, image in zip(batch, images, strict=False):
        row[...] = image
    return batch[:bucket]

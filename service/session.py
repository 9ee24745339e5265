"""The inference session: one ONNX graph on one device, checked against its bundle and warmed before it serves."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle import Bundle
from service.cores import cores_per_worker
from service.providers import CUDA_OPTIONS, CUDA_PROVIDER, has_cuda_provider, missing_for_cuda
from service.settings import Device, Settings
from service.tuning import Layout, Run, Tuning, cache_folder, choose, keep, key_of, layouts, measure, recall

REQUIRED_OUTPUTS: Final = ("embedding", "uncertainty", "novelty")
CPU_PROVIDER: Final = "CPUExecutionProvider"
BATCHES: Final = {Device.CPU: (1, 2, 4, 8, 16, 32), Device.CUDA: (1, 4, 16, 32, 64, 128)}
UNTUNED_BATCH: Final = {Device.CPU: 4, Device.CUDA: 32}
ERROR_SEVERITY: Final = 3


class SessionError(Exception):
    """A graph that cannot be served on the device that was asked for; the message says why and what to do."""


@dataclass(frozen=True)
class Outputs:
    """What the graph says of B images: `embedding` is (B, D) of unit L2 norm, the others (B,)."""

    embedding: NDArray[np.float32]
    uncertainty: NDArray[np.float32]
    novelty: NDArray[np.float32]


class Session(Protocol):
    """A graph ready to run."""

    @property
    def device(self) -> Device:
        """Where it runs; never `auto`."""

    @property
    def tuning(self) -> Tuning:
        """How many calls should run at a time, and of how many images each."""

    def run(self, images: Sequence[NDArray[np.uint8]]) -> Outputs:
        """Images of (H, W, 3), at most `tuning.max_batch` of them, to outputs in the same order."""


class OnnxSession:
    """An onnxruntime session fed in a fixed set of batch sizes, so that each shape is planned once."""

    def __init__(self, session: ort.InferenceSession, device: Device, tuning: Tuning, size: int) -> None:
        self.device = device
        self.tuning = tuning
        self.buckets = batch_buckets(tuning.max_batch)
        self._session = session
        self._size = size

    def run(self, images: Sequence[NDArray[np.uint8]]) -> Outputs:
        """Pad to the next bucket, run, and drop the padding."""
        count = len(images)
        bucket = next(bucket for bucket in self.buckets if bucket >= count)
        batch = np.zeros((bucket, self._size, self._size, 3), dtype=np.uint8)
        batch[:count] = images
        embedding, uncertainty, novelty = self._session.run(list(REQUIRED_OUTPUTS), {"image": batch})
        return Outputs(embedding[:count], uncertainty[:count], novelty[:count])


def batch_buckets(max_batch: int) -> tuple[int, ...]:
    """Ascending batch sizes up to `max_batch`: powers of two and the sizes midway, so that padding stays below a third.

    >>> batch_buckets(10)
    (1, 2, 3, 4, 6, 8, 10)
    """
    powers = [2**i for i in range(max_batch.bit_length())]
    sizes = {*powers, *(3 * power // 2 for power in powers[1:]), max_batch}
    return tuple(sorted(size for size in sizes if size <= max_batch))


def open_session(bundle: Bundle, settings: Settings) -> OnnxSession:
    """Load the bundle's graph on the device asked for, check it, tune it to this machine, and warm every bucket.

    Raises:
        SessionError: where CUDA was asked for and is missing, or the graph is not what the manifest says.
    """
    device, session = _create(bundle.graph_path, settings)
    _check_signature(session, bundle)
    lowered = bundle.manifest.metrics.get("precision", {}).get("precision")
    if (device, lowered) == (Device.CUDA, "int8"):
        logging.getLogger(__name__).warning("%s is in int8, for CPUs: serve the bundle it was made of", bundle.path)
    tuning = _tuned(bundle, settings, device)
    if tuning.threads != _threads(settings):
        session = _create_on(bundle.graph_path, device, tuning.threads)
    opened = OnnxSession(session, device, tuning, bundle.preprocessing.size)
    _warm(opened, bundle)
    return opened


def _tuned(bundle: Bundle, settings: Settings, device: Device) -> Tuning:
    """What the settings say, and for what they leave open, what carries most here."""
    threads, lanes, batch = settings.threads, settings.lanes, settings.max_batch
    if not settings.autotune or (lanes and batch):
        return Tuning(_threads(settings), lanes or 1, batch or UNTUNED_BATCH[device])
    cores = cores_per_worker(settings.workers)
    found = layouts(cores) if device is Device.CPU else [Layout(cores, lanes) for lanes in (1, 2)]
    if threads or lanes:
        found = [Layout(_threads(settings), lanes or 1)]
    batches = (batch,) if batch else BATCHES[device]
    key = key_of(bundle.hash, device, ort.__version__, found, batches)
    kept = recall(key, cache_folder())
    if kept is not None:
        return kept
    size = bundle.preprocessing.size
    noise = np.random.default_rng(0).integers(0, 256, (max(batches), size, size, 3), dtype=np.uint8)

    def open_run(threads: int) -> Run:
        session = _create_on(bundle.graph_path, device, threads)
        return lambda count: session.run(list(REQUIRED_OUTPUTS), {"image": noise[:count]})

    tuning = choose(measure(open_run, found, batches))
    keep(key, tuning, cache_folder())
    return tuning


def _threads(settings: Settings) -> int:
    """Threads of one inference, where nothing is measured."""
    return settings.threads or max(1, cores_per_worker(settings.workers) // (settings.lanes or 1))


def _create(graph: Path, settings: Settings) -> tuple[Device, ort.InferenceSession]:
    threads = _threads(settings)
    if settings.device is Device.CPU or (settings.device is Device.AUTO and not has_cuda_provider()):
        return Device.CPU, _create_on(graph, Device.CPU, threads)
    missing = missing_for_cuda()
    if not missing:
        ort.preload_dlls(directory="")  # the CUDA and cuDNN of the installed wheels, before the first session
        session = _create_on(graph, Device.CUDA, threads)
        if CUDA_PROVIDER in session.get_providers():
            return Device.CUDA, session
        missing = [
            "onnxruntime could not start CUDA (its error is above): CUDA or cuDNN is missing, or another version"
        ]
    if settings.device is Device.AUTO:
        logging.getLogger(__name__).warning("serving on the CPU: %s", missing[0])
        return Device.CPU, _create_on(graph, Device.CPU, threads)
    raise SessionError("CANDOR_DEVICE=cuda, but CUDA cannot be had here:" + "".join(f"\n- {item}" for item in missing))


def _create_on(graph: Path, device: Device, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERROR_SEVERITY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    cuda = [(CUDA_PROVIDER, CUDA_OPTIONS)] if device is Device.CUDA else []
    try:
        return ort.InferenceSession(graph, options, providers=[*cuda, CPU_PROVIDER])
    except Exception as error:
        raise SessionError(f"onnxruntime cannot load {graph}: {error}") from error


def _check_signature(session: ort.InferenceSession, bundle: Bundle) -> None:
    """Refuse a graph whose input or outputs differ from the manifest's."""
    size, dimension = bundle.preprocessing.size, bundle.manifest.dimension
    inputs = [(node.name, node.type, list(node.shape)[1:]) for node in session.get_inputs()]
    if inputs != [("image", "tensor(uint8)", [size, size, 3])]:
        raise SessionError(f"the graph takes {inputs}, not one uint8 `image` of (B, {size}, {size}, 3)")
    outputs = {node.name: list(node.shape)[1:] for node in session.get_outputs()}
    if sorted(outputs) != sorted(bundle.manifest.outputs) or not set(REQUIRED_OUTPUTS) <= set(outputs):
        raise SessionError(f"the graph gives {sorted(outputs)}, the manifest says {sorted(bundle.manifest.outputs)}")
    if outputs["embedding"] != [dimension]:
        raise SessionError(f"the graph's embedding is {outputs['embedding']} wide, the manifest says {dimension}")


def _warm(session: OnnxSession, bundle: Bundle) -> None:
    """Run each bucket once, the largest first so that memory is taken once, and check the numbers that come out."""
    size = bundle.preprocessing.size
    noise = np.random.default_rng(0).integers(0, 256, (session.tuning.max_batch, size, size, 3), dtype=np.uint8)
    for bucket in reversed(session.buckets):
        outputs = session.run(list(noise[:bucket]))
    for name in REQUIRED_OUTPUTS:
        if not np.isfinite(getattr(outputs, name)).all():
            raise SessionError(f"the graph's {name} is not finite on noise")
    if not np.allclose(np.linalg.norm(outputs.embedding, axis=1), 1.0, atol=1e-3):
        raise SessionError("the graph's embedding is not of unit L2 norm")

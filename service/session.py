"""The inference session: one ONNX graph on one device, checked against its bundle and warmed before it serves."""

import logging
import queue
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from models.bundle import Bundle
from service.cores import cores_per_worker
from service.decoding import a_photo, decode_workers, preparation, seconds_per_photo
from service.lanes import CAPTURE_RUNS, OUTPUTS, BoundLane, HostLane, Lane, Outputs
from service.providers import GPU, PROVIDERS, has_provider, missing_for, provider_options
from service.settings import Device, Settings
from service.tuning import Layout, Run, Tuning, cache_folder, choose, keep, key_of, layouts, measure, recall

BATCHES: Final = {True: (1, 4, 16, 32, 64, 128), False: (1, 2, 4, 8, 16, 32)}  # on a GPU, or not
UNTUNED_BATCH: Final = {True: 32, False: 4}
ERROR_SEVERITY: Final = 3
COMPARED: Final = 4  # images that a device's embeddings are compared on
MIN_COSINE: Final = 0.99


class SessionError(Exception):
    """A graph that cannot be served on the device that was asked for; the message says why and what to do."""


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
    """A graph fed in a fixed set of batch sizes, so that each is planned once, on whichever lane is free."""

    def __init__(self, device: Device, tuning: Tuning, lanes: Sequence[Lane]) -> None:
        self.device = device
        self.tuning = tuning
        self.buckets = batch_buckets(tuning.max_batch)
        self._free: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        for lane in lanes:
            self._free.put(lane)

    def run(self, images: Sequence[NDArray[np.uint8]]) -> Outputs:
        """Pad to the next bucket, run, and drop the padding; waits where every lane is taken."""
        bucket = next(bucket for bucket in self.buckets if bucket >= len(images))
        lane = self._free.get()
        try:
            return lane.run(images, bucket)
        finally:
            self._free.put(lane)


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
        SessionError: where the device cannot be had, or the graph is not what the manifest says.
    """
    device, first = _first_session(bundle, settings)
    _check_signature(first, bundle)
    del first  # a GPU holds its weights until then
    if device in GPU and is_int8(bundle):
        logging.getLogger(__name__).warning("%s is in int8, for CPUs: serve the bundle it was made of", bundle.path)
    opened = _open(bundle, settings, device, _tuned(bundle, settings, device))
    _warm(opened, bundle, runs=CAPTURE_RUNS if settings.cuda_graphs else 1)
    if device is not Device.CPU:
        reference = HostLane(
            _load(bundle, settings, Device.CPU, cores_per_worker(settings.workers), 1), 1, bundle.preprocessing.size
        )
        _require_agreement(opened, reference, bundle)
    return opened


def is_int8(bundle: Bundle) -> bool:
    """Whether the graph computes in int8, which pays on CPUs alone."""
    lowered: object = bundle.manifest.metrics.get("precision", {}).get("precision")
    return lowered == "int8"


def _first_session(bundle: Bundle, settings: Settings) -> tuple[Device, ort.InferenceSession]:
    """The device that is to be had, and the graph on it."""
    asked = Device.CUDA if settings.device is Device.AUTO else settings.device
    if asked is Device.CPU or (settings.device is Device.AUTO and not has_provider(asked)):
        return Device.CPU, _load(bundle, settings, Device.CPU, 1, 1)
    missing = missing_for(asked)
    if not missing:
        if asked in GPU:
            ort.preload_dlls(directory="")  # the CUDA and cuDNN of the installed wheels, before the first session
        session = _load(bundle, settings, asked, 1, 1)
        if PROVIDERS[asked] in session.get_providers():
            return asked, session
        missing = [
            f"onnxruntime could not start {PROVIDERS[asked]} (its error is above): a library it needs is missing, or "
            "another version"
        ]
    if settings.device is Device.AUTO:
        logging.getLogger(__name__).warning("serving on the CPU: %s", missing[0])
        return Device.CPU, _load(bundle, settings, Device.CPU, 1, 1)
    problems = "".join(f"\n- {item}" for item in missing)
    raise SessionError(f"CANDOR_DEVICE={asked.value}, but it cannot be had here:{problems}")


@dataclass(frozen=True)
class _Plan:
    """What is to be measured, and the name that the choice is kept under."""

    layouts: tuple[Layout, ...]
    batches: tuple[int, ...]
    beside: int
    key: str


def known_tuning(bundle: Bundle, settings: Settings, device: Device) -> Tuning | None:
    """What the settings say, or an earlier start measured; None where a start would measure."""
    lanes, batch = settings.lanes, settings.max_batch
    if not settings.autotune or (lanes and batch):
        return Tuning(_threads(settings), lanes or 1, batch or UNTUNED_BATCH[device in GPU])
    return recall(_plan(bundle, settings, device).key, cache_folder())


def _plan(bundle: Bundle, settings: Settings, device: Device) -> _Plan:
    """What the settings leave open."""
    cores = cores_per_worker(settings.workers)
    found = [Layout(cores, lanes) for lanes in (1, 2, 3)] if device in GPU else layouts(cores)
    if settings.threads or settings.lanes:
        found = [Layout(_threads(settings), settings.lanes or 1)]
    batches = (settings.max_batch,) if settings.max_batch else BATCHES[device in GPU]
    beside = 1 if device in GPU else settings.workers
    how = (settings.cuda_graphs, settings.decode, settings.decode_workers, settings.max_wait_ms, ort.__version__)
    key = key_of(bundle.hash, device, *how, cores, beside, found, batches)
    return _Plan(tuple(found), batches, beside, key)


def _tuned(bundle: Bundle, settings: Settings, device: Device) -> Tuning:
    """What the settings say, and for what they leave open, what carries most here."""
    known = known_tuning(bundle, settings, device)
    if known is not None:
        return known
    plan, cores = _plan(bundle, settings, device), cores_per_worker(settings.workers)
    batches, beside = plan.batches, plan.beside
    images, photo, prepare = noise(bundle, max(batches)), a_photo(), preparation(bundle.preprocessing, settings)

    def decoding(layout: Layout) -> bool:
        return not decode_workers(settings, device, Tuning(layout.threads, layout.lanes, 1))

    def open_run(layout: Layout) -> Run:
        session = _open(bundle, settings, device, Tuning(layout.threads, layout.lanes * beside, max(batches)))
        if decoding(layout):
            return lambda count: session.run([prepare(photo) for _ in range(count)])
        return lambda count: session.run(images[:count])

    points = measure(open_run, plan.layouts, batches, beside, decoding=decoding)
    tuning = choose(points, None if device in GPU else cores, seconds_per_photo(prepare, photo))
    keep(plan.key, tuning, cache_folder())
    return tuning


def _open(bundle: Bundle, settings: Settings, device: Device, tuning: Tuning) -> OnnxSession:
    """The graph with as many lanes as `tuning` says."""
    size, dimension, buckets = bundle.preprocessing.size, bundle.manifest.dimension, batch_buckets(tuning.max_batch)
    lanes: list[Lane] = []
    session = None
    for _ in range(tuning.lanes):
        if session is None or device in GPU:
            session = _load(bundle, settings, device, tuning.threads, tuning.max_batch)
        if device in GPU:
            graphs = settings.cuda_graphs and device is Device.CUDA  # TensorRT keeps its own
            lanes.append(BoundLane(session, buckets, size, dimension, memory="cuda", cuda_graphs=graphs))
        else:
            lanes.append(HostLane(session, tuning.max_batch, size))
    return OnnxSession(device, tuning, lanes)


def _threads(settings: Settings) -> int:
    """Threads of one inference, where nothing is measured."""
    return settings.threads or max(1, cores_per_worker(settings.workers) // (settings.lanes or 1))


def _load(bundle: Bundle, settings: Settings, device: Device, threads: int, max_batch: int) -> ort.InferenceSession:
    """The bundle's graph in onnxruntime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERROR_SEVERITY
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    providers = provider_options(
        device,
        threads=threads,
        max_batch=max_batch,
        size=bundle.preprocessing.size,
        cuda_graphs=settings.cuda_graphs,
    )
    try:
        session = ort.InferenceSession(bundle.graph_path, options, providers=providers)
    except Exception as error:
        raise SessionError(f"onnxruntime cannot load {bundle.graph_path}: {error}") from error
    session.disable_fallback()  # an error of the device is an error, never a silent change to the CPU
    return session


def _check_signature(session: ort.InferenceSession, bundle: Bundle) -> None:
    """Refuse a graph whose input or outputs differ from the manifest's."""
    size, dimension = bundle.preprocessing.size, bundle.manifest.dimension
    inputs = [(node.name, node.type, list(node.shape)[1:]) for node in session.get_inputs()]
    if inputs != [("image", "tensor(uint8)", [size, size, 3])]:
        raise SessionError(f"the graph takes {inputs}, not one uint8 `image` of (B, {size}, {size}, 3)")
    outputs = {node.name: list(node.shape)[1:] for node in session.get_outputs()}
    if sorted(outputs) != sorted(bundle.manifest.outputs) or not set(OUTPUTS) <= set(outputs):
        raise SessionError(f"the graph gives {sorted(outputs)}, the manifest says {sorted(bundle.manifest.outputs)}")
    if outputs["embedding"] != [dimension]:
        raise SessionError(f"the graph's embedding is {outputs['embedding']} wide, the manifest says {dimension}")


def _warm(session: OnnxSession, bundle: Bundle, runs: int) -> None:
    """Run each bucket on each lane, the largest first so that memory is taken once, and check what comes out."""
    images = noise(bundle, session.tuning.max_batch)
    for bucket in reversed(session.buckets):
        for _ in range(runs * session.tuning.lanes):  # free lanes take turns
            outputs = session.run(images[:bucket])
    for name in OUTPUTS:
        if not np.isfinite(getattr(outputs, name)).all():
            raise SessionError(f"the graph's {name} is not finite on noise")
    if not np.allclose(np.linalg.norm(outputs.embedding, axis=1), 1.0, atol=1e-3):
        raise SessionError("the graph's embedding is not of unit L2 norm")


def noise(bundle: Bundle, count: int) -> list[NDArray[np.uint8]]:
    """Images of the graph's size, the same each time."""
    size = bundle.preprocessing.size
    return list(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def _require_agreement(session: OnnxSession, reference: Lane, bundle: Bundle) -> None:
    """Refuse a device on which the graph says something else than on the CPU, by which it was tested when exported."""
    for image in noise(bundle, COMPARED):
        found, expected = session.run([image]), reference.run([image], 1)
        cosine = float((found.embedding * expected.embedding).sum())
        if not cosine >= MIN_COSINE:
            raise SessionError(
                f"the graph's embeddings on {session.device.value} are not those on the CPU (cosine {cosine:.4f}, at "
                f"least {MIN_COSINE} is needed): serve a float32 bundle there, or set CANDOR_DEVICE=cpu"
            )

"""onnxruntime's execution providers: how each is asked for, what it lacks here, and which GPU a worker takes.

Sources: the pages on execution providers, CUDA graphs and TensorRT profiles at onnxruntime.ai.
"""

import ctypes
import importlib.metadata
import os
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from service.settings import Device
from service.tuning import cache_folder

PROVIDERS: Final = {
    Device.CPU: "CPUExecutionProvider",
    Device.CUDA: "CUDAExecutionProvider",
    Device.TENSORRT: "TensorrtExecutionProvider",
    Device.OPENVINO: "OpenVINOExecutionProvider",
}
GPU: Final = frozenset({Device.CUDA, Device.TENSORRT})
INSTALL: Final = {
    Device.CUDA: "use the gpu image or an environment with `candor[gpu]`, never together with `candor[cpu]`",
    Device.TENSORRT: "use an environment with `candor[gpu]` and TensorRT's libraries",
    Device.OPENVINO: "use an environment with `onnxruntime-openvino` in place of `onnxruntime`",
}
DRIVER_VERSION: Final = Path("/proc/driver/nvidia/version")
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


def provider_options(
    device: Device, *, threads: int, max_batch: int, size: int, cuda_graphs: bool
) -> list[tuple[str, dict[str, str]]]:
    """The providers of a session in order of preference, each with its options; the last takes what others leave."""
    cuda = {
        "cudnn_conv_algo_search": "HEURISTIC",  # the default tries every algorithm for each new shape
        "arena_extend_strategy": "kSameAsRequested",  # the default doubles what it holds
        "enable_cuda_graph": str(int(cuda_graphs)),
    }
    shape = f"{size}x{size}x3"
    engines = str(cache_folder().parent / "tensorrt")
    options: dict[Device, list[tuple[Device, dict[str, str]]]] = {
        Device.CPU: [],
        Device.CUDA: [(Device.CUDA, cuda)],
        Device.TENSORRT: [
            (
                Device.TENSORRT,
                {
                    "trt_engine_cache_enable": "1",  # building an engine takes minutes
                    "trt_engine_cache_path": engines,
                    "trt_timing_cache_enable": "1",
                    "trt_timing_cache_path": engines,
                    "trt_profile_min_shapes": f"image:1x{shape}",
                    "trt_profile_opt_shapes": f"image:{max_batch}x{shape}",
                    "trt_profile_max_shapes": f"image:{max_batch}x{shape}",
                    "trt_cuda_graph_enable": str(int(cuda_graphs)),
                },
            ),
            (Device.CUDA, {**cuda, "enable_cuda_graph": "0"}),
        ],
        # FP32: left to itself, OpenVINO computes in bfloat16 on processors that can.
        Device.OPENVINO: [
            (Device.OPENVINO, {"device_type": "CPU", "precision": "FP32", "num_of_threads": str(threads)})
        ],
    }
    return [(PROVIDERS[one], chosen) for one, chosen in [*options[device], (Device.CPU, {})]]


def has_provider(device: Device) -> bool:
    """Whether the installed onnxruntime was built with what the device needs."""
    return PROVIDERS[device] in ort.get_available_providers()


def missing_for(device: Device) -> list[str]:
    """What keeps this process from the device, in words for the operator; empty when nothing is known to be missing."""
    problems = []
    if not has_provider(device):
        providers = ort.get_available_providers()
        installed = ", ".join(_installed_runtimes()) or "none"
        problems.append(
            f"onnxruntime has no {PROVIDERS[device]} (installed: {installed}; providers: {', '.join(providers)}): "
            f"{INSTALL[device]}"
        )
    if device in GPU and not _driver_loads():
        version = "is loaded in the kernel but its library is not" if DRIVER_VERSION.exists() else "is not"
        problems.append(f"the NVIDIA driver {version} visible here (libcuda.so.1): on Docker start with `--gpus all`")
    return problems


def take_gpu(worker: int) -> None:
    """Let this process see one GPU of those it may use, the next for each worker; before it touches CUDA."""
    names = visible_gpus()
    if names:
        os.environ[VISIBLE] = names[worker % len(names)]


def visible_gpus() -> list[str]:
    """Names of the GPUs this process may use, as `CUDA_VISIBLE_DEVICES` takes them."""
    chosen = os.environ.get(VISIBLE)
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    return [str(number) for number in range(_count_gpus())]


def nvidia_driver() -> Any:
    """The NVIDIA driver's library; None without one."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _count_gpus() -> int:
    """How many there are, by the driver; 0 without one."""
    count = ctypes.c_int(0)
    driver = nvidia_driver()
    if driver is None or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _installed_runtimes() -> list[str]:
    """Installed distributions that provide the module `onnxruntime`, with versions."""
    names = importlib.metadata.packages_distributions().get("onnxruntime", [])
    return [f"{name} {importlib.metadata.version(name)}" for name in sorted(set(names))]


def _driver_loads() -> bool:
    return nvidia_driver() is not None

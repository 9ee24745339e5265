"""What stands between this process and CUDA, and which GPU each worker takes."""

import ctypes
import importlib.metadata
import os
from pathlib import Path
from typing import Final

import onnxruntime as ort

CUDA_PROVIDER: Final = "CUDAExecutionProvider"
CUDA_OPTIONS: Final = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
DRIVER_VERSION: Final = Path("/proc/driver/nvidia/version")
VISIBLE: Final = "CUDA_VISIBLE_DEVICES"


def has_cuda_provider() -> bool:
    """Whether the installed onnxruntime was built with CUDA."""
    return CUDA_PROVIDER in ort.get_available_providers()


def missing_for_cuda() -> list[str]:
    """What keeps this process from CUDA, in words for the operator; empty when nothing is known to be missing."""
    problems = []
    if not has_cuda_provider():
        providers = ort.get_available_providers()
        installed = ", ".join(_installed_runtimes()) or "none"
        problems.append(
            f"onnxruntime has no CUDA provider (installed: {installed}; providers: {', '.join(providers)}): "
            "use the gpu image or an environment with `candor[gpu]`, never together with `candor[cpu]`"
        )
    if not _driver_loads():
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


def _count_gpus() -> int:
    """How many there are, by the driver; 0 without one."""
    count = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _installed_runtimes() -> list[str]:
    """Installed distributions that provide the module `onnxruntime`, with versions."""
    names = importlib.metadata.packages_distributions().get("onnxruntime", [])
    return [f"{name} {importlib.metadata.version(name)}" for name in sorted(set(names))]


def _driver_loads() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True

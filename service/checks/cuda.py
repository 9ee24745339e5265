"""What CUDA needs here: a driver that is new enough, a GPU to be seen, and the libraries onnxruntime was built for."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from service.providers import VISIBLE, missing_for, nvidia_driver
from service.settings import Device

DEVICE_FILES: Final = Path("/dev")
CONTAINER_WISH: Final = "NVIDIA_VISIBLE_DEVICES"
NAME_BYTES: Final = 128
CUFFT: Final = {12: 11, 13: 12}  # the library's own number in each CUDA


def shortcomings(device: Device, environment: Mapping[str, str]) -> list[str]:
    """What keeps this process from running the graph on a GPU; empty where nothing is known to be missing."""
    if missing := missing_for(device):
        return [*missing, *container_hints(environment)]
    return [*driver_shortcomings(environment), *_missing_libraries()]


def gpu_is_there(devices: Path = DEVICE_FILES) -> bool:
    """Whether the machine or container has an NVIDIA GPU, whatever can be done with it."""
    return any(devices.glob("nvidia[0-9]*")) or nvidia_driver() is not None


def describe() -> str:
    """The GPUs' names, and the versions of the driver and the libraries."""
    driver = nvidia_driver()
    names = ", ".join(gpu_names(driver)) or "none"
    return f"{names}; the driver is for CUDA {_dotted(driver_cuda(driver))}, onnxruntime for {ort.cuda_version}"


def libraries(cuda_major: int) -> tuple[str, ...]:
    """What the CUDA provider loads, by the names that the system knows them by."""
    cufft = CUFFT.get(cuda_major, cuda_major - 1)
    own = [f"lib{name}.so.{cuda_major}" for name in ("cublasLt", "cublas", "cudart", "nvrtc")]
    return (*own, f"libcufft.so.{cufft}", "libcurand.so.10", "libcudnn.so.9")


def unloadable(names: Sequence[str]) -> Iterator[str]:
    """Those of the libraries that cannot be loaded, each with the system's reason."""
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError as error:
            yield f"{name} cannot be loaded ({error})"


def driver_cuda(driver: Any) -> int:
    """The newest CUDA that the driver knows, as it says it: 12040 is 12.4; 0 where it does not."""
    version = ctypes.c_int(0)
    return 0 if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)) else version.value


def gpu_names(driver: Any) -> list[str]:
    """Of the GPUs that this process may use."""
    count = ctypes.c_int(0)
    if driver is None or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    name = ctypes.create_string_buffer(NAME_BYTES)
    return [
        name.value.decode(errors="replace")
        for number in range(count.value)
        if not driver.cuDeviceGetName(name, NAME_BYTES, number)
    ]


def driver_shortcomings(environment: Mapping[str, str]) -> Iterator[str]:
    """A driver too old for this onnxruntime, or one that shows no GPU."""
    driver, built_for = nvidia_driver(), _cuda_major()
    known = driver_cuda(driver)
    if built_for and known and known // 1000 < built_for:
        yield (
            f"the NVIDIA driver is for CUDA {_dotted(known)} at most, and onnxruntime {ort.__version__} was built for "
            f"CUDA {ort.cuda_version}: update the driver"
        )
    if not gpu_names(driver):
        chosen = environment.get(VISIBLE)
        yield "the driver shows no GPU" + (f", and {VISIBLE} is {chosen!r}" if chosen is not None else "")
        yield from container_hints(environment)


def container_hints(environment: Mapping[str, str], devices: Path = DEVICE_FILES) -> Iterator[str]:
    """Whether this is a container that was to have a GPU, and was started without."""
    wish = environment.get(CONTAINER_WISH)
    if wish and wish not in ("void", "none") and not any(devices.glob("nvidia*")):
        yield f"{CONTAINER_WISH} is {wish!r}, but the container was started without the GPU: use `--gpus all`"


def _missing_libraries() -> Iterator[str]:
    major = _cuda_major()
    if not major or sys.platform != "linux":
        return
    with contextlib.redirect_stdout(None), open(os.devnull, "w") as silent, contextlib.redirect_stderr(silent):
        ort.preload_dlls(directory="")  # as the server does; it prints what it lacks
    missing = list(unloadable(libraries(major)))
    yield from missing
    if missing:
        yield "`pip install 'candor[gpu]'` brings these libraries; the gpu image has them"


def _cuda_major() -> int:
    major = str(ort.cuda_version or "").partition(".")[0]
    return int(major) if major.isdigit() else 0


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"

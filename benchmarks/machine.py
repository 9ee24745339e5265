"""What a benchmark ran on: hardware and versions, as result files name them."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from models.bundle import Bundle
from service.cores import usable_cores

LIBRARIES = (
    "candor",
    "onnxruntime",
    "onnxruntime-gpu",
    "numpy",
    "pillow",
    "fastapi",
    "starlette",
    "uvicorn",
    "uvloop",
    "httptools",
    "orjson",
)


def describe_machine(accelerated: bool = False) -> dict[str, Any]:
    """The hardware's name, and how much of it is ours."""
    return {
        "processor": _processor(),
        "usable_cores": usable_cores(),
        "accelerator": _accelerator() if accelerated else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "nice": os.nice(0),
    }


def installed_versions(names: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Versions of Python and of whichever of these distributions are installed."""
    installed = {distribution.name.lower(): distribution.version for distribution in importlib.metadata.distributions()}
    return {"python": platform.python_version(), **{name: installed[name] for name in names if name in installed}}


def describe_bundle(bundle: Bundle) -> dict[str, Any]:
    """Which bundle, and how large."""
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "hash": bundle.hash,
        "backbone": manifest.backbone.name,
        "size": bundle.preprocessing.size,
        "dimension": manifest.dimension,
        "graph_bytes": bundle.graph_path.stat().st_size,
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _accelerator() -> str:
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]

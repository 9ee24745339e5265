"""Who is compared, and how each is set up: as its own documentation advises, for as many cores as there are.

Where the documentation leaves a choice, both are tried on the models of `TRIALS`, and the faster one is kept.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.payloads import Form
from benchmarks.server_process import CANDOR

SERVERS = "benchmarks.peers.servers"
CANDOR_NAME = "candor"
DEFAULT = "default"  # the bundle that ships
MODELS = (DEFAULT, "mobilenetv3_small_100", "resnet50", "vit_small_patch16_224")
BATCH, WAIT_MS = 4, 5  # where a peer batches: larger batches fall out of these graphs' caches on a CPU


@dataclass(frozen=True)
class Setup:
    """One way to set a server up: `workers` processes or instances of `threads` onnxruntime threads each."""

    name: str
    workers: int
    threads: int
    max_batch: int = 1
    max_wait_ms: int = 0


@dataclass(frozen=True)
class Contender:
    """A server to compare.

    `command` takes the setup, the port and the folder of the environment's programs; `package` is the distribution
    whose version names it; `advice` says what of its documentation the setups follow.
    """

    name: str
    label: str
    package: str
    advice: str
    setups: tuple[Setup, ...]
    command: Callable[[Setup, int, Path], list[str]]
    path: str = "/embed"
    form: Form = "raw"
    environment: Mapping[str, str] = field(default_factory=dict)


def contenders(cores: int) -> list[Contender]:
    """Everyone who is compared, candor first."""
    each = Setup("a worker per core", cores, 1)
    whole = Setup("one worker on all cores", 1, cores)
    batched = Setup("a worker per core, batches", cores, 1, BATCH, WAIT_MS)
    return [
        Contender(
            CANDOR_NAME,
            "candor",
            "candor",
            "defaults, tuned by itself at the first start; workers as in docs/settings.md",
            (whole, each),
            lambda setup, port, programs: [*CANDOR],
        ),
        Contender(
            "fastapi",
            "FastAPI + onnxruntime",
            "fastapi",
            "a session per process made in the lifespan, a sync endpoint in the thread pool, `uvicorn --workers`",
            (each, whole),
            _fastapi,
        ),
        Contender(
            "litserve",
            "LitServe",
            "litserve",
            "workers_per_device; fast_queue for high request rates; max_batch_size and batch_timeout of the LitAPI",
            (each, batched),
            lambda setup, port, programs: [str(programs / "python"), "-m", f"{SERVERS}.litserve_server"],
        ),
        Contender(
            "mosec",
            "mosec",
            "mosec",
            "workers that do all, or stages: as many that decode as cores, then one that infers in dynamic batches",
            (each, Setup("stages, batches", cores, cores, BATCH, WAIT_MS)),
            _mosec,
        ),
        Contender(
            "bentoml",
            "BentoML",
            "bentoml",
            "workers per core that take the image as the body, or those before a service with adaptive batching",
            (each, Setup("two services, batches", cores, cores, BATCH)),
            _bentoml,
        ),
        Contender(
            "triton",
            "Triton (PyTriton)",
            "nvidia-pytriton",
            "instances of the callable behind the dynamic batcher; binary tensors in, JSON out",
            (batched, Setup("one instance on all cores, batches", 1, cores, BATCH, WAIT_MS)),
            lambda setup, port, programs: [str(programs / "python"), "-m", f"{SERVERS}.triton_server"],
            path="/v2/models/embed/infer",
            form="kserve",
            environment={"LD_LIBRARY_PATH": _python_libraries()},
        ),
    ]


def _fastapi(setup: Setup, port: int, programs: Path) -> list[str]:
    app = f"{SERVERS}.fastapi_server:app"
    options = ["--host", "127.0.0.1", "--port", str(port), "--workers", str(setup.workers), "--no-access-log"]
    return [str(programs / "python"), "-m", "uvicorn", app, *options]


def _mosec(setup: Setup, port: int, programs: Path) -> list[str]:
    options = ["--address", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    return [str(programs / "python"), "-m", f"{SERVERS}.mosec_server", *options]


def _bentoml(setup: Setup, port: int, programs: Path) -> list[str]:
    service = "Embed" if setup.max_batch == 1 else "Decode"
    options = ["--host", "127.0.0.1", "--port", str(port)]
    return [str(programs / "bentoml"), "serve", f"{SERVERS}.bentoml_server:{service}", *options]


def _python_libraries() -> str:
    """Where libpython is: Triton's Python stub loads it, and another one there breaks it."""
    return str(Path(sys.base_prefix) / "lib")

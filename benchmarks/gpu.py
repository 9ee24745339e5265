"""What a GPU carries: the raw session by batch size and precision, and the server with as many workers as it takes.

    python -m benchmarks.gpu --data ../shared/data

Where CUDA cannot be had this says why and ends well. `--device cpu` runs the suite on the processor, to try it out.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.load import load
from benchmarks.machine import describe_machine, installed_versions
from benchmarks.payloads import Target
from benchmarks.peers.bundles import MODELS, SIDE, bundle_of
from benchmarks.photos import FOLDER, find_photos
from benchmarks.rounds import served_round
from benchmarks.server_process import serving
from benchmarks.worker import end_on_sigterm, worker
from models.bundle import GRAPH_FILE, MANIFEST_FILE, Bundle, Manifest, file_sha256, load_bundle
from models.precision import lower_graph
from service.providers import missing_for
from service.session import open_session
from service.settings import Device, Settings

PRECISIONS: Final = ("fp32", "fp16")
GPU_MODELS: Final = (*MODELS[1:], "vit_base_patch16_224")
SAMPLE_S: Final = 0.5  # between two looks at the GPU's utilisation
POINT_S: Final = 2.0
WARM_UP_S: Final = 3.0


def main(argv: Sequence[str]) -> None:
    """Measure, write the result file, and print it as a Markdown table."""
    options = _arguments().parse_args(argv)
    end_on_sigterm()
    device = Device(options.device)
    missing = missing_for(device)
    if missing:
        print(f"skipped, no {device.value} here: {'; '.join(missing)}")
        return
    photos = find_photos(options.data / FOLDER)
    results = []
    for model in options.models:
        full = bundle_of(model, options.work, photos)
        for precision in PRECISIONS:
            bundle = load_bundle(full if precision == "fp32" else _halved(full, options.work / f"{model}-fp16"))
            raw = {str(batch): raw_images_per_s(bundle, device, batch, options.point) for batch in options.batches}
            served = [serve(bundle, device, workers, photos, options) for workers in options.workers]
            limit, best = max(raw.values()), max(each["images_per_second"] for each in served)
            results.append(
                {"model": model, "precision": precision, "raw": raw, "served": served, "served_over_raw": best / limit}
            )
            print(_row(results[-1]), flush=True)
    record = {
        "command": shlex.join(["python", "-m", "benchmarks.gpu", *argv]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(accelerated=device is Device.CUDA),
        "versions": installed_versions(),
        "results": results,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=1) + "\n")
    print(as_markdown(results))


def raw_images_per_s(bundle: Bundle, device: Device, batch: int, seconds: float) -> float:
    """Images a second of the session alone, from and to this process's memory, on two lanes as the server runs them."""
    lanes = 2
    session = open_session(bundle, Settings(device=device, autotune=False, max_batch=batch, lanes=lanes))
    side = bundle.preprocessing.size
    images = list(np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), dtype=np.uint8))
    ends = time.perf_counter() + seconds
    counts = [0] * lanes

    def lane(number: int) -> None:
        while time.perf_counter() < ends:
            session.run(images)
            counts[number] += batch

    started = time.perf_counter()
    threads = [threading.Thread(target=lane, args=(number,)) for number in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)


def serve(
    bundle: Bundle, device: Device, workers: int, photos: Sequence[Path], options: argparse.Namespace
) -> dict[str, Any]:
    """The server under load, and how busy the GPU was."""
    with tempfile.TemporaryDirectory(prefix="candor-gpu-") as folder:
        overrides = {
            "bundle": bundle.path.resolve(),
            "gallery": f"{folder}/gallery",
            "device": device.value,
            "workers": workers,
        }
        with serving(overrides, Path(folder)) as server, worker() as client:
            target = Target(server.url)
            client.call(load, target, server.pid, photos, options.concurrency, WARM_UP_S)
            with gpu_utilisation() as samples:
                done = client.call(load, target, server.pid, photos, options.concurrency, options.seconds)
    found = served_round("server", *done).as_dict()
    return {"workers": workers, **found, "gpu_utilisation": statistics.mean(samples) if samples else None}


@contextmanager
def gpu_utilisation() -> Iterator[list[float]]:
    """Per cent of the time that the first GPU had work, sampled until the end of the block; none without nvidia-smi."""
    samples: list[float] = []
    over = threading.Event()
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]

    def sample() -> None:
        while not over.wait(SAMPLE_S):
            try:
                found = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
            except (OSError, subprocess.CalledProcessError):
                return
            samples.append(float(found[0]))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def as_markdown(results: Sequence[dict[str, Any]]) -> str:
    """One row a model and precision: raw images a second by batch, served by workers, and their ratio."""
    batches = list(results[0]["raw"])
    workers = [str(each["workers"]) for each in results[0]["served"]]
    titles = [
        "model",
        "precision",
        *(f"raw, batch {batch}" for batch in batches),
        *(f"served, {count} workers" for count in workers),
        "served / raw",
        "GPU busy",
    ]
    return "\n".join([f"| {' | '.join(titles)} |", "|---" * len(titles) + "|", *map(_row, results)])


def _row(result: dict[str, Any]) -> str:
    busiest = max((each["gpu_utilisation"] or 0.0 for each in result["served"]), default=0.0)
    cells = [
        result["model"],
        result["precision"],
        *(f"{value:,.0f}" for value in result["raw"].values()),
        *(f"{each['images_per_second']:,.0f}" for each in result["served"]),
        f"{result['served_over_raw']:.2f}",
        f"{busiest:.0f} %",
    ]
    return f"| {' | '.join(cells)} |"


def _halved(full: Path, folder: Path) -> Path:
    """The bundle in fp16, unchecked: random weights have no classes to compare on."""
    if not (folder / MANIFEST_FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        manifest = load_bundle(full).manifest
        lower_graph(full / GRAPH_FILE, folder / GRAPH_FILE, "fp16", np.zeros((1, SIDE, SIDE, 3), dtype=np.uint8))
        changed = {**manifest.model_dump(), "graph_sha256": file_sha256(folder / GRAPH_FILE)}
        (folder / MANIFEST_FILE).write_text(Manifest.model_validate(changed).model_dump_json(indent=1) + "\n")
    return folder


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--data", type=Path, required=True, help=f"folder that holds {FOLDER}/")
    arguments.add_argument("--device", choices=[Device.CUDA, Device.TENSORRT, Device.CPU], default=Device.CUDA)
    arguments.add_argument("--models", nargs="+", default=list(GPU_MODELS))
    arguments.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 128])
    arguments.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8])
    arguments.add_argument("--concurrency", type=int, default=256)
    arguments.add_argument("--point", type=float, default=POINT_S, help="seconds of each raw point")
    arguments.add_argument("--seconds", type=float, default=10.0, help="of each served round")
    arguments.add_argument("--work", type=Path, default=Path("runs/bench/bundles"), help="where bundles are made")
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    return arguments


if __name__ == "__main__":
    main(sys.argv[1:])

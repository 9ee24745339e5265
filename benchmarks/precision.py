"""What a bundle in lower precision says of labelled images, and how fast, beside the bundle it was made of.

    python -m benchmarks.precision --original models/bundles/default-fp32 --lowered models/bundles/default \
        --data cub=cub.npz@50-99 --out benchmarks/results/precision.json

Speed is that of one onnxruntime session on all cores, in images a second, the two taking turns.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.bundle import load_bundle
from models.graph import Run, open_graph
from models.precision import compare
from scripts.common import named_path, write_json
from scripts.lower_precision import read_images
from service.cores import usable_cores

BATCHES = (1, 4, 16)
ROUNDS = 5


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    options = _arguments().parse_args(argv)
    original, lowered = (load_bundle(folder) for folder in (options.original, options.lowered))
    sets = {}
    for name, spec in options.data:
        images, labels = read_images(spec, options.images, original.preprocessing)
        sets[name] = asdict(compare(original.graph_path, lowered.graph_path, images, labels))
        print(name, sets[name], flush=True)
    runs = [open_graph(bundle.graph_path, threads=usable_cores()) for bundle in (original, lowered)]
    speed = [compared_speed(runs, images[:batch], options.seconds) for batch in BATCHES]
    print(speed, flush=True)
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.precision", *(sys.argv[1:] if argv is None else argv)]),
        "precision": lowered.manifest.metrics["precision"]["precision"],
        "bytes": [bundle.graph_path.stat().st_size for bundle in (original, lowered)],
        "cores": usable_cores(),
        "sets": sets,
        "speed": speed,
    }
    write_json(options.out, result)


def compared_speed(runs: Sequence[Run], batch: NDArray[np.uint8], seconds: float) -> dict[str, Any]:
    """Images a second of two graphs on one batch, the median of rounds in which they take turns."""
    rates = np.array([[_images_per_s(run, batch, seconds / ROUNDS) for run in runs] for _ in range(ROUNDS)])
    original, lowered = np.median(rates, axis=0)
    return {
        "batch": len(batch),
        "original_images_per_s": round(float(original), 1),
        "lowered_images_per_s": round(float(lowered), 1),
        "ratio": round(float(np.median(rates[:, 1] / rates[:, 0])), 3),
    }


def _images_per_s(run: Run, batch: NDArray[np.uint8], seconds: float) -> float:
    run(batch)
    started, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - started < seconds:
        run(batch)
        count += len(batch)
    return count / (time.perf_counter() - started)


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--original", type=Path, required=True)
    arguments.add_argument("--lowered", type=Path, required=True)
    arguments.add_argument("--data", type=named_path, action="append", required=True, metavar="NAME=SPEC")
    arguments.add_argument("--images", type=int, help="at most this many of each set")
    arguments.add_argument("--seconds", type=float, default=5.0, help="of each graph at each batch size")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    main()

"""Whether candor's memory grows with the requests it has answered: measured every so many, to the last.

    python -m benchmarks.peers.memory --data ../shared/data --requests 100000

One server with the settings of the environment, real photos one to a request, and a client that keeps 16 in flight. The
figure is the memory after all requests over that after the first 5,000.
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cpu_time import PROC
from benchmarks.load import load_count
from benchmarks.machine import describe_bundle, describe_machine, installed_versions
from benchmarks.payloads import Target
from benchmarks.photos import FOLDER, find_photos, small_photos
from benchmarks.process_memory import memory_of
from benchmarks.server_process import images_answered, serving
from benchmarks.worker import end_on_sigterm, worker
from models.bundle import DEFAULT_BUNDLE, load_bundle

EVERY = 5000
CONCURRENCY = 16
PATIENCE_S = 3600.0


def main(argv: Sequence[str]) -> None:
    """Measure, and write the result file."""
    options = _arguments().parse_args(argv)
    if not PROC.is_dir():
        sys.exit("the memory of other processes is read from Linux's /proc, which is not here")
    end_on_sigterm()
    photos = find_photos(options.data / FOLDER)
    if options.small:
        photos = small_photos(photos, options.work / "photos")
    samples = measure(options.bundle, photos, options.requests, min(EVERY, options.requests))
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.peers.memory", *argv]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": installed_versions(),
        "bundle": describe_bundle(load_bundle(options.bundle)),
        "photos": {"folder": FOLDER, "count": len(photos), "small": options.small},
        "concurrency": CONCURRENCY,
        **growth(samples),
        "samples": samples,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    grown = f"RSS {result['rss_growth']:.3f} x, PSS {result['pss_growth']:.3f} x"
    print(f"{grown} that after the first {samples[1]['requests']} requests")


def measure(bundle: Path, photos: Sequence[Path], requests: int, every: int) -> list[dict[str, Any]]:
    """Memory before the first request, and after every so many; `seconds` are those of the last stretch.

    Raises:
        RuntimeError: where the server has counted other images than were sent.
    """
    with tempfile.TemporaryDirectory(prefix="candor-bench-") as folder, worker() as client:
        overrides = {"bundle": bundle.resolve(), "gallery": f"{folder}/gallery", "api_keys": None}
        with serving(overrides, Path(folder)) as server:
            samples = [_sample(server.pid, 0, 0.0)]
            while (sent := samples[-1]["requests"]) < requests:
                count = min(every, requests - sent)
                seconds = client.call(load_count, Target(server.url), photos, CONCURRENCY, count, PATIENCE_S)
                samples.append(_sample(server.pid, sent + count, seconds))
                print(samples[-1], file=sys.stderr, flush=True)
            if images_answered(server) != requests:
                raise RuntimeError(f"the server has counted {images_answered(server)} images of {requests} sent")
    return samples


def growth(samples: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The last sample over the first that had requests."""
    first, last = samples[1], samples[-1]
    return {f"{name}_growth": last[name] / first[name] for name in ("rss", "pss")}


def _sample(pid: int, requests: int, seconds: float) -> dict[str, Any]:
    memory = memory_of(pid)
    return {"requests": requests, "rss": memory.rss, "pss": memory.pss, "seconds": round(seconds, 2)}


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    arguments.add_argument("--data", type=Path, required=True, help=f"folder that holds {FOLDER}/")
    arguments.add_argument("--requests", type=int, default=100_000)
    arguments.add_argument("--small", action="store_true", help="the photos at 64 px: a fraction of the time")
    arguments.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="the shipped one if unset")
    arguments.add_argument("--work", type=Path, default=Path("runs/bench"), help="folder for the small photos")
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/memory.json"))
    return arguments


if __name__ == "__main__":
    main(sys.argv[1:])

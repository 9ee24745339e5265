"""What HTTP costs: `POST /embed` of a real server beside a bare loop of decode, preprocess and session, in one run.

    python -m benchmarks.serving --data ../shared/data

A server runs in a process of its own with the settings of the environment (`CANDOR_*`), and a load generator in another
keeps 16 requests in flight. Between its rounds the same photos go through the same functions without a server:

    bare_pool     as many decoder threads and images in flight as the server has, batches of whatever is ready
    bare_single   one thread, one image at a time

Each process's CPU is read from /proc. The rounds alternate, so that what else the machine does hits all alike, and all
are kept. Server and load generator share the machine's cores and the bare loop has them alone: no server could pass its
images per second. What a server adds of its own is the ratio of CPU-seconds per image.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.bare_loop import bare_pool, bare_single, describe_session
from benchmarks.cpu_time import PROC, Usage
from benchmarks.load import CONTENT_TYPES, load
from benchmarks.server_process import Server, images_answered, serving
from models.bundle import DEFAULT_BUNDLE, Bundle, load_bundle
from service.cores import usable_cores
from service.settings import Device, Settings, read_settings

PHOTOS = "imagenet-sample-100"
WARM_UP_S = 2.0
PERCENTILES = (50, 95, 99)
LIBRARIES = ("onnxruntime", "numpy", "pillow", "fastapi", "starlette", "uvicorn", "orjson")

Work = Literal["server", "server_alone", "bare_pool", "bare_single"]
WORKS: tuple[Work, ...] = ("server", "bare_pool", "server_alone", "bare_single")
BARE: tuple[Work, ...] = ("bare_pool", "bare_single")


@dataclass(frozen=True)
class Plan:
    """How much is measured; `rounds` of each work, of `seconds` each."""

    seconds: float
    rounds: int
    concurrency: int


@dataclass(frozen=True)
class Round:
    """One stretch of one work.

    `cpu_seconds` are the server's or the bare loop's, `client_cpu_seconds` the load generator's; `other_cores` is how
    many cores everything else on the machine kept busy meanwhile: near 0 on a machine fit for this.
    """

    work: Work
    images: int
    seconds: float
    cpu_seconds: float
    client_cpu_seconds: float
    other_cores: float
    latencies_s: tuple[float, ...] = ()

    @property
    def images_per_second(self) -> float:
        """Images over wall-clock seconds."""
        return self.images / self.seconds

    @property
    def cpu_ms_per_image(self) -> float:
        """CPU-milliseconds of the server or the bare loop, per image."""
        return 1000 * self.cpu_seconds / self.images

    def as_dict(self) -> dict[str, Any]:
        """As the result file has it."""
        return {
            "work": self.work,
            "images": self.images,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "cpu_seconds": self.cpu_seconds,
            "cpu_ms_per_image": self.cpu_ms_per_image,
            "client_cpu_ms_per_image": 1000 * self.client_cpu_seconds / self.images,
            "other_cores": self.other_cores,
            "latency_ms": _latency_ms(self.latencies_s),
        }


def main(argv: Sequence[str]) -> None:
    """Measure, write the result file, and print it as a Markdown table."""
    options = _arguments().parse_args(argv)
    if not PROC.is_dir():
        sys.exit("CPU-seconds of other processes are read from Linux's /proc, which is not here")
    photos = find_photos(options.data / PHOTOS)
    plan = Plan(options.seconds, options.rounds, options.concurrency)
    result = {"command": shlex.join(["python", "-m", "benchmarks.serving", *argv]), **run(options.bundle, photos, plan)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(as_markdown(result))


def find_photos(folder: Path) -> list[Path]:
    """The photos of a folder, in order of their names."""
    photos = sorted(path for path in folder.glob("*") if path.suffix.lower() in CONTENT_TYPES)
    if not photos:
        sys.exit(f"no photos in {folder}: --data is the folder that holds {PHOTOS}/")
    return photos


def run(bundle_path: Path, photos: Sequence[Path], plan: Plan) -> dict[str, Any]:
    """Start a server, measure, stop it: everything that came out, and what it was measured on.

    Raises:
        RuntimeError: where the server has counted other images than were sent.
    """
    bundle = load_bundle(bundle_path)
    with tempfile.TemporaryDirectory(prefix="candor-bench-") as folder:
        overrides = {"bundle": bundle_path.resolve(), "gallery": f"{folder}/gallery", "api_key": None}
        settings = read_settings(overrides)
        with serving(overrides, Path(folder)) as server, worker() as client, worker() as bare:
            seconds = min(plan.seconds, WARM_UP_S)
            warm_up = load_round("server", client, server, photos, plan.concurrency, seconds)
            rounds = alternate(client, bare, server, settings, photos, plan)
            counted = images_answered(server)
            session = bare.submit(describe_session, settings).result()
    sent = warm_up.images + sum(each.images for each in rounds if each.work not in BARE)
    if counted != sent:
        raise RuntimeError(f"the server has counted {counted} images and {sent} were sent: the figures are void")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(session["device"]),
        "versions": _versions(),
        "bundle": _describe_bundle(bundle),
        "settings": session,
        "photos": {"folder": PHOTOS, "count": len(photos), "bytes": sum(photo.stat().st_size for photo in photos)},
        "plan": {"seconds": plan.seconds, "rounds": plan.rounds, "concurrency": plan.concurrency},
        "images": {"warm_up": warm_up.images, "timed": sent - warm_up.images, "counted_by_server": counted},
        "summary": summarise(rounds),
        "rounds": [each.as_dict() for each in rounds],
    }


def alternate(
    client: ProcessPoolExecutor,
    bare: ProcessPoolExecutor,
    server: Server,
    settings: Settings,
    photos: Sequence[Path],
    plan: Plan,
) -> list[Round]:
    """Every work in turn, every other time in the reverse order."""
    works: dict[Work, Callable[[], Round]] = {
        "server": lambda: load_round("server", client, server, photos, plan.concurrency, plan.seconds),
        "bare_pool": lambda: bare_round(
            "bare_pool", bare.submit(bare_pool, settings, photos, plan.concurrency, plan.seconds)
        ),
        "server_alone": lambda: load_round("server_alone", client, server, photos, 1, plan.seconds),
        "bare_single": lambda: bare_round("bare_single", bare.submit(bare_single, settings, photos, plan.seconds)),
    }
    rounds: list[Round] = []
    for number in range(plan.rounds):
        for work in WORKS if number % 2 == 0 else reversed(WORKS):
            rounds.append(works[work]())
            print(_progress(number, rounds[-1]), file=sys.stderr, flush=True)
    return rounds


def load_round(
    work: Work, client: ProcessPoolExecutor, server: Server, photos: Sequence[Path], concurrency: int, seconds: float
) -> Round:
    """The server under load."""
    latencies, usage = client.submit(load, server.url, server.pid, photos, concurrency, seconds).result()
    return Round(
        work=work,
        images=len(latencies),
        seconds=usage.seconds,
        cpu_seconds=usage.cpu_seconds[0],
        client_cpu_seconds=usage.cpu_seconds[1],
        other_cores=usage.other_cpu_seconds / usage.seconds,
        latencies_s=tuple(latencies),
    )


def bare_round(work: Work, loop: Future[tuple[int, Usage]]) -> Round:
    """A bare loop, which asks nothing over HTTP."""
    images, usage = loop.result()
    return Round(
        work=work,
        images=images,
        seconds=usage.seconds,
        cpu_seconds=usage.cpu_seconds[0],
        client_cpu_seconds=0.0,
        other_cores=usage.other_cpu_seconds / usage.seconds,
    )


@contextmanager
def worker() -> Iterator[ProcessPoolExecutor]:
    """A fresh process that takes one piece of work at a time."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        yield pool


# --- What it ran on, and what came out -------------------------------------------------------------------------------


def describe_machine(device: str) -> dict[str, Any]:
    """The hardware's name, and how much of it is ours."""
    return {
        "processor": _processor(),
        "usable_cores": usable_cores(),
        "accelerator": _accelerator() if device == Device.CUDA else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "nice": os.nice(0),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _accelerator() -> str:
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]


def _versions() -> dict[str, str]:
    installed = {distribution.name.lower(): distribution.version for distribution in importlib.metadata.distributions()}
    names = ("candor", *LIBRARIES, "onnxruntime-gpu", "uvloop", "httptools")
    return {"python": platform.python_version(), **{name: installed[name] for name in names if name in installed}}


def _describe_bundle(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "name": manifest.name,
        "hash": bundle.hash,
        "backbone": manifest.backbone.name,
        "size": bundle.preprocessing.size,
        "dimension": manifest.dimension,
        "graph_bytes": bundle.graph_path.stat().st_size,
    }


def summarise(rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians over the rounds of each work, and of the ratios, round by round, to the bare loop that is faster."""
    by_work = {work: [each for each in rounds if each.work == work] for work in WORKS}
    medians = {work: _medians(own) for work, own in by_work.items()}
    yardstick = max(BARE, key=lambda work: medians[work]["images_per_second"])
    pairs = list(zip(by_work["server"], by_work[yardstick], strict=True))
    return {
        "yardstick": yardstick,
        "throughput_over_bare": _spread([server.images_per_second / bare.images_per_second for server, bare in pairs]),
        "cpu_over_bare": _spread([server.cpu_ms_per_image / bare.cpu_ms_per_image for server, bare in pairs]),
        "medians": medians,
    }


def _medians(rounds: Sequence[Round]) -> dict[str, Any]:
    rows = [each.as_dict() for each in rounds]
    numbers = ("images_per_second", "cpu_ms_per_image", "client_cpu_ms_per_image", "other_cores")
    latencies = [row["latency_ms"] for row in rows]
    return {
        **{name: statistics.median(row[name] for row in rows) for name in numbers},
        "latency_ms": {name: statistics.median(row[name] for row in latencies) for name in latencies[0]},
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _latency_ms(latencies_s: Sequence[float]) -> dict[str, float]:
    """Percentiles in milliseconds; none where nothing was asked over HTTP."""
    if not latencies_s:
        return {}
    values = np.percentile(latencies_s, PERCENTILES)
    return {f"p{percent}": 1000 * float(value) for percent, value in zip(PERCENTILES, values, strict=True)}


def as_markdown(result: Mapping[str, Any]) -> str:
    """The summary as a table, with what it was measured on."""
    plan, summary, machine, setup = result["plan"], result["summary"], result["machine"], result["settings"]
    titles: dict[Work, str] = {
        "server": f"`POST /embed`, concurrency {plan['concurrency']}",
        "server_alone": "`POST /embed`, concurrency 1",
        "bare_pool": f"bare loop, {setup['decode_workers']} decoders, batches up to {setup['max_batch']}",
        "bare_single": "bare loop, one image at a time",
    }
    rows = [_row(title, summary["medians"][work]) for work, title in titles.items()]
    throughput, cpu = summary["throughput_over_bare"], summary["cpu_over_bare"]
    busy = max(each["other_cores"] for each in result["rounds"])
    return "\n".join(
        [
            "| | img/s | CPU ms/image | p50 ms | p95 ms | p99 ms |",
            "|---|---:|---:|---:|---:|---:|",
            *rows,
            "",
            f"Server over `{summary['yardstick']}`: {cpu['median']:.2f} x the CPU per image "
            f"({cpu['min']:.2f} to {cpu['max']:.2f}), {throughput['median']:.2f} x the images per second "
            f"({throughput['min']:.2f} to {throughput['max']:.2f}); the load generator takes "
            f"{summary['medians']['server']['client_cpu_ms_per_image']:.2f} CPU ms/image beside it.",
            f"Medians of {plan['rounds']} alternating rounds of {plan['seconds']:g} s with {result['photos']['count']} "
            f"photos on {machine['accelerator'] or machine['processor']}, {machine['usable_cores']} cores, other work "
            f"up to {busy:.2f} of them; bundle {result['bundle']['name']} {result['bundle']['hash'][:15]}, "
            f"onnxruntime {result['versions'].get('onnxruntime', result['versions'].get('onnxruntime-gpu'))}.",
        ]
    )


def _row(title: str, medians: Mapping[str, Any]) -> str:
    latency = [f"{medians['latency_ms'][f'p{p}']:.1f}" if medians["latency_ms"] else "" for p in PERCENTILES]
    numbers = [f"{medians['images_per_second']:.1f}", f"{medians['cpu_ms_per_image']:.2f}", *latency]
    return f"| {' | '.join([title, *numbers])} |"


def _progress(number: int, done: Round) -> str:
    return (
        f"round {number + 1} {done.work}: {done.images} images, {done.images_per_second:.1f} img/s, "
        f"{done.cpu_ms_per_image:.2f} CPU ms/image, other work {done.other_cores:.2f} cores"
    )


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--data", type=Path, required=True, help=f"folder that holds {PHOTOS}/")
    arguments.add_argument("--bundle", type=Path, default=DEFAULT_BUNDLE, help="the shipped one if unset")
    arguments.add_argument("--seconds", type=float, default=20.0, help="of each round, at least")
    arguments.add_argument("--rounds", type=_positive, default=3)
    arguments.add_argument("--concurrency", type=_positive, default=16)
    arguments.add_argument("--out", type=Path, default=Path("benchmarks/results/serving.json"))
    return arguments


def _positive(text: str) -> int:
    """Argument type: a whole number from 1 on."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


if __name__ == "__main__":
    main(sys.argv[1:])

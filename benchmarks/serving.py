"""What HTTP costs: `POST /embed` of a real server beside a bare loop of decode, preprocess and session, in one run.

    python -m benchmarks.serving --data ../shared/data

A server runs in a process of its own with the settings of the environment (`CANDOR_*`), and a load generator in another
keeps 16 requests in flight. Between its rounds the same photos go through the same functions without a server:

    bare_pool     as many processes, threads and images in flight as the server has, batches of whatever is ready
    bare_single   one thread, one image at a time

Each process's CPU is read from /proc. The rounds alternate, so that what else the machine does hits all alike, and all
are kept. Server and load generator share the machine's cores and the bare loop has them alone: no server could pass its
images per second. What a server adds of its own is the ratio of CPU-seconds per image.
"""

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from benchmarks.bare_loop import bare_pool, bare_processes, bare_single, describe_session
from benchmarks.cpu_time import PROC
from benchmarks.load import load
from benchmarks.machine import describe_bundle, describe_machine, installed_versions
from benchmarks.payloads import Target
from benchmarks.photos import FOLDER, find_photos
from benchmarks.rounds import PERCENTILES, Round, bare_round, medians, served_round, spread
from benchmarks.server_process import Server, images_answered, serving
from benchmarks.worker import Worker, end_on_sigterm, worker
from models.bundle import DEFAULT_BUNDLE, load_bundle
from service.settings import Device, Settings, read_settings

WARM_UP_S = 2.0

Work = Literal["server", "server_alone", "bare_pool", "bare_single"]
WORKS: tuple[Work, ...] = ("server", "bare_pool", "server_alone", "bare_single")
BARE: tuple[Work, ...] = ("bare_pool", "bare_single")


@dataclass(frozen=True)
class Plan:
    """How much is measured; `rounds` of each work, of `seconds` each."""

    seconds: float
    rounds: int
    concurrency: int


def main(argv: Sequence[str]) -> None:
    """Measure, write the result file, and print it as a Markdown table."""
    options = _arguments().parse_args(argv)
    end_on_sigterm()
    if not PROC.is_dir():
        sys.exit("CPU-seconds of other processes are read from Linux's /proc, which is not here")
    photos = find_photos(options.data / FOLDER)
    plan = Plan(options.seconds, options.rounds, options.concurrency)
    result = {"command": shlex.join(["python", "-m", "benchmarks.serving", *argv]), **run(options.bundle, photos, plan)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(as_markdown(result))


def run(bundle_path: Path, photos: Sequence[Path], plan: Plan) -> dict[str, Any]:
    """Start a server, measure, stop it: everything that came out, and what it was measured on.

    Raises:
        RuntimeError: where the server has counted other images than were sent.
    """
    bundle = load_bundle(bundle_path)
    with tempfile.TemporaryDirectory(prefix="candor-bench-") as folder:
        overrides = {"bundle": bundle_path.resolve(), "gallery": f"{folder}/gallery", "api_keys": None}
        settings = read_settings(overrides)
        with serving(overrides, Path(folder)) as server, worker() as client, worker() as bare:
            seconds = min(plan.seconds, WARM_UP_S)
            warm_up = load_round("server", client, server, photos, plan.concurrency, seconds)
            rounds = alternate(client, bare, server, settings, photos, plan)
            counted = images_answered(server)
            session = bare.call(describe_session, settings)
    sent = warm_up.images + sum(each.images for each in rounds if each.work not in BARE)
    if counted != sent:
        raise RuntimeError(f"the server has counted {counted} images and {sent} were sent: the figures are void")
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(accelerated=session["device"] == Device.CUDA),
        "versions": installed_versions(),
        "bundle": describe_bundle(bundle),
        "settings": session,
        "photos": {"folder": FOLDER, "count": len(photos), "bytes": sum(photo.stat().st_size for photo in photos)},
        "plan": {"seconds": plan.seconds, "rounds": plan.rounds, "concurrency": plan.concurrency},
        "images": {"warm_up": warm_up.images, "timed": sent - warm_up.images, "counted_by_server": counted},
        "summary": summarise(rounds),
        "rounds": [each.as_dict() for each in rounds],
    }


def alternate(
    client: Worker,
    bare: Worker,
    server: Server,
    settings: Settings,
    photos: Sequence[Path],
    plan: Plan,
) -> list[Round]:
    """Every work in turn, every other time in the reverse order."""
    works: dict[Work, Callable[[], Round]] = {
        "server": lambda: load_round("server", client, server, photos, plan.concurrency, plan.seconds),
        "bare_pool": lambda: pool_round(bare, settings, photos, plan),
        "server_alone": lambda: load_round("server_alone", client, server, photos, 1, plan.seconds),
        "bare_single": lambda: single_round(bare, settings, photos, plan.seconds),
    }
    rounds: list[Round] = []
    for number in range(plan.rounds):
        for work in WORKS if number % 2 == 0 else reversed(WORKS):
            rounds.append(works[work]())
            print(_progress(number, rounds[-1]), file=sys.stderr, flush=True)
    return rounds


def load_round(
    work: Work, client: Worker, server: Server, photos: Sequence[Path], concurrency: int, seconds: float
) -> Round:
    """The server under load."""
    return served_round(work, *client.call(load, Target(server.url), server.pid, photos, concurrency, seconds))


def pool_round(bare: Worker, settings: Settings, photos: Sequence[Path], plan: Plan) -> Round:
    """The bare loop of as many images at a time as the server has, in as many processes."""
    asked = (settings, photos, plan.concurrency, plan.seconds)
    images, usage = bare.call(bare_pool, *asked) if settings.workers == 1 else bare_processes(*asked)
    return bare_round("bare_pool", images, usage)


def single_round(bare: Worker, settings: Settings, photos: Sequence[Path], seconds: float) -> Round:
    """The bare loop of one image at a time; what each took is no latency of a request, and left out."""
    taken, usage = bare.call(bare_single, settings, photos, seconds)
    return bare_round("bare_single", len(taken), usage)


# --- What it ran on, and what came out -------------------------------------------------------------------------------


def summarise(rounds: Sequence[Round]) -> dict[str, Any]:
    """Medians over the rounds of each work, and of the ratios, round by round, to the bare loop that is faster."""
    by_work = {work: [each for each in rounds if each.work == work] for work in WORKS}
    typical = {work: medians([each.as_dict() for each in own]) for work, own in by_work.items()}
    yardstick = max(BARE, key=lambda work: typical[work]["images_per_second"])
    pairs = list(zip(by_work["server"], by_work[yardstick], strict=True))
    return {
        "yardstick": yardstick,
        "throughput_over_bare": spread([server.images_per_second / bare.images_per_second for server, bare in pairs]),
        "cpu_over_bare": spread([server.cpu_ms_per_image / bare.cpu_ms_per_image for server, bare in pairs]),
        "medians": typical,
    }


def as_markdown(result: Mapping[str, Any]) -> str:
    """The summary as a table, with what it was measured on."""
    plan, summary, machine, setup = result["plan"], result["summary"], result["machine"], result["settings"]
    titles: dict[Work, str] = {
        "server": f"`POST /embed`, concurrency {plan['concurrency']}",
        "server_alone": "`POST /embed`, concurrency 1",
        "bare_pool": f"bare loop, {setup['lanes']} lanes, batches up to {setup['max_batch']}",
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


def _row(title: str, typical: Mapping[str, Any]) -> str:
    latency = [f"{typical['latency_ms'][f'p{p}']:.1f}" if typical["latency_ms"] else "" for p in PERCENTILES]
    numbers = [f"{typical['images_per_second']:.1f}", f"{typical['cpu_ms_per_image']:.2f}", *latency]
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
    arguments.add_argument("--data", type=Path, required=True, help=f"folder that holds {FOLDER}/")
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

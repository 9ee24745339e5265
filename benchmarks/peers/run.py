"""candor beside its peers: the same graphs, the same photos, the same client, all in one run.

    python -m benchmarks.peers --data ../shared/data            # everything, under 40 minutes on two cores
    python -m benchmarks.peers --data ../shared/data --smoke    # whether it all works, in a few minutes

Every server runs in a process of its own, one at a time; their rounds and those of the limit, a bare loop of decode and
session with candor's own settings, take turns. A run that was ended goes on where it was; `--only` and `--models`
measure a part. Peers are installed into throw-away environments with pinned versions.

On SIGTERM the servers and the client end too.
"""

import argparse
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.cpu_time import PROC
from benchmarks.machine import describe_machine
from benchmarks.peers.bundles import bundle_of
from benchmarks.peers.campaign import LIMIT, Campaign, run_all
from benchmarks.peers.catalogue import DEFAULT, MODELS, contenders
from benchmarks.peers.environments import REQUIREMENTS
from benchmarks.peers.plan import FULL, SMOKE, Plan
from benchmarks.peers.plot import plot
from benchmarks.peers.report import report
from benchmarks.peers.store import Store
from benchmarks.peers.table import as_markdown
from benchmarks.photos import FOLDER, find_photos, large_photos, small_photos
from benchmarks.server_process import REPOSITORY
from benchmarks.worker import end_on_sigterm
from models.bundle import load_bundle
from service.cores import usable_cores

NAMES = [each.name for each in contenders(1)]
SOURCES = ("service", "models", "benchmarks/peers")


def main(argv: Sequence[str]) -> None:
    """Measure, write the result file, the table and the plot."""
    options = _arguments().parse_args(argv)
    if not PROC.is_dir():
        sys.exit("CPU-seconds of other processes are read from Linux's /proc, which is not here")
    end_on_sigterm()
    state = options.work / ("peers-smoke" if options.smoke else "peers")
    os.environ["XDG_CACHE_HOME"] = str((state / "cache").resolve())  # candor tunes itself anew, and then remembers
    found = find_photos(options.data / FOLDER)
    plan = _plan(options)
    photos = found[: plan.photos]
    models = options.models or (MODELS[:2] if options.smoke else MODELS)
    paths = {model: bundle_of(model, options.work / "bundles", found) for model in models}
    everyone = contenders(usable_cores())
    about = {"plan": asdict(plan), "sources": _digest(), "cores": usable_cores()}
    campaign = Campaign(
        contenders=[each for each in everyone if each.name in options.only],
        bundles={model: load_bundle(path) for model, path in paths.items()},
        plan=plan,
        photos={
            "photo": photos,
            "64 px": small_photos(photos, options.work / "photos"),
            "24 Mpx": large_photos(photos[: plan.large_photos], options.work / "photos"),
        },
        overload_models=[model for model in options.overload_models if model in models],
        store=Store(state, about, options.fresh, options.again),
        environments=options.work / "envs",
    )
    run_all(campaign)
    head = {
        "command": shlex.join(["python", "-m", "benchmarks.peers", *argv]),
        "machine": describe_machine(),
        "photos": {"folder": FOLDER, "count": len(photos), "bytes": sum(photo.stat().st_size for photo in photos)},
    }
    result = {**head, **report(everyone, plan, campaign.store)}
    out = options.out or (state if options.smoke else Path("benchmarks/results"))
    _write(out, result)


def _write(folder: Path, result: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peers.json").write_text(json.dumps(result, indent=1) + "\n")
    table = as_markdown(result)
    (folder / "peers.md").write_text(table + "\n")
    plot(result, folder / "peers.png")
    print(table)


def _plan(options: argparse.Namespace) -> Plan:
    """The plan of the options; whatever they leave is that of the full or the smoke run."""
    names = ("rounds", "closed_s", "overload_s")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    return replace(SMOKE if options.smoke else FULL, **given)


def _digest() -> str:
    """Of all code and pins that figures depend on."""
    digest = hashlib.sha256()
    files = [path for folder in SOURCES for path in (REPOSITORY / folder).rglob("*.py")]
    for path in sorted([*files, *REQUIREMENTS.glob("*.txt")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--data", type=Path, required=True, help=f"folder that holds {FOLDER}/")
    arguments.add_argument("--smoke", action="store_true", help="short stretches, two models; into the work folder")
    arguments.add_argument("--only", type=_among(NAMES), default=NAMES, help=f"some of {','.join(NAMES)}")
    arguments.add_argument("--models", type=_among(MODELS), help=f"some of {','.join(MODELS)}")
    arguments.add_argument(
        "--overload-models", type=_among(MODELS), default=[DEFAULT, "resnet50"], help="models to overload with"
    )
    arguments.add_argument("--rounds", type=int, help=f"of the main scenarios ({FULL.rounds})")
    arguments.add_argument("--closed-s", type=float, help=f"seconds of each closed loop ({FULL.closed_s:g})")
    arguments.add_argument("--overload-s", type=float, help=f"seconds of each overload ({FULL.overload_s:g})")
    arguments.add_argument("--fresh", action="store_true", help="drop what an earlier run has measured")
    arguments.add_argument(
        "--again",
        type=_among([*NAMES, LIMIT]),
        default=[],
        help=f"measure these again, also {LIMIT}, and keep the others, after changes that do not concern them",
    )
    arguments.add_argument("--work", type=Path, default=Path("runs/bench"), help="environments, bundles, checkpoints")
    arguments.add_argument("--out", type=Path, help="folder of peers.json, .md and .png (benchmarks/results)")
    return arguments


def _among(names: Sequence[str]) -> Any:
    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        if wrong := set(chosen) - set(names):
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(wrong))}: not among {', '.join(names)}")
        return [name for name in names if name in chosen]

    return parse

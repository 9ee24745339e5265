"""Certify and follow policies on CUB classes 50-99 and the CIFAR-10 test set, over HTTP.

    python -m benchmarks.policies --data DATA --bundle BUNDLE --out benchmarks/results/policies.json

Each of `--galleries` random galleries is filled and asked once over HTTP; its queries are then split `--splits` times.
What a gallery gave is kept in `--work`, where a killed run goes on.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_bundle, describe_machine, installed_versions
from benchmarks.policies.asking import Asked, candor
from benchmarks.policies.report import as_markdown, plot, summarise
from benchmarks.policies.sets import Setting, encoded, part
from benchmarks.policies.shifts import Scene, agrees, watch
from benchmarks.policies.splits import outcome, redrawn, split, to_follow
from models.bundle import load_bundle


def settings_in(data: Path) -> tuple[Setting, ...]:
    """The two sets of a folder of data."""
    birds = data / "cub100" / "cub100-128px.npz"
    return (
        Setting("CUB 50-99", f"{birds}@50-99", 0.35, f"{birds}@0-49"),
        Setting("CIFAR-10 test", str(data / "cifar10" / "test.npz"), 0.2, str(data / "cifar100" / "test.npz")),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run, or go on."""
    options = _arguments().parse_args(argv)
    options.work.mkdir(parents=True, exist_ok=True)
    found = {
        setting.name: [_gallery(setting, seed, options) for seed in range(options.galleries)]
        for setting in settings_in(options.data)
    }
    result = {
        "machine": describe_machine(),
        "versions": installed_versions(),
        "bundle": describe_bundle(load_bundle(options.bundle)),
        "sets": {name: summarise(galleries) for name, galleries in found.items()},
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    options.out.with_suffix(".md").write_text(as_markdown(result))
    plot(found, options.out.with_suffix(".png"))


def _gallery(setting: Setting, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """One random gallery: its queries' evidence, many splits of them, and one split watched over HTTP."""
    record = options.work / f"{setting.name.replace(' ', '-')}-{seed}.json"
    if not record.exists():
        partial_record = record.with_suffix(".partial")
        partial_record.write_text(json.dumps(_ask(setting, seed, options.bundle)))
        partial_record.replace(record)
    kept = json.loads(record.read_text())
    asked = [Asked(each["evidence"], tuple(each["relevant"])) for each in kept["asked"]]
    splits = [outcome(asked, split(len(asked), number)) for number in range(options.splits)]
    return {
        **{name: kept[name] for name in ("items", "followed", "agrees", "watched")},
        "queries": len(asked),
        "splits": splits,
        "redrawn": redrawn(asked, seed),
    }


def _ask(setting: Setting, seed: int, bundle: Path) -> dict[str, Any]:
    parted = part(setting, seed)
    pixels = partial(encoded, parted.dataset)
    with tempfile.TemporaryDirectory() as folder, candor(bundle, Path(folder)) as server:
        server.fill(parted.gallery, pixels)
        asked = server.evidence(parted.queries, pixels)
        scene = Scene(server, setting, parted, asked, *to_follow(asked))
        return {
            "items": len(parted.gallery),
            "asked": [asdict(each) for each in asked],
            "followed": scene.target.alpha,
            "agrees": agrees(scene),
            "watched": watch(scene),
        }


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, required=True, help="folder with cub100/, cifar10/ and cifar100/")
    arguments.add_argument("--bundle", type=Path, required=True)
    arguments.add_argument("--galleries", type=int, default=3, help="random galleries of each set")
    arguments.add_argument("--splits", type=int, default=40, help="random splits of each gallery's queries")
    arguments.add_argument("--work", type=Path, default=Path("runs/policies"), help="where what was asked is kept")
    arguments.add_argument("--out", type=Path, required=True)
    return arguments


if __name__ == "__main__":
    main()

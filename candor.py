"""The console command `candor`: the server, and each offline stage as a subcommand."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from models.errors import UserError


@dataclass(frozen=True)
class Command:
    """A subcommand: the module whose `main(argv)` runs it, and one line for the help."""

    name: str
    module: str
    summary: str


COMMANDS: Final = (
    Command("serve", "service.main", "serve a bundle over HTTP"),
    Command("train-backbone", "scripts.train_backbone", "train a timm backbone on labelled images"),
    Command("import-backbone", "scripts.import_backbone", "take a timm model as it is, with weights made elsewhere"),
    Command("import-pvu", "scripts.import_pvu", "make a bundle of a published PVU checkpoint"),
    Command("cache-representations", "scripts.cache_representations", "embed a data set once with a frozen backbone"),
    Command("train-head", "scripts.train_head", "train the uncertainty head on cached representations"),
    Command("evaluate", "scripts.evaluate", "measure retrieval and uncertainty beside the baselines"),
    Command("calibrate", "scripts.calibrate", "compute reference percentiles and novelty statistics"),
    Command("export", "scripts.export", "write backbone, head and calibration as one bundle"),
    Command("lower-precision", "scripts.lower_precision", "make a faster bundle of one, if it says the same"),
    Command("certify", "scripts.certify", "certify a running server's retrieval with labelled queries"),
    Command("fit", "scripts.fit", "from a folder of your images to a bundle, in one command"),
    Command(
        "bench-uncertainty", "scripts.bench_uncertainty", "compare all methods of uncertainty, with tables and plots"
    ),
    Command("reproduce", "scripts.reproduce", "run every stage, from images to a bundle and its figures"),
)

EXTRAS: Final = {
    "matplotlib": "train",
    "onnx": "train",
    "onnxscript": "train",
    "safetensors": "train",
    "scipy": "train",
    "timm": "train",
    "torch": "train",
    "torchvision": "train",
    "tqdm": "train",
    "onnxruntime": "cpu",
}


def build_parser() -> argparse.ArgumentParser:
    """The parser of the first argument; each command parses the rest by itself."""
    parser = argparse.ArgumentParser(prog="candor", description="Image embeddings that say when they are unsure.")
    parser.add_argument("--version", action="version", version=f"candor {version('candor')}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparsers.add_parser(command.name, help=command.summary, add_help=False)
    return parser


def run(command: Command, argv: Sequence[str]) -> None:
    """Import a command's module and call its `main`.

    Raises:
        SystemExit: with a message alone, when its input can be mended, or with the name of the extra to install, when
            one of its packages is missing.
    """
    try:
        importlib.import_module(command.module).main(argv)
    except UserError as error:
        raise SystemExit(f"candor {command.name}: {error}") from error
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        install = f"pip install 'candor[{EXTRAS[package]}]'"
        raise SystemExit(f"candor {command.name} needs {package}, which is not installed: {install}") from error


def main(argv: Sequence[str] | None = None) -> None:
    """Run `candor COMMAND ...`."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    chosen = build_parser().parse_args(arguments[:1]).command
    run(next(command for command in COMMANDS if command.name == chosen), arguments[1:])

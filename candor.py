"""The client to a running server, and the console command `candor`: the server, and each stage as a subcommand."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from models.errors import UserError

if TYPE_CHECKING:
    from scripts.client import (
        ApiError,
        AsyncClient,
        Client,
        Embedded,
        Feedback,
        GalleryInfo,
        Item,
        Labelled,
        Match,
        Model,
        Models,
        NewItem,
        Policy,
        Retrieval,
        ServerError,
        Stored,
        Target,
        Unintelligible,
        Unreachable,
        Unreadable,
        Untrusted,
    )

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "Embedded",
    "Feedback",
    "GalleryInfo",
    "Item",
    "Labelled",
    "Match",
    "Model",
    "Models",
    "NewItem",
    "Policy",
    "Retrieval",
    "ServerError",
    "Stored",
    "Target",
    "Unintelligible",
    "Unreachable",
    "Unreadable",
    "Untrusted",
]

if not TYPE_CHECKING:  # or any name at all would do

    def __getattr__(name: str) -> Any:
        """The client, imported once it is asked for: the commands do without."""
        if name not in __all__:
            raise AttributeError(f"module 'candor' has no attribute {name!r}")
        return getattr(importlib.import_module("scripts.client"), name)


@dataclass(frozen=True)
class Command:
    """A subcommand, of one word or two: the module whose `main(argv)` runs it, and one line for the help."""

    name: str
    module: str
    summary: str


COMMANDS: Final = (
    Command("serve", "service.main", "serve a bundle over HTTP"),
    Command("doctor", "service.doctor", "examine what a server would find here, and say what to do"),
    Command("train-backbone", "scripts.train_backbone", "train a timm backbone on labelled images"),
    Command("import-backbone", "scripts.import_backbone", "take a timm model as it is, with weights made elsewhere"),
    Command("import-pvu", "scripts.import_pvu", "make a bundle of a published PVU checkpoint"),
    Command("cache-representations", "scripts.cache_representations", "embed a data set once with a frozen backbone"),
    Command("train-head", "scripts.train_head", "train the uncertainty head on cached representations"),
    Command("evaluate", "scripts.evaluate", "measure retrieval and uncertainty beside the baselines"),
    Command("calibrate", "scripts.calibrate", "compute reference percentiles and novelty statistics"),
    Command("export", "scripts.export", "write backbone, head and calibration as one bundle"),
    Command("lower-precision", "scripts.lower_precision", "make a faster bundle of one, if it says the same"),
    Command("keys add", "service.keys_add", "make an API key for a server"),
    Command("keys list", "service.keys_list", "tell the API keys of a file and what they are for"),
    Command("keys remove", "service.keys_remove", "take an API key back"),
    Command("certify", "scripts.certify", "certify a running server's retrieval with labelled queries"),
    Command("embed", "scripts.embed", "embed images through a running server, into a file"),
    Command("search", "scripts.search", "find the nearest items of a running server's gallery"),
    Command("index", "scripts.index", "put a folder of images into a running server's gallery"),
    Command(
        "gallery export", "service.gallery_export", "write a gallery into a folder, for another engine or a backup"
    ),
    Command("gallery import", "service.gallery_import", "fill a gallery of any engine from such a folder"),
    Command("bundle show", "service.bundle_show", "tell what a bundle is: of a folder or of the hub"),
    Command("bundle verify", "service.bundle_verify", "check that a bundle is whole and does what its manifest says"),
    Command("bundle push", "service.bundle_push", "verify a bundle and upload it to the hub, with a model card"),
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


def words(arguments: Sequence[str]) -> int:
    """How many of the first arguments name the command."""
    groups = {command.name.split()[0] for command in COMMANDS if " " in command.name}
    return 2 if arguments and arguments[0] in groups else 1


def main(argv: Sequence[str] | None = None) -> None:
    """Run `candor COMMAND ...`."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime reports to its maker as soon as it is imported
    arguments = list(sys.argv[1:] if argv is None else argv)
    count = words(arguments)
    named = " ".join(arguments[:count])
    asks_help = count == 2 and arguments[1:2] in (["-h"], ["--help"])
    chosen = build_parser().parse_args(["--help"] if asks_help else [named] if named else []).command
    run(next(command for command in COMMANDS if command.name == chosen), arguments[count:])

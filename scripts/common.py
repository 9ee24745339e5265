"""What every stage shares: how arguments are declared, and how results are written."""

import argparse
import json
import logging
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch


def parser(stage: str, description: str | None) -> argparse.ArgumentParser:
    """A parser for `candor STAGE`, whose help is the script's own docstring."""
    return argparse.ArgumentParser(
        prog=f"candor {stage}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_compute_arguments(arguments: argparse.ArgumentParser) -> None:
    """`--device` and `--workers`."""
    arguments.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    arguments.add_argument("--workers", type=int, default=min(8, _cores()), help="processes that decode images")


def _cores() -> int:
    """Cores this process may use, where the system says; else all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def json_object(text: str) -> dict[str, Any]:
    """Argument type: a JSON object, with lists as the tuples timm wants."""
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("expected a JSON object, e.g. '{\"patch_size\": 8}'")
    return {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}


def named_path(text: str) -> tuple[str, str]:
    """Argument type: `NAME=VALUE`."""
    name, separator, value = text.partition("=")
    if not separator or not name or not value:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1, default=float) + "\n")
    partial.replace(path)


def command_line() -> str:
    """The command as it could be typed again."""
    return " ".join(["candor", *sys.argv[1:]])


def current_commit() -> str:
    """The commit of the source tree, marked where the tree differs from it; empty outside a checkout."""
    result = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return result.stdout.strip()


def log_to_stderr() -> logging.Logger:
    """The project's own logger, with plain lines on stderr."""
    log = logging.getLogger("candor")
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stderr))
        log.setLevel(logging.INFO)
    return log

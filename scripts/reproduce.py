"""Make the default bundle again, from images to numbers.

    candor reproduce --data DATA --out runs/default

DATA holds tiny-imagenet-200/ (packed shards) and, where they are to be reported on, cub100/, cifar10/, cifar100/ and
human-labels/; weights-mobilenetv2_100/ holds the teacher. Each stage is the command of that name, its artefacts are
folders under `--out`, and a run that was stopped goes on where it was. Classes: 160 to train on, 20 to choose on, 20 to
report on, fixed in scripts/splits/tiny-imagenet.json.
"""

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts import (
    cache_representations,
    calibrate,
    evaluate,
    export,
    import_backbone,
    train_backbone,
    train_head,
)
from scripts.common import log_to_stderr, parser

SPLITS = Path(__file__).parent / "splits" / "tiny-imagenet.json"
DATA_NOTE = "Tiny-ImageNet, training shards 0-7, 160 classes (upstream of scripts/splits/tiny-imagenet.json)"
BACKBONE = ["resnet18", "--args", '{"channels": [32, 64, 128, 256]}', "--size", "64"]
HEAD = ["--method", "retrieval-loss"]
VIEWS = ["--min-scale", "0.08", "--degraded", "0.3"]
EPOCHS = 28
TERMS = "trained on Tiny-ImageNet: ImageNet terms, non-commercial research and education"
HEAD_NOTE = "Tiny-ImageNet, training shards 8-9, the same classes; shard 9 again at 32 px; CUB-200-2011, classes 0-49"
HEAD_TERMS = "trained on Tiny-ImageNet, its head on CUB-200-2011 too: non-commercial research and education"
TEACHER_NOTE = "timm mobilenetv2_100 trained on ImageNet-1k (Apache-2.0), distilled at 160 px"

Stage = tuple[str, Callable[[Sequence[str]], None], list[str]]


def main(argv: Sequence[str] | None = None) -> None:
    """Run every stage."""
    options = _arguments().parse_args(argv)
    plan = Plan(
        options.data, options.out, options.epochs, options.limit, options.device, options.workers, options.backbone
    )
    for name, run, arguments in plan.stages():
        log_to_stderr().info("== %s: candor %s %s", name, _command(run), " ".join(arguments))
        run(arguments)


def _command(stage: Callable[[Sequence[str]], None]) -> str:
    """The subcommand whose code a stage is."""
    return stage.__module__.rpartition(".")[2].replace("_", "-")


class Plan:
    """Every stage with its arguments, for one data folder and one budget."""

    def __init__(
        self,
        data: Path,
        out: Path,
        epochs: int,
        limit: int | None,
        device: str | None,
        workers: int | None,
        backbone: Path | None = None,
    ) -> None:
        self._data, self._out, self._epochs = data, out, epochs
        self._backbone = backbone
        self._tiny = data / "tiny-imagenet-200"
        self._limit = ["--limit", str(limit)] if limit else []
        self._compute = ["--device", device] if device else []
        self._compute += ["--workers", str(workers)] if workers is not None else []
        if not self._tiny.is_dir():
            raise SystemExit(f"{self._tiny} does not exist; --data must name the folder that holds tiny-imagenet-200/")

    def stages(self) -> list[Stage]:
        """(name, stage, arguments) in the order they run."""
        return [
            *([] if self._backbone else self._train_backbone()),
            *(
                (f"{name} cache", cache_representations.main, [*self._cache(name, spec, views=3), *VIEWS])
                for name, spec in self._head_sets().items()
            ),
            ("head", train_head.main, self._train_head()),
            ("evaluation", evaluate.main, self._evaluate()),
            ("class statistics", cache_representations.main, self._cache("train", self._set("train-[01]", "upstream"))),
            ("reference", cache_representations.main, self._cache("reference", self._set("val", "upstream"))),
            ("calibration", calibrate.main, self._calibrate()),
            ("bundle", export.main, self._export()),
        ]

    def _train_backbone(self) -> list[Stage]:
        weights = self._data / "weights-mobilenetv2_100" / "state_dict_int8.npz"
        imported = ["mobilenetv2_100", "--args", '{"pad_type": "same"}', "--weights", str(weights)]
        imported += ["--size", "160", "--crop-pct", "1", "--half-normalised"]
        imported += ["--data", "ImageNet-1k", "--licence", "Apache-2.0", "--out", self._path("teacher")]
        cached = ["--backbone", self._path("teacher"), "--data", self._set("train-[0-7]", "upstream")]
        cached += ["--views", "3", "--min-scale", "0.25", "--out", self._path("teacher-cache")]
        return [
            ("teacher", import_backbone.main, imported),
            ("teacher cache", cache_representations.main, [*cached, *self._limit, *self._compute]),
            ("backbone", train_backbone.main, self._train()),
        ]

    def _train(self) -> list[str]:
        arguments = [*BACKBONE, "--data", self._set("train-[0-7]", "upstream"), "--epochs", str(self._epochs)]
        arguments += ["--validation", self._set("val", "upstream"), "--licence", TERMS]
        arguments += ["--data-note", DATA_NOTE]
        arguments += ["--teacher", self._path("teacher-cache"), "--teacher-note", TEACHER_NOTE]
        return [*arguments, "--out", self._path("backbone"), *self._limit, *self._compute]

    def _cache(self, name: str, spec: str, views: int = 0) -> list[str]:
        arguments = [*self._frozen(), "--data", spec, "--views", str(views)]
        return [*arguments, "--out", self._path(f"{name}-cache"), *self._limit, *self._compute]

    def _train_head(self) -> list[str]:
        caches = [part for name in self._head_sets() for part in ("--cache", self._path(f"{name}-cache"))]
        return [*self._frozen(), *HEAD, *caches, "--out", self._path("head")]

    def _head_sets(self) -> dict[str, str]:
        """What the head learns from: photos the backbone was not trained on, small ones, and finer classes."""
        sets = {"head": self._set("train-[89]", "upstream"), "head-small": f"{self._set('train-9', 'upstream')}~32"}
        birds = self._data / "cub100" / "cub100-128px.npz"
        return {**sets, "head-birds": f"{birds}@0-49"} if birds.is_file() else sets

    def _evaluate(self) -> list[str]:
        sets = {
            "tiny-imagenet-test": self._set("train-*", "test"),
            "cub-50-99": f"{self._data}/cub100/cub100-128px.npz@50-99",
            "cifar10": f"{self._data}/cifar10/test.npz",
            "cifar100": f"{self._data}/cifar100/test.npz",
        }
        present = {name: spec for name, spec in sets.items() if Path(spec.partition("@")[0]).parent.is_dir()}
        arguments = [*self._judged(), *(part for item in present.items() for part in ("--data", "=".join(item)))]
        votes = self._data / "human-labels" / "cifar10h-test.npz"
        if votes.is_file() and "cifar10" in present:
            arguments += ["--votes", f"cifar10={votes}"]
        return [*arguments, "--out", self._path("evaluation"), *self._limit, *self._compute]

    def _calibrate(self) -> list[str]:
        arguments = [*self._judged(), "--cache", self._path("train-cache")]
        arguments += ["--reference", self._path("reference-cache")]
        arguments += ["--reference-name", "Tiny-ImageNet validation photos of the 160 upstream classes"]
        return [*arguments, "--out", self._path("calibration")]

    def _export(self) -> list[str]:
        arguments = [*self._judged(), "--calibration", self._path("calibration")]
        arguments += ["--data", self._set("val", "validation"), "--name", self._out.name]
        arguments += ["--evaluation", self._path("evaluation/results.json")]
        if "head-birds" in self._head_sets():
            arguments += ["--head-data", HEAD_NOTE, "--licence", HEAD_TERMS]
        start = ["--backbone", str(self._backbone)] if self._backbone else ["--epochs", str(self._epochs)]
        command = " ".join(["candor reproduce", *start, *self._limit])
        return [*arguments, "--command", command, "--out", self._path("bundle")]

    def _frozen(self) -> list[str]:
        return ["--backbone", str(self._backbone or self._path("backbone"))]

    def _judged(self) -> list[str]:
        return [*self._frozen(), "--head", self._path("head")]

    def _set(self, shards: str, split: str) -> str:
        return f"{self._tiny}/{shards}.npz@{os.path.relpath(SPLITS)}:{split}"

    def _path(self, name: str) -> str:
        return str(self._out / name)


def _arguments() -> argparse.ArgumentParser:
    arguments = parser("reproduce", __doc__)
    arguments.add_argument("--data", type=Path, required=True, help="folder of the data sets")
    arguments.add_argument("--out", type=Path, default=Path("runs/default"), help="folder of the artefacts")
    arguments.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of the backbone")
    arguments.add_argument("--limit", type=int, help="at most this many images of each set, for a quick run")
    arguments.add_argument("--backbone", type=Path, help="backbone folder to start from, instead of training one")
    arguments.add_argument("--device", help="cpu or cuda")
    arguments.add_argument("--workers", type=int, help="processes that decode images")
    return arguments


if __name__ == "__main__":
    main()

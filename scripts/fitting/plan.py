"""The stages of `candor fit` and their arguments, for one data set and its split."""

import argparse
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from models.backbone import BackboneError, load_backbone
from models.bundle import file_sha256
from models.datasets import open_dataset
from models.heads import DESCRIPTION_FILE, load_head
from models.methods.fit import Schedule
from models.methods.registry import METHODS
from models.representations import load_representations
from scripts import cache_representations, calibrate, evaluate, export, import_backbone, import_pvu, train_head
from scripts.evaluate import Run
from scripts.fitting.evaluation import evaluate_by_instance
from scripts.fitting.ledger import Stage, read_json
from scripts.fitting.split import INSTANCES, FitError, Split, require_readable
from scripts.reproduce import VIEWS

METHOD, WITHOUT_LAYERS = "retrieval", "retrieval-mse"
ALONE = ("infonce", "mcinfonce", "inverse-norm", "mahalanobis", "knn", "leverage")  # methods that look at no label
AUGMENTED = 3  # views of each image, beside the clean one
MIN_STEPS = 120  # of a head's training: few images need more epochs
RESULTS = "evaluation/results.json"
TO_BACKBONE = ("args", "weights", "classes", "size", "crop_pct", "licence")
TO_PVU = ("args", "size", "crop_pct", "licence", "data_note")


class Plan:
    """Every stage in its order, and where backbone and head lie.

    Raises:
        FitError: when the method needs classes and there are none, or a backbone's folder is not there.
    """

    def __init__(self, options: argparse.Namespace, split: Split) -> None:
        self._options, self._split = options, split
        self._compute = ["--device", options.device, "--workers", str(options.workers)]
        self._made_before = Path(options.backbone).is_dir()
        self.backbone = Path(options.backbone) if self._made_before else options.out / "backbone"
        self.head: Path = options.head or options.out / "head"
        self.trains = options.head is None and options.pvu is None
        self._method = METHODS[options.method]
        self._layers = ["--layers"] if self._sees_layers() else []
        if not self._made_before and "/" in options.backbone and not options.backbone.startswith("hf-hub:"):
            raise FitError(f"{options.backbone}: no such backbone folder, and neither a timm name nor an hf-hub: id")
        able = [name for name, method in METHODS.items() if method.target or name in ALONE]
        if self.trains and split.kind == INSTANCES and options.method not in able:
            raise FitError(f"{options.method} needs classes, and {options.data} has none; choose of {', '.join(able)}")

    def given(self) -> dict[str, str]:
        """SHA-256 sums of the files that the run starts from, beside the images."""
        folders = [self.backbone if self._made_before else None, self._options.head]
        files = [file for folder in folders if folder for file in sorted(folder.glob("*"))]
        files += [file for file in (self._options.weights, self._options.pvu) if file]
        return {str(file): file_sha256(file) for file in files if file.is_file()}

    def stages(self) -> list[Stage]:
        """In the order they run."""
        options, stages = self._options, []
        if not self._made_before and not options.pvu:
            stages.append(self._backbone())
        if options.head:
            stages.append(Stage("imported head", self._check_head, (str(self.head),), shown=str(self.head)))
        stages.append(Stage("images", self._check_images, (options.data,), shown="can all of them be decoded?"))
        stages += [self._pvu()] if options.pvu else [self._cache("training"), self._cache("reference")]
        if self._split.kind == INSTANCES:
            stages.append(self._cache("evaluation"))
        if self.trains:
            stages.append(self._training())
        stages.append(self._evaluation())
        if not options.pvu:
            stages.append(self._calibration())
        return [*stages, self._bundle()]

    def _backbone(self) -> Stage:
        flags = ["--half-normalised"] if self._options.half_normalised else []
        flags += [] if self._options.weights else ["--pretrained"]
        data = ["--data", self._options.data_note] if self._options.data_note else []
        arguments = [self._options.backbone, *flags, *self._passed(TO_BACKBONE), *data]
        return self._command("backbone", _import_backbone, "import-backbone", arguments)

    def _pvu(self) -> Stage:
        arguments = [str(self._options.pvu), "--backbone", self._options.backbone, *self._passed(TO_PVU)]
        arguments += ["--data", self._spec("training"), "--reference", self._spec("reference")]
        arguments += ["--reference-name", self._reference_name(), "--name", self._options.name]
        arguments += [*self._compute, "--out", str(self._options.out)]
        shown = f"candor import-pvu {shlex.join(arguments)}"
        return Stage("import", import_pvu.main, tuple(arguments), self._options.out / "head", shown)

    def _cache(self, part: str) -> Stage:
        views = AUGMENTED if part == "evaluation" or (part == "training" and self.trains) else 0
        arguments = ["--backbone", str(self.backbone), "--data", self._spec(part), "--views", str(views), *VIEWS]
        arguments += [*self._layers, "--dtype", "float32", "--seed", str(self._options.seed), *self._compute]
        return self._command(f"{part} cache", _cache, "cache-representations", arguments)

    def _training(self) -> Stage:
        target = ["--target", "instance"] if self._split.kind == INSTANCES and self._method.target else []
        arguments = ["--backbone", str(self.backbone), "--cache", self._path("training-cache"), *target]
        arguments += ["--method", self._options.method, "--epochs", str(self._epochs())]
        return self._command("head", train_head.main, "train-head", [*arguments, "--seed", str(self._options.seed)])

    def _evaluation(self) -> Stage:
        arguments = ["--data", f"{self._split.kind}={self._spec('evaluation')}"]
        arguments = [*self._judged(), *arguments, *self._compute, "--out", self._path("evaluation")]
        shown = "by instance" if self._split.kind == INSTANCES else f"candor evaluate {shlex.join(arguments)}"
        return Stage("evaluation", self._evaluate, tuple(arguments), self._options.out / RESULTS, shown)

    def _calibration(self) -> Stage:
        arguments = [*self._judged(), "--cache", self._path("training-cache")]
        arguments += ["--reference", self._path("reference-cache"), "--reference-name", self._reference_name()]
        return self._command("calibration", calibrate.main, "calibrate", arguments)

    def _bundle(self) -> Stage:
        arguments = [*self._judged(), "--calibration", self._path("calibration"), "--data", self._spec("training")]
        arguments += ["--evaluation", self._path(RESULTS), "--name", self._options.name]
        return self._command("bundle", export.main, "export", arguments)

    def _check_head(self, arguments: Sequence[str]) -> None:
        load_head(self.head, load_backbone(self.backbone).hash)

    def _check_images(self, arguments: Sequence[str]) -> None:
        require_readable(open_dataset(self._options.data), self._options.workers)

    def _evaluate(self, arguments: Sequence[str]) -> None:
        if self._split.kind != INSTANCES:
            evaluate.main(arguments)
            return
        backbone = load_backbone(self.backbone)
        head, out = load_head(self.head, backbone.hash), self._options.out
        run = Run(backbone, head, out / "evaluation", self._options.workers, self._options.device)
        names = ["evaluation", "statistics" if self._options.pvu else "training", "reference"]
        queries, *others = [load_representations(out / f"{name}-cache", backbone.hash) for name in names]
        evaluate_by_instance(run, self._split.kind, open_dataset(self._spec("evaluation")), queries, others)

    def _command(
        self, name: str, run: Callable[[Sequence[str]], None], command: str, arguments: Sequence[str]
    ) -> Stage:
        """A stage that is a command, whose `--out` is the run's folder of the stage's name."""
        folder = self._options.out / name.replace(" ", "-")
        whole = (*arguments, "--out", str(folder))
        return Stage(name, run, whole, folder, f"candor {command} {shlex.join(whole)}")

    def _sees_layers(self) -> bool:
        """Whether the head takes the statistics of all layers."""
        if self.trains:
            return self._method.layers
        sizes = read_json(self.head / DESCRIPTION_FILE).get("sizes") if self._options.head else None
        return sizes is not None and sizes["features"] > sizes["dimension"]

    def _epochs(self) -> int:
        """Those of the method, or more where they were fewer steps than MIN_STEPS."""
        schedule = Schedule(**self._method.schedule)
        steps = max(1, self._split.training.size // schedule.batch_size)  # of an epoch
        return max(schedule.epochs, -(-MIN_STEPS // steps))

    def _reference_name(self) -> str:
        return f"{self._split.reference.size} images of {self._options.data}, kept from the head"

    def _judged(self) -> list[str]:
        return ["--backbone", str(self.backbone), "--head", str(self.head)]

    def _passed(self, names: Sequence[str]) -> list[str]:
        """Those of the options that were given, as another command takes them."""
        given = [(f"--{name.replace('_', '-')}", getattr(self._options, name)) for name in names]
        return [part for key, value in given if value is not None for part in (key, str(value))]

    def _spec(self, part: str) -> str:
        """A part of the split as every stage takes it."""
        unreduced, mark, side = self._options.data.partition("~")
        return f"{unreduced}@{self._path('split.json')}#{part}{mark}{side}"

    def _path(self, name: str) -> str:
        return str(self._options.out / name)


def _import_backbone(arguments: Sequence[str]) -> None:
    """`candor import-backbone`, with what to do where the weights cannot be had."""
    try:
        import_backbone.main(arguments)
    except (OSError, BackboneError) as error:
        raise FitError(
            f"{arguments[0]} cannot be had: {error}; give --weights FILE, a backbone folder, or one made by `candor "
            "import-backbone --bundle BUNDLE`"
        ) from error


def _cache(arguments: Sequence[str]) -> None:
    """`candor cache-representations`, with what to do where a backbone has no layers to give."""
    try:
        cache_representations.main(arguments)
    except BackboneError as error:
        raise FitError(f"{error}; here, give a method that does without: --method {WITHOUT_LAYERS}") from error

r"""Compare every method of uncertainty behind frozen backbones: one table, its plots and a report.

    candor bench-uncertainty --backbone resnet=runs/backbone --train 'tiny/train-[89].npz@splits.json:upstream' \
        --data cub='cub.npz@50-99' --data cifar10=cifar10/test.npz --votes cifar10=cifar10h-test.npz --out runs/bench

Everything is kept below `--out`: caches of representations, each run's figures and scores, results.json, plots and
report.md. A bench that was stopped goes on where it was, or is reported as far as it got with `--report-only`; to
measure again, remove what should be measured again.
`--train`, which may be repeated, names sets of training images, each with classes of its own; `--train NAME=SPEC` is
for one backbone alone. `--validation` names the sets to choose on: they are reported apart. With `--trainable SPEC` the
methods also train a small backbone from scratch.
"""

import argparse
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from models.errors import UserError
from models.methods.registry import METHODS
from scripts.bench.caches import make_caches, own_neighbours, target_losses
from scripts.bench.plan import DataSet, Entrant, Plan, Trainable
from scripts.bench.report import write_report
from scripts.bench.runs import finished, perform
from scripts.bench.summary import summary
from scripts.bench.trainable import require_readable, trainable_tasks
from scripts.common import (
    add_compute_arguments,
    command_line,
    current_commit,
    log_to_stderr,
    named_path,
    parser,
    write_json,
)

INSIDE = "inside"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    options = _arguments().parse_args(argv)
    plan = _plan(options)
    if not options.report_only:
        _measure(plan, options)
    results = summary(plan, command_line(), current_commit())
    write_json(plan.out / "results.json", results)
    write_report(results, plan.out)
    log_to_stderr().info("%s: %d rows", plan.out / "report.md", len(results["methods"]))


def _measure(plan: Plan, options: argparse.Namespace) -> None:
    """Make the caches, then every run that is not there yet."""
    if plan.trainable is not None:
        require_readable(plan.trainable)
    for entrant in plan.entrants:
        make_caches(plan, entrant, options.workers, options.device)
    for entrant in plan.entrants:
        _prepare(plan, entrant)
    tasks = [partial(perform, plan, run) for run in (*plan.runs(), *plan.scaling_runs()) if not finished(plan, run)]
    _in_processes([*tasks, *trainable_tasks(plan)], options.processes, "train and score")


def _prepare(plan: Plan, entrant: Entrant) -> None:
    """What several runs share: the losses to predict, and the neighbours by the backbone's own embedding."""
    targets = sorted({target for name in plan.methods if (target := METHODS[name].target)})
    names = plan.train_caches(entrant.name)
    total = len(targets) * len(names) + len(plan.sets)
    with tqdm(total=total, desc=f"prepare {entrant.name}", unit="array") as bar:
        for target, name in product(targets, names):
            target_losses(plan, entrant, name, target)
            bar.update()
        for data in plan.sets:
            own_neighbours(plan, entrant, data.name)
            bar.update()


def _in_processes(tasks: Sequence[Callable[[], None]], processes: int, title: str) -> None:
    """Call every task, each in one of some worker processes; the first error stops the bench, what is done stays."""
    with (
        ProcessPoolExecutor(processes, mp_context=get_context("forkserver")) as pool,
        tqdm(total=len(tasks), desc=title, unit="run") as bar,
    ):
        futures = [pool.submit(task) for task in tasks]
        try:
            for future in as_completed(futures):
                future.result()
                bar.update()
        finally:
            pool.shutdown(cancel_futures=True)


def _plan(options: argparse.Namespace) -> Plan:
    """The plan that the arguments describe."""
    votes = dict(options.votes)
    folders = dict(options.backbone)
    sets = tuple(
        DataSet(name, spec, votes.pop(name, None), validation=name in options.validation) for name, spec in options.data
    )
    if votes:
        raise UserError(f"--votes for {', '.join(votes)}, but no --data of that name")
    unknown = sorted(set(options.validation) - {data.name for data in sets})
    if unknown:
        raise UserError(f"--validation names {', '.join(unknown)}, but no --data has that name")
    train = {name: _training(options.train, name, folders) for name in folders}
    missing = [name for name, specs in train.items() if not specs]
    if missing:
        raise UserError(f"--train says nothing for {', '.join(missing)}; give --train SPEC or --train NAME=SPEC")
    return Plan(
        out=options.out,
        entrants=tuple(Entrant(name, Path(folder), train[name]) for name, folder in folders.items()),
        sets=sets,
        inside=DataSet(INSIDE, options.inside) if options.inside else None,
        methods=tuple(options.methods or METHODS),
        seeds=options.seeds,
        epochs=options.epochs,
        views=options.views,
        sample=options.sample,
        scaling=tuple(options.scaling),
        scaled=tuple(options.scaled),
        limit=options.limit,
        trainable=_trainable(options),
    )


def _trainable(options: argparse.Namespace) -> Trainable | None:
    """The part with a trainable backbone, where it is asked for."""
    if not options.trainable:
        return None
    if not options.trainable_unseen or not options.trainable_seen:
        raise UserError("--trainable needs --trainable-unseen and --trainable-seen to be judged on")
    return Trainable(
        options.trainable,
        options.trainable_unseen,
        options.trainable_seen,
        epochs=options.trainable_epochs,
        seeds=options.trainable_seeds,
        limit=options.trainable_limit,
    )


def _training(given: Sequence[str], backbone: str, names: Collection[str]) -> tuple[str, ...]:
    """The specs of a backbone's training images: its own, `NAME=SPEC`, or else those that name no backbone."""
    parts = [text.partition("=") for text in given]
    own = tuple(spec for name, _, spec in parts if name == backbone)
    return own or tuple(text for text, (name, _, _) in zip(given, parts, strict=True) if name not in names)


def _arguments() -> argparse.ArgumentParser:
    arguments = parser("bench-uncertainty", __doc__)
    arguments.add_argument("--backbone", type=named_path, action="append", required=True, metavar="NAME=FOLDER")
    arguments.add_argument("--train", action="append", required=True, metavar="[NAME=]SPEC", help="images to train on")
    arguments.add_argument("--data", type=named_path, action="append", required=True, metavar="NAME=SPEC")
    arguments.add_argument("--votes", type=named_path, action="append", default=[], metavar="NAME=FILE")
    arguments.add_argument("--validation", action="append", default=[], metavar="NAME", help="a set to choose on")
    arguments.add_argument("--inside", help="spec of images like those the backbones know, to tell foreign ones from")
    arguments.add_argument("--methods", nargs="+", choices=tuple(METHODS), metavar="METHOD", help="only these methods")
    arguments.add_argument("--seeds", type=int, default=5, help="trainings of each method behind each backbone")
    arguments.add_argument("--epochs", type=int, default=5, help="epochs of each training")
    arguments.add_argument("--views", type=int, default=3, help="augmented views of each training image")
    arguments.add_argument("--sample", type=int, default=500, help="images of each set that are also degraded")
    arguments.add_argument("--scaling", type=int, nargs="*", default=[], help="smaller numbers of training images")
    arguments.add_argument(
        "--scaled", nargs="*", choices=tuple(METHODS), metavar="METHOD", default=[], help="methods to train on those"
    )
    arguments.add_argument("--limit", type=int, help="at most this many images of each set, for a quick run")
    arguments.add_argument("--trainable", metavar="SPEC", help="images to train a small backbone on with each method")
    arguments.add_argument("--trainable-unseen", metavar="SPEC", help="images of other classes, to judge those on")
    arguments.add_argument("--trainable-seen", metavar="SPEC", help="held-out images of the classes they train on")
    arguments.add_argument("--trainable-epochs", type=int, default=8, help="epochs of each of their trainings")
    arguments.add_argument("--trainable-seeds", type=int, default=3, help="trainings of each method from scratch")
    arguments.add_argument("--trainable-limit", type=int, help="at most this many images to train them on")
    arguments.add_argument("--report-only", action="store_true", help="report on the runs that are there, add none")
    arguments.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="runs at a time")
    arguments.add_argument("--out", type=Path, required=True, help="folder of the bench")
    add_compute_arguments(arguments)
    return arguments


if __name__ == "__main__":
    main()

"""What `POST /retrieve` by vector costs, in one run; a killed run goes on where it was.

    python -m benchmarks.retrieval
    python -m benchmarks.retrieval --million

Over clustered unit vectors, the 10 nearest with their payloads:

    overhead   the server beside candor's gallery and LanceDB itself called in process, with and without filters
    beside     searches while writes and index upkeep run beside them, and how long the event loop stalls
    peers      Qdrant Edge and PostgreSQL with pgvector, called directly
    growth     galleries of 1k, 10k and 100k items; with --million also of 1M of 128 dimensions

Recall is against exact search in float64. The machine must do nothing else meanwhile. What has been measured is kept
under runs/bench/retrieval and not measured again, unless with --fresh.
"""

import argparse
import json
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.cpu_time import PROC
from benchmarks.machine import describe_machine, installed_versions
from benchmarks.retrieval.beside import Setting, beside_upkeep
from benchmarks.retrieval.bundle import make_bundle
from benchmarks.retrieval.corpus_files import write_corpus
from benchmarks.retrieval.data import CONDITIONS, NO_CONDITION, Corpus
from benchmarks.retrieval.filling import Progress, fill_gallery
from benchmarks.retrieval.growth import measure_size
from benchmarks.retrieval.overhead import Place, measure_overhead
from benchmarks.retrieval.parts import SMOKE, Parts, Plan
from benchmarks.retrieval.peer import PEERS
from benchmarks.retrieval.peers import measure_peer
from benchmarks.retrieval.plot import plot
from benchmarks.retrieval.report import LIBRARIES, as_markdown
from benchmarks.server_process import REPOSITORY
from benchmarks.worker import worker

WORK = REPOSITORY / "runs" / "bench" / "retrieval"
MILLION, MILLION_DIMENSION = 1_000_000, 128


def main(argv: Sequence[str]) -> None:
    """Measure what is missing, write the result files, and print the tables."""
    options = _arguments().parse_args(argv)
    if not PROC.is_dir():
        sys.exit("CPU-seconds of other processes are read from Linux's /proc, which is not here")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that servers and peers are ended too
    plan = plan_of(options)
    parts = Parts(WORK, plan)
    if options.fresh:
        parts.forget()
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.retrieval", *argv]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "versions": installed_versions(LIBRARIES),
        "plan": asdict(plan),
        **measure(plan, parts, million=options.million),
    }
    out = options.out or (WORK / "smoke.json" if options.smoke else Path("benchmarks/results/retrieval.json"))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    out.with_suffix(".md").write_text(as_markdown(result))
    plot(result, out.with_suffix(".png"))
    print(as_markdown(result))


def measure(plan: Plan, parts: Parts, *, million: bool) -> dict[str, Any]:
    """Every part, those done before included."""
    place, filled = prepare(plan.rows, plan.dimension, plan.queries, main=True)
    setting = Setting(place.bundle, place.corpus_folder, place.gallery.parent, place.work_folder, plan.beside_s)
    result: dict[str, Any] = {
        "overhead": measure_overhead(place, plan, parts),
        "beside": parts.keep("beside", lambda: beside_upkeep(setting)),
        "peers": [_peer(name, place, plan, parts) for name in PEERS],
    }
    sizes = [_size(rows, plan.dimension, plan, parts) for rows in plan.sizes]
    sizes.append(parts.keep(f"growth-{plan.rows}", lambda: measure_size(place, filled, plan)))
    if million:
        sizes.append(_size(MILLION, MILLION_DIMENSION, plan, parts))
    return {**result, "growth": sizes}


def prepare(rows: int, dimension: int, queries: int, *, main: bool = False) -> tuple[Place, Progress]:
    """A corpus of that size, its bundle and its gallery, filled and indexed.

    Args:
        rows: of the corpus.
        dimension: of its vectors.
        queries: how many.
        main: whether it is the gallery that everything is measured on: with every condition's neighbours, and a copy
            of the gallery from before it was indexed.
    """
    folder = WORK / f"{rows}x{dimension}"
    bundle = make_bundle(WORK / f"bundle-{dimension}", dimension)
    gallery, corpus_folder = folder / f"gallery-{bundle.hash[-8:]}", folder / "corpus"
    (folder / "work").mkdir(parents=True, exist_ok=True)
    with worker() as process:
        corpus, conditions = Corpus(rows, dimension), CONDITIONS if main else (NO_CONDITION,)
        process.call(write_corpus, corpus_folder, corpus, queries, conditions)
    with worker() as process:
        filled = process.call(fill_gallery, corpus_folder, rows, bundle.hash, gallery, keep_bare=main)
    return Place(bundle.path, bundle.hash, corpus_folder, gallery / "indexed", folder / "work"), filled


def _size(rows: int, dimension: int, plan: Plan, parts: Parts) -> Any:
    def measured() -> dict[str, Any]:
        place, filled = prepare(rows, dimension, plan.queries)
        return measure_size(place, filled, plan)

    return parts.keep(f"growth-{rows}", measured)


def _peer(name: str, place: Place, plan: Plan, parts: Parts) -> Any:
    out = place.work_folder / f"{name}.json"
    return parts.keep(f"peer-{name}", lambda: measure_peer(name, place.corpus_folder, plan.seconds, plan.rounds, out))


def plan_of(options: argparse.Namespace) -> Plan:
    """The defaults of a full or a smoke run, with what the command line says over them."""
    plan = SMOKE if options.smoke else Plan()
    given = {name: getattr(options, name) for name in ("rows", "dimension", "seconds", "rounds")}
    return replace(plan, **{name: value for name, value in given.items() if value is not None})


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="python -m benchmarks.retrieval", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--rows", type=int, help=f"of the main gallery; {Plan.rows:,} if unset")
    arguments.add_argument("--dimension", type=int, help=f"of its vectors; {Plan.dimension} if unset")
    arguments.add_argument("--seconds", type=float, help=f"of each round; {Plan.seconds:g} if unset")
    arguments.add_argument("--rounds", type=int, help=f"of each comparison; {Plan.rounds} if unset")
    arguments.add_argument("--million", action="store_true", help="also a gallery of 1M items of 128 dimensions")
    arguments.add_argument("--smoke", action="store_true", help="small and short, to see that it runs")
    arguments.add_argument("--fresh", action="store_true", help="measure again what has been measured")
    arguments.add_argument("--out", type=Path, help="the JSON file; a table and a plot go beside it")
    return arguments


if __name__ == "__main__":
    main(sys.argv[1:])

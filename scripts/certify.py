r"""Certify a running server's retrieval: ask it labelled queries, and make a policy of what it answers.

    candor certify --server http://127.0.0.1:8000 --queries queries.csv --name shop --target 0.1:0.05 --out runs/shop

The gallery's items carry their label in the payload field that the server's CANDOR_LABEL_FIELD names. Queries are a CSV
with the columns `path`, `label` and, where some are near-duplicates of others, `group`; or a folder of one subfolder
per label. A query is answered rightly where the best match has its label: one whose label the gallery lacks never is,
and belongs among the queries if such are asked. No query may be an image of the gallery.

Part of the queries fits the score of confidence, the others certify thresholds on it. Writes policy.json,
evidence.jsonl, report.md and report.png.
"""

import argparse
import csv
import json
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt

from models.errors import UserError
from scripts.client import Client, Labelled, Target
from scripts.client.arguments import add_server_arguments, connect
from scripts.ingest.images import IMAGES


@dataclass(frozen=True)
class Query:
    """An image, the label that its best match should have, and the near-duplicates it belongs to."""

    path: Path
    label: str
    group: str | None = None


@dataclass(frozen=True)
class Asked:
    """What the server said of a query: `evidence` is None where nothing was found.

    `relevant` says of each match asked for, best first, whether it is there and has the query's label.
    """

    path: str
    label: str
    group: str | None
    evidence: Mapping[str, float] | None
    relevant: Sequence[bool]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage."""
    options = _arguments().parse_args(argv)
    queries = read_queries(options.queries)
    options.out.mkdir(parents=True, exist_ok=True)
    with connect(options) as client:
        limit = max(options.depth if target.k == "adaptive" else target.k for target in options.target)
        asked = list(ask_all(client, queries, options.label_field, limit, options.concurrency))
        (options.out / "evidence.jsonl").write_text("".join(json.dumps(asdict(each)) + "\n" for each in asked))
        development, certification = split(asked, options.development, options.seed)
        print(f"{len(asked)} queries: {len(development)} fit the score, {len(certification)} certify", file=sys.stderr)
        policy = asdict(
            client.policies.create(
                options.name,
                options.target,
                [_labelled(each) for each in development],
                [_labelled(each) for each in certification],
            )
        )
    (options.out / "policy.json").write_text(json.dumps(policy, indent=1) + "\n")
    (options.out / "report.md").write_text(as_markdown(policy))
    plot(policy, options.out / "report.png")
    print(as_markdown(policy))


def read_queries(place: Path) -> list[Query]:
    """The queries of a CSV or a folder, in its order.

    Raises:
        UserError: for a place without queries, a CSV without the columns, or an image that is not there.
    """
    queries = _from_folder(place) if place.is_dir() else _from_csv(place)
    if not queries:
        raise UserError(f"--queries: no images in {place}")
    if missing := [query.path for query in queries if not query.path.is_file()]:
        raise UserError(f"--queries: {len(missing)} images are missing, the first of them {missing[0]}")
    return queries


def ask_all(
    client: Client, queries: Sequence[Query], label_field: str, limit: int, concurrency: int
) -> Iterator[Asked]:
    """Ask every query for `limit` matches, some queries at a time, in order."""

    def ask(query: Query) -> Asked:
        answer = client.retrieve(query.path, limit=limit, evidence=True)
        labels = [value_at(match.payload, label_field) for match in answer.matches]
        relevant = [label is not None and str(label) == query.label for label in labels]
        relevant += [False] * (limit - len(relevant))  # a gallery of fewer items has no more
        return Asked(str(query.path), query.label, query.group, answer.evidence, relevant)

    with ThreadPoolExecutor(concurrency) as threads:
        yield from threads.map(ask, queries)


def split(asked: Sequence[Asked], development: float, seed: int) -> tuple[list[Asked], list[Asked]]:
    """Queries to fit on and queries to certify with: near-duplicates stay together, what found nothing is left out."""
    found = [each for each in asked if each.evidence is not None]
    groups = list(dict.fromkeys(_group(each) for each in found))
    random.Random(seed).shuffle(groups)
    chosen = set(groups[: round(development * len(groups))])
    return [each for each in found if _group(each) in chosen], [each for each in found if _group(each) not in chosen]


def as_markdown(policy: Mapping[str, Any]) -> str:
    """What was certified, in words and tables."""
    quality = policy["quality"]
    lines = [
        f"# Policy {policy['name']}",
        "",
        f"Of {quality['queries']} certification queries {100 * quality['base_risk']:.1f} % have a wrong best match. "
        f"Judged by {', '.join(policy['inputs'])}; gallery of {policy['gallery']['items']} items.",
        "",
        "| at most wrong | of the first | with probability | coverage | wrong among accepted labels | labels needed |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    thresholds = [target for target in policy["targets"] if target["certificate"]]
    for target in thresholds:
        certificate = target["certificate"]
        accepted = f"{certificate['loss']:.4g} of {certificate['accepted']}"
        lines.append(
            f"| {100 * target['alpha']:g} % | {target['k']} | {100 * (1 - target['delta']):g} % "
            f"| {100 * certificate['coverage']:.1f} % | {accepted if target['feasible'] else 'cannot be certified'} "
            f"| {certificate['labels_needed'] or ''} |"
        )
    for target in policy["targets"]:
        if target["sets"]:
            share = f"{100 * (1 - target['alpha']):g} %"
            lines += ["", f"| uncertainty above | matches that hold a right one for {share} |", "|---:|---:|"]
            lines += [f"| {_or(part['above'], '')} | {_or(part['k'], 'no number')} |" for part in target["sets"]]
    if quality["r_auroc"]:
        lines += ["", "| judged by | R-AUROC |", "|---|---:|"]
        lines += [f"| {name} | {value:.3f} |" for name, value in quality["r_auroc"].items()]
    lines += ["", f"Expected calibration error of `p_correct`: {quality['ece']:.3f}.", ""]
    return "\n".join(lines)


def _or(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:.4g}"


def plot(policy: Mapping[str, Any], path: Path) -> None:
    """The reliability of `p_correct`."""
    matplotlib.use("agg")
    curve = policy["quality"]["reliability"]
    figure, axes = plt.subplots(figsize=(4.5, 4), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    axes.plot([each["predicted"] for each in curve], [each["observed"] for each in curve], marker="o", color="black")
    axes.set(xlabel="p_correct", ylabel="share correct", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"{policy['name']}: calibration error {policy['quality']['ece']:.3f}")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def value_at(payload: Any, path: str) -> Any:
    """What a dotted path leads to; None where it leads nowhere."""
    for name in path.split("."):
        payload = payload.get(name) if isinstance(payload, dict) else None
    return payload


def target(text: str) -> Target:
    """Argument type: `ALPHA:DELTA` or `ALPHA:DELTA:K`."""
    alpha, _, rest = text.partition(":")
    delta, _, k = rest.partition(":")
    try:
        return Target(float(alpha), float(delta), "adaptive" if k == "adaptive" else int(k or 1))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected ALPHA:DELTA such as 0.1:0.05, or ALPHA:DELTA:K with a number or adaptive, got {text!r}"
        ) from error


def _from_folder(folder: Path) -> list[Query]:
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in IMAGES)
    return [Query(path, path.parent.name) for path in paths]


def _from_csv(path: Path) -> list[Query]:
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if not {"path", "label"} <= set(reader.fieldnames or ()):
                raise UserError(f"--queries: {path} needs the columns path and label")
            return [Query(path.parent / row["path"], row["label"], row.get("group") or None) for row in reader]
    except OSError as error:
        raise UserError(f"--queries: {error}") from error


def _group(asked: Asked) -> str:
    return asked.group if asked.group is not None else f"\0{asked.path}"


def _labelled(asked: Asked) -> Labelled:
    return Labelled(asked.evidence or {}, relevant=asked.relevant, group=asked.group)


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="candor certify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--queries", type=Path, required=True, help="a CSV (path, label, group) or a folder")
    arguments.add_argument("--name", required=True, help="of the policy")
    arguments.add_argument("--target", type=target, action="append", required=True, metavar="ALPHA:DELTA[:K]")
    arguments.add_argument("--depth", type=int, default=100, help="matches looked at where K is adaptive")
    arguments.add_argument("--label-field", default="label", help="payload field with an item's label")
    arguments.add_argument("--development", type=float, default=0.3, help="share of the queries that fits the score")
    arguments.add_argument("--seed", type=int, default=0, help="of the split")
    arguments.add_argument("--concurrency", type=int, default=8, help="queries asked at a time")
    arguments.add_argument("--out", type=Path, required=True, help="folder to write to")
    add_server_arguments(arguments)
    return arguments


if __name__ == "__main__":
    main()

r"""Embed images through a running server, into a file.

    candor embed photos --server http://127.0.0.1:8000 --out embeddings.parquet
    candor embed 'photos/**/*.jpg' --out - | jq .percentile

Takes files, folders (every image below them) and patterns. Each image is a row: `id` (its path), `uncertainty`,
`percentile`, `novelty`, `novelty_percentile`, `abstained`, `embedding` and `error`. An image that cannot be embedded
stops nothing: its row says why, and the exit code is 1. The file is there once all is done, or not at all.
"""

import argparse
import glob
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from models.errors import UserError
from models.progress import Progress
from scripts.client import Client, Embedded, Model
from scripts.client.arguments import add_sending_arguments, add_server_arguments, connect
from scripts.client.many import Failure
from scripts.client.options import EmbedOptions
from scripts.embedding_files import Row, check_format, writing
from scripts.ingest.images import below


def main(argv: Sequence[str] | None = None) -> None:
    """Embed everything; exits with 1 where an image failed."""
    options = _arguments().parse_args(argv)
    check_format(options.out)
    paths = list(dict.fromkeys(find(options.images)))
    if not paths:
        raise UserError(f"no images in {', '.join(options.images)}")
    with connect(options) as client:
        counts = _embed_all(client, paths, options)
    print(
        f"embedded {counts['embedded']:,}, of them abstained {counts['abstained']:,}, failed {counts['failed']:,}",
        file=sys.stderr,
    )
    if counts["failed"]:
        raise SystemExit(1)


def find(places: Iterable[str]) -> Iterator[Path]:
    """The images that are meant by files, folders and patterns, in their order."""
    for place in places:
        path = Path(place)
        if path.is_dir():
            yield from below(path)
        elif glob.has_magic(place) and not path.exists():
            yield from (found for found in map(Path, sorted(glob.glob(place, recursive=True))) if found.is_file())
        else:
            yield path


def as_row(path: Path, outcome: Embedded | Failure, model: Model) -> Row:
    """A row of the file.

    Raises:
        UserError: for an embedding of another bundle than the file's.
    """
    name = path.as_posix().encode(errors="backslashreplace").decode()  # a name may be no text
    if not isinstance(outcome, Embedded):
        return Row(name, error=f"{outcome.type}: {outcome.detail}")
    if outcome.bundle_hash != model.bundle_hash:
        raise UserError("the server has another bundle now, and embeddings of two do not compare: start anew")
    return Row(
        name,
        outcome.uncertainty,
        outcome.percentile,
        outcome.novelty,
        outcome.novelty_percentile,
        outcome.abstained,
        outcome.embedding,
    )


def _embed_all(client: Client, paths: Sequence[Path], options: argparse.Namespace) -> Counter[str]:
    asked: EmbedOptions = {
        "max_uncertainty": options.max_uncertainty,
        "max_percentile": options.max_percentile,
        "on_abstain": "omit" if options.omit else "flag",
    }
    counts: Counter[str] = Counter()
    model = client.model()
    outcomes = client.embed_many(paths, batch=options.batch, concurrency=options.concurrency, **asked)
    with writing(options.out, model) as add, Progress("embedded", "images", len(paths)) as progress:
        for path, outcome in zip(paths, (outcome for _, outcome in outcomes), strict=True):
            row = as_row(path, outcome, model)
            add(row)
            counts["failed" if row.error else "embedded"] += 1
            counts["abstained"] += bool(row.abstained)
            progress.advance(1)
    return counts


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="candor embed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("images", nargs="+", metavar="IMAGES", help="files, folders or patterns")
    arguments.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help=".parquet, .npz, .csv or .jsonl; - for stdout"
    )
    arguments.add_argument("--max-uncertainty", type=float, help="abstain above this raw uncertainty")
    arguments.add_argument("--max-percentile", type=float, help="abstain above this percentile")
    arguments.add_argument("--omit", action="store_true", help="no embedding where it abstains")
    add_server_arguments(arguments)
    add_sending_arguments(arguments)
    return arguments


if __name__ == "__main__":
    main()

r"""Put a folder of images into a running server's gallery.

    candor gallery add photos --server http://127.0.0.1:8000
    candor gallery add photos.csv --server https://candor.example --max-percentile 0.95

Of a folder every image below it is stored: its id is its path within the folder, its payload that path and, as the
label, the name of the folder it is in. A CSV has the column `path` (relative to the CSV) and, where wanted, `id`,
`label` and any others, which become fields of the payload: numbers as numbers, empty cells left out.

What the server acknowledged is noted in a journal: stopped at any moment, the same command sends only the rest, and
what has changed since. Images that cannot be read or are refused are told at the end and listed in a file; the exit
code is then 1.
"""

import argparse
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, TextIO

from models.errors import UserError
from models.progress import Progress
from scripts.client import Server
from scripts.ingest.images import Image, read_images
from scripts.ingest.journal import Journal, Sent, as_sent
from scripts.ingest.sending import Limits, Outcome, Sender, batches

BATCH_BYTES: Final = 8 * 2**20


def main(argv: Sequence[str] | None = None) -> None:
    """Store everything; exits with 1 where something was refused."""
    options = _arguments().parse_args(argv)
    images = read_images(options.source, options.label_field)
    thresholds = {"max_uncertainty": options.max_uncertainty, "max_percentile": options.max_percentile}
    asked = {name: value for name, value in thresholds.items() if value is not None}
    with ExitStack() as stack:
        server = stack.enter_context(Server(options.server, options.api_key or os.environ.get("CANDOR_API_KEY")))
        sender = Sender(server, asked, Limits(options.batch, BATCH_BYTES), options.patience)
        about = sender.describe()
        try:
            journal = stack.enter_context(Journal(options.journal or journal_path(options.source, server.url, about)))
            report_path = options.report or journal.path.with_suffix(".refused.jsonl")
            report = stack.enter_context(report_path.open("w"))
        except OSError as error:
            raise UserError(f"cannot write {error.filename}: {error.strerror}; see --journal and --report") from error
        if about["count"] == 0 and len(journal):
            journal.forget()
        new, lost = to_send(images, asked, journal)
        counts = Counter(refused=len(lost), stored=0, before=len(images) - len(new) - len(lost))
        for outcome in lost:
            _note(report, outcome)
        counts += _send_all(sender, new, len(images), options, journal, report)
    print(f"stored {counts['stored']:,}, stored before {counts['before']:,}, refused {counts['refused']:,}")
    if counts["refused"]:
        print(f"candor gallery add: what was refused, and why, is in {report_path}", file=sys.stderr)
        raise SystemExit(1)


def to_send(
    images: Sequence[Image], options: dict[str, Any], journal: Journal
) -> tuple[list[tuple[Image, Sent]], list[Outcome]]:
    """Images that are not stored as they are now, and those whose file cannot be found."""
    new: list[tuple[Image, Sent]] = []
    lost: list[Outcome] = []
    for image in images:
        try:
            sent = as_sent(image, options)
        except OSError as error:
            lost.append(Outcome(image, None, ("unreadable", error.strerror or str(error))))
            continue
        if sent not in journal:
            new.append((image, sent))
    return new, lost


def journal_path(source: Path, url: str, about: dict[str, Any]) -> Path:
    """Beside the folder or CSV, another for each server and bundle."""
    owner = hashlib.sha256(f"{url.rstrip('/')} {about['bundle_hash']}".encode()).hexdigest()[:8]
    place = source.resolve()
    return place.with_name(f"{place.name}.{owner}.added.jsonl")


def _send_all(
    sender: Sender,
    new: Sequence[tuple[Image, Sent]],
    total: int,
    options: argparse.Namespace,
    journal: Journal,
    report: TextIO,
) -> Counter[str]:
    counts: Counter[str] = Counter()
    with Progress("added", "images", total, total - len(new)) as progress:
        for outcomes in _outcomes(sender, new, options):
            journal.add([outcome.sent for outcome in outcomes if outcome.sent is not None])
            for outcome in outcomes:
                counts["refused" if outcome.error else "stored"] += 1
                _note(report, outcome)
            progress.advance(len(outcomes))
    return counts


def _outcomes(
    sender: Sender, new: Sequence[tuple[Image, Sent]], options: argparse.Namespace
) -> Iterator[list[Outcome]]:
    """What became of each batch, as it becomes known, with some in flight at a time."""
    threads = ThreadPoolExecutor(options.concurrency)
    flying: set[Future[list[Outcome]]] = set()
    try:
        for batch in batches(new, sender.limits):
            flying.add(threads.submit(sender.send, batch))
            if len(flying) >= options.concurrency:
                done, flying = wait(flying, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while flying:
            done, flying = wait(flying, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        threads.shutdown(cancel_futures=True)


def _note(report: TextIO, outcome: Outcome) -> None:
    """A line of the report for an image that was refused, there at once."""
    if outcome.error is None:
        return
    kind, detail = outcome.error
    content = {"path": os.fspath(outcome.image.path), "id": outcome.image.id, "type": kind, "detail": detail}
    report.write(json.dumps(content) + "\n")
    report.flush()


def _at_least_one(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="candor gallery add", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("source", type=Path, metavar="FOLDER|CSV", help="images, or a list of them")
    arguments.add_argument("--server", required=True, metavar="URL", help="of a running candor")
    arguments.add_argument("--api-key", metavar="KEY", help="its API key, where it has one; or CANDOR_API_KEY")
    arguments.add_argument("--label-field", default="label", help="payload field for the label, a dotted path")
    arguments.add_argument("--max-uncertainty", type=float, help="store no image above this raw uncertainty")
    arguments.add_argument("--max-percentile", type=float, help="store no image above this percentile")
    arguments.add_argument("--concurrency", type=_at_least_one, default=4, metavar="N", help="requests at a time")
    arguments.add_argument("--batch", type=_at_least_one, default=16, metavar="N", help="most images in a request")
    arguments.add_argument(
        "--journal", type=Path, metavar="FILE", help="what is stored; beside the source if not given"
    )
    arguments.add_argument("--report", type=Path, metavar="FILE", help="what was refused; beside the journal")
    arguments.add_argument("--patience", type=float, default=600.0, metavar="S", help="until a busy server is given up")
    return arguments


if __name__ == "__main__":
    main()

r"""Put a folder of images into a running server's gallery.

    candor index photos --server http://127.0.0.1:8000
    candor index photos.csv --server https://candor.example --max-percentile 0.95

Of a folder every image below it is stored: its id is its path within the folder, its payload that path and, as the
label, the name of the folder it is in. A CSV has the column `path` (relative to the CSV) and, where wanted, `id`,
`label` and any others, which become fields of the payload: numbers as numbers, empty cells left out.

What the server acknowledged is noted in a journal: stopped at any moment, the same command sends only the rest, and
what has changed since. Images that cannot be read or are refused are told at the end and listed in a file; the exit
code is then 1.
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Final, TextIO

from models.errors import UserError
from models.progress import Progress
from scripts.client import Client, NewItem, Stored, Unreadable
from scripts.client.arguments import add_sending_arguments, add_server_arguments, connect
from scripts.client.many import Failure
from scripts.client.options import StoreOptions
from scripts.ingest.images import Image, read_images
from scripts.ingest.journal import Journal, Sent, as_sent, journal_path

NOTED: Final = 16  # outcomes at a time, as each time the journal is on disk before anything else is done


def main(argv: Sequence[str] | None = None) -> None:
    """Store everything; exits with 1 where something was refused."""
    options = _arguments().parse_args(argv)
    images = read_images(options.source, options.label_field)
    asked: StoreOptions = {"max_uncertainty": options.max_uncertainty, "max_percentile": options.max_percentile}
    with ExitStack() as stack:
        client = stack.enter_context(connect(options))
        about = client.gallery.describe()
        try:
            journal = stack.enter_context(Journal(options.journal or journal_path(options.source, client.url, about)))
            report_path = options.report or journal.path.with_suffix(".refused.jsonl")
            report = stack.enter_context(report_path.open("w"))
        except OSError as error:
            raise UserError(f"cannot write {error.filename}: {error.strerror}; see --journal and --report") from error
        if about.count == 0 and len(journal):
            journal.forget()
        new, lost = to_send(images, asked, journal)
        counts = Counter(refused=len(lost), stored=0, before=len(images) - len(new) - len(lost))
        for image, why in lost:
            _note(report, image, why)
        counts += _send_all(client, new, len(images), asked, options, journal, report)
    print(f"stored {counts['stored']:,}, stored before {counts['before']:,}, refused {counts['refused']:,}")
    if counts["refused"]:
        print(f"candor index: what was refused, and why, is in {report_path}", file=sys.stderr)
        raise SystemExit(1)


def to_send(
    images: Sequence[Image], options: StoreOptions, journal: Journal
) -> tuple[list[tuple[Image, Sent]], list[tuple[Image, Failure]]]:
    """Images that are not stored as they are now, and those whose file cannot be found."""
    new: list[tuple[Image, Sent]] = []
    lost: list[tuple[Image, Failure]] = []
    for image in images:
        try:
            sent = as_sent(image, options)
        except OSError as error:
            lost.append((image, Unreadable(error.strerror or str(error))))
            continue
        if sent not in journal:
            new.append((image, sent))
    return new, lost


def _send_all(
    client: Client,
    new: Sequence[tuple[Image, Sent]],
    total: int,
    asked: StoreOptions,
    options: argparse.Namespace,
    journal: Journal,
    report: TextIO,
) -> Counter[str]:
    by_id = {image.id: (image, sent) for image, sent in new}
    items = (NewItem(image.id, image.path, payload=image.payload) for image, _ in new)
    outcomes = client.gallery.add_many(
        items, batch=options.batch, concurrency=options.concurrency, ordered=False, **asked
    )
    counts: Counter[str] = Counter()
    with Progress("added", "images", total, total - len(new)) as progress:
        while some := list(islice(outcomes, NOTED)):
            journal.add([by_id[item.id][1] for item, outcome in some if isinstance(outcome, Stored)])
            for item, outcome in some:
                counts["stored" if isinstance(outcome, Stored) else "refused"] += 1
                _note(report, by_id[item.id][0], outcome)
            progress.advance(len(some))
    return counts


def _note(report: TextIO, image: Image, outcome: Stored | Failure) -> None:
    """A line of the report for an image that was refused, there at once."""
    if isinstance(outcome, Stored):
        return
    content = {"path": os.fspath(image.path), "id": image.id, "type": outcome.type, "detail": outcome.detail}
    report.write(json.dumps(content) + "\n")
    report.flush()


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="candor index", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("source", type=Path, metavar="FOLDER|CSV", help="images, or a list of them")
    arguments.add_argument("--label-field", default="label", help="payload field for the label, a dotted path")
    arguments.add_argument("--max-uncertainty", type=float, help="store no image above this raw uncertainty")
    arguments.add_argument("--max-percentile", type=float, help="store no image above this percentile")
    arguments.add_argument(
        "--journal", type=Path, metavar="FILE", help="what is stored; beside the source if not given"
    )
    arguments.add_argument("--report", type=Path, metavar="FILE", help="what was refused; beside the journal")
    add_server_arguments(arguments)
    add_sending_arguments(arguments)
    return arguments


if __name__ == "__main__":
    main()

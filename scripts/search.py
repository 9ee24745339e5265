r"""Find the items of a running server's gallery that are nearest to an image or to an item.

    candor search photo.jpg --server http://127.0.0.1:8000 --filter '{"label": "cat"}' --max-percentile 0.9
    candor search --id cat/1.jpg --policy shop

Exits with 0 for matches and with 3 for an abstention, whose reasons are told.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final, Literal

from scripts.client import Match, Retrieval
from scripts.client.arguments import add_server_arguments, at_least_one, connect

ABSTAINED: Final = 3
PATIENCE_S: Final = 60.0
WORDS: Final = {
    "uncertain_query": "candor is too unsure of the query image",
    "no_close_match": "nothing in the gallery is close enough",
    "ambiguous_match": "the best match is hardly better than others that differ from it",
    "novel_query": "the query image is unlike what the bundle was trained on",
    "uncertain_match": "candor is too unsure of the best match",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Search once; exits with 3 where the server abstains."""
    options = _arguments().parse_args(argv)
    with connect(options) as client:
        found = client.retrieve(
            options.image,
            id=options.id,
            limit=options.limit,
            filter=options.filter,
            score_threshold=options.score_threshold,
            max_query_percentile=options.max_percentile,
            max_result_percentile=options.max_result_percentile,
            policy=options.policy,
            alpha=options.alpha,
            delta=options.delta,
            k=options.k,
        )
    print(json.dumps(asdict(found), indent=1) if options.json else in_words(found))
    if found.decision == "abstain":
        raise SystemExit(ABSTAINED)


def in_words(found: Retrieval) -> str:
    """What was found, or why nothing was accepted."""
    query = "" if found.query.percentile is None else f" (query at percentile {found.query.percentile:.3f})"
    if found.decision == "abstain":
        lines = [f"abstained{query}: " + "; ".join(WORDS.get(reason, reason) for reason in found.reasons)]
    else:
        lines = [f"{len(found.matches)} matches{query}"]
    if found.guarantee.policy is not None:
        lines.append(_promise(found))
    if found.matches:
        lines += table(found.matches)
    return "\n".join(lines)


def table(matches: Sequence[Match]) -> list[str]:
    """Matches in columns, best first."""
    width = max(len("id"), *(len(match.id) for match in matches))
    lines = [f"{'id':<{width}}  {'score':>6}  percentile  payload"]
    for match in matches:
        payload = json.dumps(match.payload, ensure_ascii=False)
        lines.append(f"{match.id:<{width}}  {match.score:6.3f}  {match.percentile:10.3f}  {payload}")
    return lines


def _promise(found: Retrieval) -> str:
    guarantee = found.guarantee
    said = f"policy {guarantee.policy} is {guarantee.status}"
    if guarantee.reasons:
        said += f" ({', '.join(guarantee.reasons)})"
    if guarantee.alpha is not None and guarantee.delta is not None:
        said += f": at most {100 * guarantee.alpha:g} % wrong, with a probability of {100 * (1 - guarantee.delta):g} %"
    return (
        said if found.p_correct is None else f"{said}; the best match is right with probability {found.p_correct:.3f}"
    )


def number_or_adaptive(text: str) -> int | Literal["adaptive"]:
    """Argument type: a whole number from 1, or `adaptive`."""
    return "adaptive" if text == "adaptive" else at_least_one(text)


def json_object(text: str) -> dict[str, Any]:
    """Argument type: a JSON object."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError('expected a JSON object, e.g. \'{"label": "cat"}\'')
    return value


def _arguments() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="candor search", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    query = arguments.add_mutually_exclusive_group(required=True)
    query.add_argument("image", nargs="?", metavar="IMAGE", help="file to search with")
    query.add_argument("--id", help="item of the gallery to search with")
    arguments.add_argument("--limit", type=at_least_one, metavar="N", help="most matches")
    arguments.add_argument("--filter", type=json_object, metavar="JSON", help="conditions on the items' payload")
    arguments.add_argument("--score-threshold", type=float, help="least cosine similarity of a match")
    arguments.add_argument("--max-percentile", type=float, help="abstain if the query is above this percentile")
    arguments.add_argument("--max-result-percentile", type=float, help="leave out items above this percentile")
    arguments.add_argument("--policy", metavar="NAME", help="accept or abstain by this certified policy")
    arguments.add_argument("--alpha", type=float, help="of the policy's promises the one with this share of errors")
    arguments.add_argument("--delta", type=float, help="of the policy's promises the one that fails this often")
    arguments.add_argument(
        "--k", type=number_or_adaptive, help="of the policy's promises the one about so many matches"
    )
    arguments.add_argument("--json", action="store_true", help="the whole answer as JSON")
    add_server_arguments(arguments, patience_s=PATIENCE_S)
    return arguments


if __name__ == "__main__":
    main()

"""What a search says of how sure its best match is: the inputs of a match's confidence."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from service.gallery.base import Match, Payload

DEPTH: Final = 20  # nearest items that evidence looks at, however many matches are asked for


@dataclass(frozen=True)
class Grouping:
    """The payload fields, dotted paths, that name an item's label and the group of alike items it belongs to."""

    label_field: str | None = None
    group_field: str | None = None

    def label_of(self, payload: Payload) -> Hashable:
        """An item's label; None where it has none."""
        return _value_at(payload, self.label_field)

    def kind_of(self, match: Match) -> Hashable:
        """What another match must differ in to be another answer: the label, else the group, else the item."""
        label = self.label_of(match.payload)
        if label is not None:
            return ("label", label)
        group = _value_at(match.payload, self.group_field)
        return ("item", match.id) if group is None else ("group", group)


def evidence_of(
    matches: Sequence[Match], grouping: Grouping, *, uncertainty: float | None, novelty: float | None
) -> dict[str, float] | None:
    """The evidence for the best match, by the names of `uncertainty.confidence.INPUTS`; None where nothing was found.

    Args:
        matches: the nearest items of the whole gallery, best first; the first `DEPTH` count.
        grouping: what makes two of them the same answer.
        uncertainty: of the query, where it is known.
        novelty: of the query, where it is known.

    `margin` is exact where the matches reached a second kind; where all are of one, the last of them is taken for the
    rival, which can only be nearer. `agreement` is there where the best match has a label.
    """
    near = matches[:DEPTH]
    if not near:
        return None
    best = near[0]
    kind = grouping.kind_of(best)
    rival = next((match for match in near if grouping.kind_of(match) != kind), near[-1])
    evidence = {"top_score": best.score, "margin": best.score - rival.score, "result_uncertainty": best.uncertainty}
    label = grouping.label_of(best.payload)
    if label is not None:
        evidence["agreement"] = sum(grouping.label_of(match.payload) == label for match in near) / len(near)
    known = {"uncertainty": uncertainty, "novelty": novelty}
    return evidence | {name: value for name, value in known.items() if value is not None}


def _value_at(payload: Mapping[str, Any], path: str | None) -> Hashable:
    """What a dotted path leads to, if that is text, a number or a boolean."""
    value: Any = payload if path else None
    for name in path.split(".") if path else ():
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, str | int | float) else None

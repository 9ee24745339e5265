"""Which items a gallery holds, in a few hundred numbers: enough to tell how much of it has changed."""

import hashlib
import heapq
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SKETCH: Final = 512  # hashes kept: a tenth of a gallery changed is seen as one to within 0.013


@dataclass(frozen=True)
class GalleryState:
    """The number of items, and the `SKETCH` smallest of their hashes, ascending."""

    items: int
    sketch: tuple[int, ...]

    @property
    def hash(self) -> str:
        """One name for the state: equal for galleries of the same items."""
        text = f"{self.items}:{','.join(map(str, self.sketch))}"
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    def changed_since(self, then: "GalleryState") -> float:
        """Share of all items, then and now together, that are not in both; estimated for large galleries.

        Source: Broder, "On the resemblance and containment of documents" (SEQUENCES 1997): bottom-k sketches.
        """
        together = sorted({*self.sketch, *then.sketch})[:SKETCH]
        if not together:
            return 0.0
        both = {*self.sketch} & {*then.sketch}
        by_sketch = 1.0 - len(both.intersection(together)) / len(together)
        by_count = 1.0 - min(self.items, then.items) / max(self.items, then.items)
        return max(by_sketch, by_count)


class Sketcher:
    """Takes in items in any order."""

    def __init__(self) -> None:
        self._items = 0
        self._largest_first: list[int] = []  # of the smallest so far, negated: a heap

    def add(self, items: Iterable[tuple[str, float]]) -> None:
        """Ids and uncertainties: an image replaced by another one has another uncertainty."""
        for item_id, uncertainty in items:
            self._items += 1
            digest = hashlib.blake2b(item_id.encode() + b"\0" + struct.pack("<d", uncertainty), digest_size=8).digest()
            value = -int.from_bytes(digest, "little")
            if len(self._largest_first) < SKETCH:
                heapq.heappush(self._largest_first, value)
            elif value > self._largest_first[0]:
                heapq.heapreplace(self._largest_first, value)

    def state(self) -> GalleryState:
        """Of what was added."""
        return GalleryState(self._items, tuple(sorted(-value for value in self._largest_first)))

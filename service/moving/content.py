"""What items are, down to the last bit, whatever engine keeps them: a hash of each, and a sum for many in any order."""

import hashlib
import json
import struct
from collections.abc import Iterable

import numpy as np

from service.gallery.base import Item

MODULUS = 2**256


def item_hash(item: Item) -> int:
    """SHA-256 of id, embedding, uncertainty and payload, as a number; the order of a payload's keys does not matter."""
    item_id = item.id.encode()
    digest = hashlib.sha256(struct.pack("<qd", len(item_id), item.uncertainty) + item_id)
    digest.update(struct.pack("<q", len(item.embedding)))
    digest.update(np.ascontiguousarray(item.embedding, dtype="<f4").tobytes())
    digest.update(json.dumps(item.payload, sort_keys=True, separators=(",", ":")).encode())
    return int.from_bytes(digest.digest())


def checksum(items: Iterable[Item]) -> str:
    """Of all of them: the sum of their hashes, in hex."""
    return added(f"{item_hash(item):x}" for item in items)


def added(checksums: Iterable[str]) -> str:
    """The checksum of everything that these are of."""
    return f"{sum(int(each, 16) for each in checksums) % MODULUS:064x}"

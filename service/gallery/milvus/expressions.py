"""Filters as Milvus's expressions, over the fields of `collection.py`.

Tokens and paths are kept as digests: a token may be as long as the payload, and a path may hold what Milvus cannot
read in a JSON key. Numbers are kept as text of the same order: in its JSON fields, Milvus rounds and converts numbers.
"""

import hashlib
import json
import math
import struct
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from typing import Final, assert_never

from service.gallery.filters import SYMBOLS, Compare, Condition, NotEqual, OneOf, Where, token

DIGEST_BYTES: Final = 16
DIGEST_LENGTH: Final = 22  # as text


def to_expression(where: Where, max_uncertainty: float = math.inf) -> str:
    """The expression that holds where `passes` does and the uncertainty is within a bound; "" for everything."""
    bound = [] if max_uncertainty == math.inf else [f"uncertainty <= {max_uncertainty!r}"]
    return both(*(_condition(condition) for condition in where.conditions), *bound)


def both(*parts: str) -> str:
    """The expression that holds where every one does; "" holds everywhere."""
    return " and ".join(f"({part})" for part in parts if part)


def beyond(item_id: str | None) -> str:
    """The expression for ids that come after one."""
    return "" if item_id is None else f"id > {quote(item_id)}"


def one_of(ids: Sequence[str]) -> str:
    """The expression for these ids."""
    return f"id in [{', '.join(map(quote, ids))}]"


def quote(text: str) -> str:
    """A text as Milvus's expressions read it."""
    return json.dumps(text, ensure_ascii=False)


def digest(text: str) -> str:
    """22 characters that stand for a text, safe in every expression; 128 bits of BLAKE2b."""
    raw = hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def sortable(number: float) -> str:
    """16 characters for a finite float64 that come in the order of the numbers: -0.0 must be 0.0.

    The bits of positive numbers are in order as they are, but for the sign; those of negative ones in reverse.
    """
    (bits,) = struct.unpack(">q", struct.pack(">d", number))
    return f"{(~bits & 0xFFFFFFFFFFFFFFFF) if bits < 0 else bits | 1 << 63:016x}"


def _condition(condition: Condition) -> str:
    match condition:
        case OneOf():
            wanted = ", ".join(quote(digest(token(condition.path, value))) for value in condition.values)
            return f"array_contains_any(tokens, [{wanted}])"
        case NotEqual():
            return f"not array_contains(tokens, {quote(digest(token(condition.path, condition.value)))})"
        case Compare():
            is_text = isinstance(condition.bound, str)
            kind = "texts" if is_text else "numbers"
            bound = condition.bound if isinstance(condition.bound, str) else sortable(condition.bound)
            return f"{kind}[{quote(digest(condition.path))}] {SYMBOLS[condition.operator]} {quote(bound)}"
        case _:
            assert_never(condition)

"""How settings name several bundles and a gallery of each: `[NAME=]WHERE,...`, with places to be filled in."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

NONE: Final = "none"
NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_NAMED: Final = re.compile(rf"(?:({NAME})=)?(.*)", re.DOTALL)
_BETWEEN_NAMED: Final = re.compile(rf",(?={NAME}=)")  # the URL of a gallery may have commas
BUNDLE: Final = "{bundle}"
HASH: Final = "{hash}"
HASH_DIGITS: Final = 12

Named = tuple[str | None, str]
"""A name, where one is given, and what it names."""


def read_bundles(text: str) -> tuple[Named, ...]:
    """Where each bundle is, by name where one is given; the first is the default. A folder of that very name is one.

    >>> read_bundles("bundles/vit,small=org/name@v2")
    ((None, 'bundles/vit'), ('small', 'org/name@v2'))

    Raises:
        ValueError: for a name given twice, or a name of nothing.
    """
    return ((None, text),) if text and Path(text).is_dir() else _read(text.split(","))


def read_galleries(text: str) -> Mapping[str | None, str]:
    """The gallery of each named bundle; under None that of the default bundle. `none` is no gallery.

    >>> read_galleries("items,small=postgresql://one,two/items")
    {None: 'items', 'small': 'postgresql://one,two/items'}

    Raises:
        ValueError: for a name given twice, or a name of nothing.
    """
    return dict(_read(_BETWEEN_NAMED.split(text)))


def gallery_of(galleries: Mapping[str | None, str], table: str, name: str, *, default: bool) -> str | None:
    """The location that a bundle's gallery has in the settings, places not filled in; None for no gallery.

    One without a name is the default bundle's; with `{bundle}` in it, or in PostgreSQL's table, that of each bundle
    without one of its own.
    """
    unnamed = galleries.get(None, NONE)
    each = BUNDLE in unnamed or (unnamed.startswith("postgresql://") and BUNDLE in table)
    location = galleries.get(name, unnamed if default or each else NONE)
    return None if location == NONE else location


def fill(text: str, name: str, bundle_hash: str) -> str:
    """`{bundle}` and `{hash}` in their places: the name, and the first 12 hex digits of the hash.

    The name is a plain one, and in the URL of Milvus, whose collections are called so, without dots and dashes too.
    """
    called = re.sub(r"[.-]", "_", plain(name)) if text.startswith("milvus://") else plain(name)
    return text.replace(BUNDLE, called).replace(HASH, bundle_hash.removeprefix("sha256:")[:HASH_DIGITS])


def plain(name: str) -> str:
    """A bundle's name as part of a path or a URL: what is no letter, digit, dot, dash or underscore becomes `_`.

    >>> plain("../my birds")
    '_._my_birds'
    """
    return re.sub(r"^\.|[^A-Za-z0-9._-]", "_", name)


def _read(parts: Sequence[str]) -> tuple[Named, ...]:
    named = []
    for part in parts:
        found = _NAMED.fullmatch(part.strip())
        if found is None or not found[2]:
            raise ValueError(f"{part!r} names nothing: write [NAME=]WHERE, with commas between several")
        named.append((found[1], found[2]))
    names = [name for name, _ in named if name is not None]
    if len(set(names)) < len(names):
        raise ValueError(f"the name {max(names, key=names.count)!r} is given twice")
    return tuple(named)

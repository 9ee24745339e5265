"""How settings name several bundles and a gallery of each: `[NAME=]WHERE,...`, with places to be filled in."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from models.bundle import BundleError

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
    return ((None, text),) if Path(text).is_dir() else _read(text.split(","))


def read_galleries(text: str) -> Mapping[str | None, str]:
    """The gallery of each named bundle; under None that of the default bundle. `none` is no gallery.

    >>> read_galleries("items,small=postgresql://one,two/items")
    {None: 'items', 'small': 'postgresql://one,two/items'}

    Raises:
        ValueError: for a name given twice, or a name of nothing.
    """
    return dict(_read(_BETWEEN_NAMED.split(text)))


def gallery_of(galleries: Mapping[str | None, str], name: str, *, default: bool) -> str | None:
    """The location that a bundle's gallery has in the settings, places not filled in; None for no gallery.

    One without a name is the default bundle's, or with `{bundle}` in it that of each bundle without one of its own.
    """
    unnamed = galleries.get(None, NONE)
    location = galleries.get(name, unnamed if default or BUNDLE in unnamed else NONE)
    return None if location == NONE else location


def fill(text: str, name: str, bundle_hash: str) -> str:
    """`{bundle}` and `{hash}` in their places: the name, and the first 12 hex digits of the hash.

    A name in the URL of Milvus, whose collections are called by letters, digits and underscores, is made of those.
    """
    called = re.sub(r"[^A-Za-z0-9]", "_", name) if text.startswith("milvus://") else name
    return text.replace(BUNDLE, called).replace(HASH, bundle_hash.removeprefix("sha256:")[:HASH_DIGITS])


def check_name(name: str, where: str) -> str:
    """A name that a manifest gives, itself.

    Raises:
        BundleError: for one that no bundle can be asked for by.
    """
    if not re.fullmatch(NAME, name):
        raise BundleError(
            f"the bundle at {where} is called {name!r}, and it must be asked for by 1 to 64 letters, digits, dots, "
            f"dashes or underscores: give it another name with CANDOR_BUNDLE=NAME={where}"
        )
    return name


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

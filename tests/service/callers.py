"""Callers with API keys."""

from pathlib import Path

from service.keys import Key, digest_of, new_key, parse_scopes
from service.keys_add import add_key


def give_key(file: Path, name: str = "caller", scopes: str = "embed,retrieve,write,admin") -> str:
    """A new key, noted in the file."""
    key = new_key()
    add_key(file, Key(name, parse_scopes(scopes), digest_of(key.encode())))
    return key


def bearing(key: str) -> dict[str, str]:
    """The header that shows a key."""
    return {"authorization": f"Bearer {key}"}

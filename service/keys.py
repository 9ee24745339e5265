"""API keys: a file that names each, says what it is for, and holds a hash of it.

One line a key, `NAME SCOPES SHA256`: scopes are joined by commas, the hash is in hexadecimal. Blank lines, and what
follows a `#`, are skipped.
"""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from models.errors import UserError

NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
DIGEST: Final = re.compile(r"[0-9a-fA-F]{64}")
MARK: Final = "candor_"  # tells what a key found somewhere is for
KEY_BYTES: Final = 32
KEYS_HEAD: Final = ("# API keys of candor: NAME SCOPES SHA256, made with `candor keys add`.",)


class KeyScope(StrEnum):
    """What a key may be used for."""

    EMBED = "embed"
    RETRIEVE = "retrieve"
    WRITE = "write"
    ADMIN = "admin"


class KeysError(UserError):
    """A file of keys that cannot be used; the message names the line and what is wrong with it."""


@dataclass(frozen=True)
class Key:
    """Who calls, what for, and the SHA-256 by which the key is known."""

    name: str
    scopes: frozenset[KeyScope]
    digest: bytes

    def as_line(self) -> str:
        """The key's line in the file."""
        scopes = ",".join(scope for scope in KeyScope if scope in self.scopes)
        return f"{self.name} {scopes} {self.digest.hex()}"


def new_key() -> str:
    """A key of 256 random bits."""
    return MARK + secrets.token_urlsafe(KEY_BYTES)


def digest_of(key: bytes) -> bytes:
    """What is kept of a key: a plain hash, as nobody can try out 256 random bits, however fast the hash is."""
    return hashlib.sha256(key).digest()


def find_key(keys: Iterable[Key], given: bytes) -> Key | None:
    """The key that was given; takes as long for each of them and for none."""
    digest, found = digest_of(given), None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file, of which there may be none.

    Raises:
        KeysError: where it cannot be read, or a line of it.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    keys: list[Key] = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = _words(line)
        try:
            keys += [_parse(words, keys)] if words else []
        except ValueError as error:
            raise KeysError(f"{path}, line {number}: {error}") from error
    return tuple(keys)


def _words(line: str) -> list[str]:
    return line.partition("#")[0].split()


def name_in(line: str) -> str | None:
    """The name of the key of a line, if it has one."""
    return next(iter(_words(line)), None)


def _parse(words: Sequence[str], before: Sequence[Key]) -> Key:
    """A line's key; the message of an error shows none of it that could be a key itself."""
    if len(words) != 3:
        raise ValueError("expected NAME SCOPES SHA256")
    name, scopes, digest = words
    check_name(name)
    if not DIGEST.fullmatch(digest):
        raise ValueError("the hash must be 64 hexadecimal digits: `candor keys add` writes it")
    key = Key(name, parse_scopes(scopes), bytes.fromhex(digest))
    if any(other.name == name for other in before):
        raise ValueError(f"there is a key {name} above")
    if same := next((other.name for other in before if other.digest == key.digest), None):
        raise ValueError(f"{name} and {same} are the same key: make one for each with `candor keys add`")
    return key


def check_name(name: str) -> None:
    """Return if a key may be called so.

    Raises:
        ValueError: if not.
    """
    if not NAME.fullmatch(name):
        raise ValueError("a name must be 1 to 64 letters, digits, dots, dashes or underscores")


def parse_scopes(text: str) -> frozenset[KeyScope]:
    """Scopes as they are written, joined by commas.

    Raises:
        ValueError: for none, or one that does not exist.
    """
    known = ", ".join(KeyScope)
    try:
        return frozenset(KeyScope(word.strip()) for word in text.split(","))
    except ValueError as error:
        raise ValueError(f"scopes must be some of {known}, joined by commas") from error


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Put these lines in the place of a file of keys, all or none; a new file is its owner's alone.

    Raises:
        KeysError: where it cannot be written.
    """
    path = path.resolve()  # a link stays one
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with open(descriptor, "w", encoding="utf-8") as new:
                new.writelines(f"{line}\n" for line in lines)
                new.flush()
                os.fsync(descriptor)
                _give_same_owner(descriptor, path)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise KeysError(f"{path} cannot be written: {error.strerror or error}") from error


def _give_same_owner(descriptor: int, path: Path) -> None:
    """Whoever could read the file before, as the server may have to, still can."""
    if not path.exists():
        return
    before = path.stat()
    os.fchmod(descriptor, stat.S_IMODE(before.st_mode))
    with contextlib.suppress(PermissionError):
        os.fchown(descriptor, before.st_uid, before.st_gid)

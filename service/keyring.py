"""The API keys that hold now: those of the file as it is at the time of a request."""

import stat
from pathlib import Path

from service.files import state_of
from service.keys import Key, KeysError, find_key, read_keys
from service.telemetry import Logger

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Keyring:
    """The keys of a file, read again where it has changed: a key is good, or no longer, from the next request on.

    A file that cannot be read any more, or not in full, changes nothing but the log.
    """

    def __init__(self, path: Path, logger: Logger) -> None:
        self._path = path
        self._logger = logger
        self._seen = state_of(path)
        self._keys = read_keys(path)
        self._warn()

    def find(self, given: bytes) -> Key | None:
        """The key that was given, if the file has it now."""
        if (state := state_of(self._path)) != self._seen:
            self._seen = state
            self._read_again()
        return find_key(self._keys, given)

    def _read_again(self) -> None:
        try:
            self._keys = read_keys(self._path)
        except KeysError as error:
            self._logger.error("API keys not read again: those of before hold", error=str(error))
            return
        self._logger.info("API keys read again", names=[key.name for key in self._keys])
        self._warn()

    def _warn(self) -> None:
        if not self._keys:
            self._logger.warning("no API key in the file: nobody may come in", file=str(self._path))
        if self._seen and self._seen[-1] & OTHERS_WRITE:
            self._logger.warning("not only its owner may write the file of API keys", file=str(self._path))

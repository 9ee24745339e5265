"""Who may come in: callers with a key for what they ask; or, where no keys are set, all but strange web pages."""

import ipaddress
import socket
from collections.abc import Mapping
from typing import Final

from service.errors import Forbidden, Unauthorized
from service.keyring import Keyring
from service.keys import KeyScope
from service.settings import Settings
from service.telemetry import Logger

HEALTH: Final = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
OPEN_PATHS: Final = HEALTH | {"/", "/docs", "/openapi.json"}  # answered without an API key
OPEN_FOLDER: Final = "/page/"  # as is all below it
READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
NEEDED: Final[Mapping[str, tuple[KeyScope, KeyScope]]] = {
    "embed": (KeyScope.EMBED, KeyScope.EMBED),
    "v1": (KeyScope.EMBED, KeyScope.EMBED),
    "v2": (KeyScope.EMBED, KeyScope.EMBED),
    "retrieve": (KeyScope.RETRIEVE, KeyScope.RETRIEVE),
    "feedback": (KeyScope.RETRIEVE, KeyScope.RETRIEVE),
    "gallery": (KeyScope.RETRIEVE, KeyScope.WRITE),
    "policies": (KeyScope.RETRIEVE, KeyScope.ADMIN),
    "admin": (KeyScope.ADMIN, KeyScope.ADMIN),
}
"""What a path needs by its first part, to read and to change; any other path needs a key of any scope."""


def needed_scope(method: str, path: str) -> KeyScope | None:
    """The scope that a key must have; None: any key will do."""
    scopes = NEEDED.get(path[1:].partition("/")[0])
    return None if scopes is None else scopes[method not in READING]


class Access:
    """Admits requests, or refuses them."""

    def __init__(self, settings: Settings, logger: Logger) -> None:
        self._keyring = Keyring(settings.api_keys, logger) if settings.api_keys else None
        self._origins = settings.allowed_origins

    def admit(self, method: str, path: str, headers: Mapping[bytes, bytes]) -> str | None:
        """The name of the caller's key; None where none is needed.

        Raises:
            Unauthorized: without a key of the file.
            Forbidden: with one that is not for this; or, where no keys are set, to what a page of another site sends.
        """
        if path in OPEN_PATHS or path.startswith(OPEN_FOLDER):
            return None
        if self._keyring is None:
            self._refuse_strange_pages(headers)
            return None
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        key = self._keyring.find(given.strip()) if scheme.lower() == b"bearer" else None
        if key is None:
            raise Unauthorized(
                "send the key as `Authorization: Bearer KEY`", headers={"WWW-Authenticate": 'Bearer realm="candor"'}
            )
        scope = needed_scope(method, path)
        if scope is not None and scope not in key.scopes:
            challenge = f'Bearer realm="candor", error="insufficient_scope", scope="{scope}"'
            raise Forbidden(f"this needs a key with the scope {scope}", headers={"WWW-Authenticate": challenge})
        return key.name

    def _refuse_strange_pages(self, headers: Mapping[bytes, bytes]) -> None:
        """A browser on this network can reach an open server, whatever page it shows: it tells whose by these headers.

        A page whose own name was made to point here sends an Origin that fits its Host: hence the look at that as well.
        """
        host, origin = _lower(headers.get(b"host", b"")), _lower(headers.get(b"origin", b""))
        if origin and origin not in self._origins and _authority(origin) != host:
            raise Forbidden("a page of another site may not use this server unless CANDOR_ALLOWED_ORIGINS names it")
        if host and not _is_nobodys_site(host) and host not in map(_authority, self._origins):
            raise Forbidden(
                "without API keys this server answers to addresses and names without dots, as localhost: set "
                "CANDOR_API_KEYS, or name the site, as http://host:port, in CANDOR_ALLOWED_ORIGINS"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens on that address, or on the one of that name."""
    try:
        found = socket.getaddrinfo(host or "0.0.0.0", None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[0])).is_loopback for *_, address in found)


def _is_nobodys_site(authority: str) -> bool:
    """Whether a Host header is one that no site of the internet can have: an address, or a name without a dot."""
    name = authority[1:].partition("]")[0] if authority.startswith("[") else authority.partition(":")[0]
    if name == "127.0.0.1" or "." not in name:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _lower(header: bytes) -> str:
    return header.decode("latin-1").lower()


def _authority(origin: str) -> str:
    return origin.partition("://")[2]

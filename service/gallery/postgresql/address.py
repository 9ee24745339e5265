"""Where the server is, and how it is reached."""

import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg

from service.gallery.base import GalleryError
from service.gallery.options import EngineOptions
from service.gallery.postgresql.errors import translated


@dataclass(frozen=True)
class Address:
    """What `asyncpg` needs to connect, and the name that messages give the server: one without a password."""

    name: str
    arguments: dict[str, Any]
    timeout_s: float

    async def connect(self) -> Any:
        """A connection of its own, beside the pool.

        Raises:
            GalleryError, GalleryUnavailable: as `translated`.
        """
        with translated(self.name):
            return await asyncpg.connect(**self.arguments, timeout=self.timeout_s)


def address_of(url: str, options: EngineOptions) -> Address:
    """The address that a URL and options mean together.

    Raises:
        GalleryError: where a certificate cannot be read.
    """
    arguments = {"dsn": url, "user": options.user, "password": options.password, "ssl": _tls(options)}
    return Address(_name(url), {key: value for key, value in arguments.items() if value is not None}, options.timeout_s)


def _name(url: str) -> str:
    """Host, port and database."""
    parts = urlsplit(url)
    hosts = parts.netloc.rpartition("@")[2] or ",".join(parse_qs(parts.query).get("host", ["localhost"]))
    return hosts + parts.path.rstrip("/")


def _tls(options: EngineOptions) -> ssl.SSLContext | bool | None:
    """As asyncpg takes it; files for TLS mean TLS, unless it is refused in so many words."""
    files = [path for path in (options.ca, options.certificate, options.key) if path is not None]
    if options.tls is False or (options.tls is None and not files):
        return options.tls
    try:
        context = ssl.create_default_context(cafile=options.ca)
        if options.certificate is not None:
            context.load_cert_chain(options.certificate, options.key)
    except (OSError, ValueError) as error:
        named = ", ".join(map(str, files))
        raise GalleryError(
            f"cannot read the PEM files of CANDOR_GALLERY_CA, _CERTIFICATE and _KEY ({named}): {error}"
        ) from error
    return context

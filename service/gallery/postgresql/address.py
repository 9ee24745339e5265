"""Where the server is, and how it is reached."""

import re
import ssl
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import asyncpg

from service.gallery.base import GalleryError
from service.gallery.options import EngineOptions
from service.gallery.postgresql.errors import translated

HOST: Final = re.compile(r"(\[[^\]]*\]|[^:]*)(:\d+)?")
URL_HELP: Final = (
    "the URL of PostgreSQL cannot be read: write it as postgresql://user@host:5432/database, with special characters "
    "as %XX, and put the password into CANDOR_GALLERY_PASSWORD"
)


@dataclass(frozen=True)
class Address:
    """What `asyncpg` needs to connect, and the name that messages give the server: one without a password."""

    name: str
    arguments: dict[str, Any] = field(repr=False)
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
        GalleryError: for a URL or a certificate that cannot be read.
    """
    arguments = {"dsn": url, "user": options.user, "password": options.password, "ssl": _tls(options)}
    return Address(
        _name_of(url), {key: value for key, value in arguments.items() if value is not None}, options.timeout_s
    )


def _name_of(url: str) -> str:
    """Host, port and database, for messages.

    Raises:
        GalleryError: for a URL whose password would be read as another part of it, and then be told.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise GalleryError(URL_HELP) from None
    hosts = parts.netloc.rpartition("@")[2]
    if "@" in url.partition(parts.netloc)[2] or not all(HOST.fullmatch(host) for host in hosts.split(",")):
        raise GalleryError(URL_HELP)
    return (hosts or ",".join(parse_qs(parts.query).get("host", ["localhost"]))) + parts.path.rstrip("/")


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

"""Where a collection is: `milvus://[user:password@]host:19530/[database/]collection`."""

import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from service.gallery.base import GalleryError
from service.gallery.options import EngineOptions

PORT: Final = 19530
MAX_NAME_LENGTH: Final = 255
# The client reconnects by itself; left alone, it would wait up to two minutes before it tries again.
CHANNEL: Final = {"grpc.initial_reconnect_backoff_ms": 100, "grpc.max_reconnect_backoff_ms": 1000}


@dataclass(frozen=True)
class Address:
    """Where a collection is, and how to log in."""

    host: str
    port: int
    database: str
    collection: str
    user: str
    password: str = field(repr=False)

    @property
    def server(self) -> str:
        """Host and port, for people."""
        return f"{self.host}:{self.port}"

    @property
    def location(self) -> str:
        """The URL without the login."""
        database = f"{self.database}/" if self.database else ""
        return f"milvus://{self.server}/{database}{self.collection}"


def parse_address(location: str, options: EngineOptions) -> Address:
    """Read a location; the login in `options` is taken in place of the URL's.

    Raises:
        GalleryError: where a part is missing or not a name; the message holds no password.
    """
    try:
        url = urlsplit(location)
        host, port = url.hostname or "", url.port or PORT
    except ValueError as error:
        raise GalleryError(f"milvus:// takes host:port: {error}") from error
    *database, collection = [unquote(part) for part in url.path.strip("/").split("/")]
    if not host or ":" in host or len(database) > 1 or url.query or url.fragment:
        raise GalleryError("milvus:// takes milvus://[user:password@]host:19530/[database/]collection")
    return Address(
        host=host,
        port=port,
        database=_check_name(database[0], "a database") if database else "",
        collection=_check_name(collection, "a collection"),
        user=options.user or unquote(url.username or ""),
        password=options.password or unquote(url.password or ""),
    )


def client_arguments(address: Address, options: EngineOptions) -> dict[str, Any]:
    """What the client is made with.

    Raises:
        GalleryError: for a choice of certificates that Milvus's client cannot make.
    """
    login = {"user": address.user, "password": address.password} if address.user else {}
    return {
        "uri": f"http://{address.server}",
        "db_name": address.database,
        "dedicated": True,
        "grpc_options": CHANNEL,
        **login,
        **_tls(options),
    }


def _tls(options: EngineOptions) -> dict[str, Any]:
    given = {"ca": options.ca, "certificate": options.certificate, "key": options.key}
    if not options.tls:
        if any(given.values()):
            raise GalleryError("certificates for Milvus need TLS: set CANDOR_GALLERY_TLS=true")
        return {"secure": False}
    if options.certificate is None and options.key is None:
        return {"secure": True} | ({"server_pem_path": str(options.ca)} if options.ca else {})
    if not all(given.values()):
        raise GalleryError("a client certificate for Milvus needs its key and the authority: set all three")
    return {
        "secure": True,
        "ca_pem_path": str(options.ca),
        "client_pem_path": str(options.certificate),
        "client_key_path": str(options.key),
    }


def _check_name(name: str, kind: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) or len(name) > MAX_NAME_LENGTH:
        raise GalleryError(
            f"{kind} of Milvus is 1 to {MAX_NAME_LENGTH} letters, digits and underscores, not {name!r}: "
            "give milvus://host:19530/[database/]collection"
        )
    return name

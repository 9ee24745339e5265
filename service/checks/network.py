"""The port, who may reach it, and how many connections may be open."""

import errno
import resource
import ssl
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final

import orjson

from service.access import is_loopback
from service.checks.findings import Finding, Kind
from service.checks.situation import Situation
from service.server import listen, url_of
from service.settings import Settings

ASK_S: Final = 2.0
OWN_FILES: Final = 256  # of the gallery, logs, libraries and the loop
NOT_TOLD: Final = ("unauthorized", "forbidden", "unavailable")  # how a candor keeps what it serves to itself
ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}


def check(situation: Situation) -> Iterator[Finding]:
    """Whether a server could listen, and to whom."""
    settings = situation.settings
    yield port(settings)
    if settings.api_keys is None and not is_loopback(settings.host):
        yield Finding(Kind.PUBLIC_WITHOUT_KEY, f"CANDOR_HOST={settings.host}, and there are no API keys")
    yield from open_files(settings.queue_per_worker, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def port(settings: Settings) -> Finding:
    """Take the port for a moment; where that fails, ask whoever has it."""
    where = f"{settings.host} port {settings.port}"
    try:
        listen(settings.host, settings.port).close()
    except OSError as error:
        return _refusal(settings, where, error)
    return Finding(Kind.PORT_FREE, where if settings.port else f"{settings.host}, at a port that is free at the start")


def open_files(images: int, limit: int) -> Iterator[Finding]:
    """Whether so many images may come in, each on a connection of its own that others wait beside."""
    needed = 2 * images + OWN_FILES
    if limit != resource.RLIM_INFINITY and limit < needed:
        yield Finding(Kind.FEW_OPEN_FILES, f"{limit} files may be open, and a full queue may need {needed}")


def _refusal(settings: Settings, where: str, error: OSError) -> Finding:
    if error.errno == errno.EADDRINUSE:
        served = candor_at(settings)
        if served is not None:
            return Finding(Kind.PORT_SERVED, f"{where}: {served}")
        return Finding(Kind.PORT_TAKEN, f"{where} is in use, and not by a candor that answers")
    if error.errno in (errno.EACCES, errno.EPERM):
        return Finding(Kind.PORT_FORBIDDEN, f"{where}: {error.strerror}")
    return Finding(Kind.ADDRESS_UNUSABLE, f"{where}: {error.strerror or error}")


def candor_at(settings: Settings) -> str | None:
    """What a candor server at the address says of itself; None where there is no answer of one."""
    ready = _ask(settings, "/readyz")
    model = _ask(settings, "/model") if ready else None
    if not ready or not model or not ("bundle_hash" in model or model.get("type") in NOT_TOLD):
        return None
    bundle = f"bundle {model['bundle']} ({model['bundle_hash']})" if "bundle_hash" in model else "an unknown bundle"
    state = "is ready" if ready.get("status") == "ready" else f"is not ready ({ready.get('detail')})"
    return f"a candor with {bundle} at {url_of(settings.scheme, settings.host, settings.port)} {state}"


def _ask(settings: Settings, path: str) -> dict[str, Any] | None:
    connection = _connection(settings)
    try:
        connection.request("GET", path)
        answer = orjson.loads(connection.getresponse().read(2**20))
    except (OSError, HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else None


def _connection(settings: Settings) -> HTTPConnection:
    host = ANY_ADDRESS.get(settings.host, settings.host)
    if settings.scheme == "http":
        return HTTPConnection(host, settings.port, timeout=ASK_S)
    anybody = ssl.create_default_context()  # whoever it is, is asked; nothing secret is told
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    return HTTPSConnection(host, settings.port, timeout=ASK_S, context=anybody)

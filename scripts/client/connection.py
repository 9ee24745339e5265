"""What both clients do with httpx2: how it is set up, and what its answers and errors are here."""

import os
import ssl
from collections.abc import Mapping
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import httpx2

from models.errors import UserError
from scripts.client.attempts import Send
from scripts.client.errors import Unreachable, Untrusted
from scripts.client.wire import Answer

Verify: TypeAlias = bool | str | os.PathLike[str] | ssl.SSLContext
"""Whether to trust the system's authorities or anybody, those in a PEM file, or as the context says."""

Certificate: TypeAlias = tuple[str | os.PathLike[str], str | os.PathLike[str]]
"""PEM files of a certificate and its key, for servers that ask for one."""


def settings(
    url: str, api_key: str | None, bundle: str | None, verify: Verify, certificate: Certificate | None
) -> dict[str, Any]:
    """The arguments of an httpx2 client.

    Raises:
        UserError: for a URL, key or certificate that cannot be used.
    """
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise UserError(f"{url!r} is no http or https URL of a server")
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise UserError("the API key has characters that no key has: was the right file read?")
    return {
        "base_url": url,
        "headers": {"Authorization": f"Bearer {api_key}"} if api_key else {},
        "params": {} if bundle is None else {"bundle": bundle},
        "verify": _context(verify, certificate),
    }


def arguments(send: Send, timeout_s: float) -> dict[str, Any]:
    """The arguments of `build_request`."""
    request = send.request
    return {
        "method": request.method,
        "url": request.path,
        "params": request.params,
        "content": request.content,
        "headers": {"Content-Type": request.content_type} if request.content_type else {},
        "files": [("images", (str(place), data)) for place, data in enumerate(request.files)] or None,
        "timeout": max(0.001, min(timeout_s, send.timeout_s)),
    }


def as_answer(response: httpx2.Response) -> Answer:
    """What httpx2 read."""
    return Answer(response.status_code, _small(response.headers), response.content)


def as_unreachable(error: httpx2.RequestError, url: str) -> Unreachable:
    """Why httpx2 read nothing.

    Raises:
        Untrusted: where the certificate is why.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise Untrusted(f"the certificate of {url} is not trusted: {cause.verify_message}") from error
        cause = cause.__cause__ or cause.__context__
    return Unreachable(f"no answer from {url}: {str(error) or type(error).__name__}")


def _small(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _context(verify: Verify, certificate: Certificate | None) -> ssl.SSLContext:
    try:
        context = _trusting(verify)
        if certificate is not None:
            context.load_cert_chain(os.fspath(certificate[0]), os.fspath(certificate[1]))
    except (OSError, ssl.SSLError) as error:
        raise UserError(f"verify or cert: {error}") from error
    return context


def _trusting(verify: Verify) -> ssl.SSLContext:
    if isinstance(verify, ssl.SSLContext):
        return verify
    if isinstance(verify, bool):
        return httpx2.create_ssl_context(verify)
    return ssl.create_default_context(cafile=os.fspath(verify))

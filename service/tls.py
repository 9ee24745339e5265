"""HTTPS: the server's certificate, and the clients' where they must show one."""

import ssl
from pathlib import Path

from models.errors import UserError
from service.settings import Settings


class CertificateError(UserError):
    """Certificates that cannot be used; the message names the file and what is wrong with it."""


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """What to speak TLS 1.2 or later with; None where the server is to speak plain HTTP.

    Raises:
        CertificateError: for files that cannot be used.
    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, settings.tls_certificate, settings.tls_key, _password(settings))
    if settings.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authorities(context, settings.tls_client_ca)
    return context


def _password(settings: Settings) -> str:
    """Never None, at which OpenSSL would ask for it at the terminal."""
    return settings.tls_key_password.get_secret_value() if settings.tls_key_password else ""


def _load_certificate(context: ssl.SSLContext, certificate: Path, key: Path, password: str) -> None:
    _require_readable("CANDOR_TLS_CERTIFICATE", certificate)
    _require_readable("CANDOR_TLS_KEY", key)
    try:
        context.load_cert_chain(certificate, key, lambda: password)
    except (ssl.SSLError, ValueError) as error:
        raise CertificateError(
            f"CANDOR_TLS_CERTIFICATE={certificate} and CANDOR_TLS_KEY={key} must be PEM files of a certificate and its "
            f"own key, whose password, if it has one, is CANDOR_TLS_KEY_PASSWORD ({error})"
        ) from error


def _load_authorities(context: ssl.SSLContext, authorities: Path) -> None:
    _require_readable("CANDOR_TLS_CLIENT_CA", authorities)
    try:
        context.load_verify_locations(authorities)
    except ssl.SSLError as error:
        raise CertificateError(
            f"CANDOR_TLS_CLIENT_CA={authorities} is no PEM file of certificates ({error})"
        ) from error


def _require_readable(variable: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise CertificateError(f"{variable}={path} cannot be read: {error.strerror or error}") from error

"""HTTPS: the server's certificate, and the clients' where they must show one."""

import ssl
from pathlib import Path

from models.errors import UserError
from service.files import state_of
from service.settings import Settings
from service.telemetry import Logger


class CertificateError(UserError):
    """Certificates that cannot be used; the message names the file and what is wrong with it."""


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """What to speak TLS 1.2 or later with; None where the server is to speak plain HTTP.

    Raises:
        CertificateError: for files that cannot be used.
    """
    if settings.tls_certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_certificate(context, settings)
    if settings.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authorities(context, settings.tls_client_ca)
    return context


class Renewal:
    """Reads the server's certificate again once its files have changed, for the connections that come then."""

    def __init__(self, settings: Settings, context: ssl.SSLContext, logger: Logger) -> None:
        self._settings = settings
        self._context = context
        self._logger = logger
        self._seen = _files(settings)

    def look(self) -> None:
        """Renew the certificate if there is another; one that cannot be used changes nothing but the log."""
        if (files := _files(self._settings)) == self._seen:
            return
        self._seen = files
        try:
            server_context(self._settings)  # before the one in use is touched
            _load_certificate(self._context, self._settings)
        except CertificateError as error:
            self._logger.error("certificate not read again: the one of before holds", error=str(error))
            return
        self._logger.info("certificate read again")


def _files(settings: Settings) -> list[tuple[int, ...] | None]:
    return [state_of(path) for path in (settings.tls_certificate, settings.tls_key) if path is not None]


def _password(settings: Settings) -> str:
    """Never None, at which OpenSSL would ask for it at the terminal."""
    return settings.tls_key_password.get_secret_value() if settings.tls_key_password else ""


def _load_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None or key is None:  # settings have both or neither
        return
    _require_readable("CANDOR_TLS_CERTIFICATE", certificate)
    _require_readable("CANDOR_TLS_KEY", key)
    try:
        context.load_cert_chain(certificate, key, lambda: _password(settings))
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

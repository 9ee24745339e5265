"""HTTPS: real handshakes with a real server, and certificates that cannot be used."""

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_der_x509_certificate

from service.main import main
from service.settings import Settings
from service.tls import CertificateError, server_context
from tests.service.process import PATIENCE_S, Server, serving

PASSWORD = "correct-horse"


@dataclass(frozen=True)
class Identity:
    """A certificate of an authority, its key, and the key again under `PASSWORD`: PEM files."""

    certificate: Path
    key: Path
    locked_key: Path


@dataclass(frozen=True)
class Authority:
    """An authority, and its own certificate as a PEM file."""

    ca: trustme.CA
    certificate: Path

    def issue(self, folder: Path, name: str) -> Identity:
        issued = self.ca.issue_cert(name)
        certificate, key, locked = (folder / f"{name}.{kind}.pem" for kind in ("certificate", "key", "locked"))
        certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(key))
        secret = load_pem_private_key(key.read_bytes(), None)
        locked.write_bytes(
            secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(PASSWORD.encode()))
        )
        return Identity(certificate, key, locked)


def authority(folder: Path) -> Authority:
    folder.mkdir()
    made = Authority(trustme.CA(), folder / "ca.pem")
    made.ca.cert_pem.write_to_path(str(made.certificate))
    return made


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("tls") / "theirs")


@pytest.fixture(scope="module")
def identity(ours: Authority) -> Identity:
    return ours.issue(ours.certificate.parent, "127.0.0.1")


def status(server: Server, trusted: Authority, shown: Identity | None = None) -> int:
    """What a new connection is answered, by a client that trusts an authority and may show a certificate."""
    context = ssl.create_default_context(cafile=trusted.certificate)
    if shown is not None:
        context.load_cert_chain(shown.certificate, shown.key)
    with httpx2.Client(verify=context, timeout=PATIENCE_S) as client:
        return client.get(f"{server.url}/healthz").status_code


def test_a_server_with_a_certificate_speaks_https_alone(
    bundle_path: Path, tmp_path: Path, ours: Authority, theirs: Authority, identity: Identity
) -> None:
    files = {"CANDOR_TLS_CERTIFICATE": str(identity.certificate), "CANDOR_TLS_KEY": str(identity.key)}
    with serving(bundle_path, tmp_path / "gallery", **files) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert status(server, ours) == 200
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            status(server, theirs)
        with pytest.raises(httpx2.TransportError):
            httpx2.get(server.url.replace("https", "http") + "/healthz", timeout=PATIENCE_S)
        assert status(server, ours) == 200  # whoever spoke nonsense has broken nothing
        server.terminate()
        assert server.wait() == 0


def test_workers_ask_clients_for_certificates(
    bundle_path: Path, tmp_path: Path, ours: Authority, theirs: Authority, identity: Identity
) -> None:
    files = {
        "CANDOR_TLS_CERTIFICATE": str(identity.certificate),
        "CANDOR_TLS_KEY": str(identity.locked_key),
        "CANDOR_TLS_KEY_PASSWORD": PASSWORD,
        "CANDOR_TLS_CLIENT_CA": str(ours.certificate),
    }
    client, stranger = ours.issue(tmp_path, "client.example"), theirs.issue(tmp_path, "stranger.example")
    with serving(bundle_path, tmp_path / "gallery", "--workers", "2", **files) as server:
        assert server.url.startswith("https://127.0.0.1:")
        for _ in range(4):  # either worker
            assert status(server, ours, client) == 200
            with pytest.raises(httpx2.TransportError):
                status(server, ours)
            with pytest.raises(httpx2.TransportError):
                status(server, ours, stranger)
    assert PASSWORD not in server.errors


def serial(server: Server, trusted: Authority) -> int:
    """The number of the certificate that a new connection is shown."""
    address = urlsplit(server.url)
    context = ssl.create_default_context(cafile=trusted.certificate)
    with (
        socket.create_connection((address.hostname, address.port or 0), PATIENCE_S) as plain,
        context.wrap_socket(plain, server_hostname=address.hostname) as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    assert shown is not None
    return load_der_x509_certificate(shown).serial_number


def test_a_renewed_certificate_is_shown_without_a_restart(bundle_path: Path, tmp_path: Path, ours: Authority) -> None:
    folder = tmp_path / "renewed"
    folder.mkdir()
    first, renewed = ours.issue(tmp_path, "127.0.0.1"), ours.issue(folder, "127.0.0.1")
    files = {"CANDOR_TLS_CERTIFICATE": str(first.certificate), "CANDOR_TLS_KEY": str(first.key)}
    with serving(bundle_path, tmp_path / "gallery", **files) as server:
        before = serial(server, ours)
        renewed.certificate.replace(first.certificate)
        error = server.event("certificate not read again: the one of before holds")
        assert serial(server, ours) == before
        renewed.key.replace(first.key)
        server.event("certificate read again")
        assert serial(server, ours) != before
        assert status(server, ours) == 200

    assert "CANDOR_TLS_KEY" in error["error"]


def settings_of(certificate: Path, key: Path, password: str | None = None, client_ca: Path | None = None) -> Settings:
    return Settings(tls_certificate=certificate, tls_key=key, tls_key_password=password, tls_client_ca=client_ca)


def test_nothing_older_than_tls_1_2_is_spoken(identity: Identity) -> None:
    context = server_context(settings_of(identity.certificate, identity.key))
    assert context is not None
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert server_context(Settings()) is None


def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, ours: Authority, identity: Identity, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere, junk = tmp_path / "nowhere.pem", tmp_path / "junk.pem"
    junk.write_text("junk")
    other = ours.issue(tmp_path, "other.example")
    good, key = identity.certificate, identity.key
    refused = {
        "CANDOR_TLS_CERTIFICATE=.*nowhere.pem cannot be read": settings_of(nowhere, key),
        "CANDOR_TLS_KEY=.*nowhere.pem cannot be read": settings_of(good, nowhere),
        "CANDOR_TLS_CERTIFICATE=.*junk.pem": settings_of(junk, key),
        "CANDOR_TLS_KEY=.*other.example.key.pem must be .* its own key": settings_of(good, other.key),
        "CANDOR_TLS_KEY_PASSWORD": settings_of(good, identity.locked_key),
        "CANDOR_TLS_KEY_PASSWORD ": settings_of(good, identity.locked_key, "wrong"),
        "CANDOR_TLS_CLIENT_CA=.*nowhere.pem": settings_of(good, key, client_ca=nowhere),
        "CANDOR_TLS_CLIENT_CA=.*junk.pem is no PEM file": settings_of(good, key, client_ca=junk),
    }
    for message, settings in refused.items():
        with pytest.raises(CertificateError, match=message):
            server_context(settings)


def test_a_certificate_that_cannot_be_used_stops_the_start(
    tmp_path: Path, identity: Identity, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CANDOR_TLS_CERTIFICATE", str(identity.certificate))
    monkeypatch.setenv("CANDOR_TLS_KEY", str(tmp_path / "nowhere.pem"))

    with pytest.raises(SystemExit) as exit_:
        main([])
    assert exit_.value.code == 2
    assert "CANDOR_TLS_KEY" in capsys.readouterr().err

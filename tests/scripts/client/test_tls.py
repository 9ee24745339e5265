"""Whom a client trusts, and by what it is trusted: real TLS connections."""

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from scripts.client import AsyncClient, Client, Unreachable, Untrusted
from tests.scripts.client.conftest import BOTH, closed, value
from tests.scripts.client.scripted import EMBEDDED, scripted

Kind = type[Client] | type[AsyncClient]


@dataclass(frozen=True)
class Files:
    """A certificate that vouches for itself, and its key."""

    certificate: Path
    key: Path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "candor")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Files(folder / "certificate.pem", folder / "key.pem")
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made


def served(files: Files, *, asks: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    if asks:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(files.certificate)
    return context


@BOTH
async def test_only_a_certificate_that_is_trusted_will_do(kind: Kind, files: Files) -> None:
    with scripted(EMBEDDED, context=served(files)) as server:
        wary = kind(server.url)
        with pytest.raises(Untrusted, match="not trusted"):
            await value(wary.embed(b"x"))
        await closed(wary)
        assert server.heard == []
        own = ssl.create_default_context(cafile=files.certificate)
        for verify in (files.certificate, str(files.certificate), own, False):
            client = kind(server.url, verify=verify)
            assert (await value(client.embed(b"x"))).percentile == 0.25
            await closed(client)


@BOTH
async def test_a_server_may_ask_for_a_certificate(kind: Kind, files: Files) -> None:
    with scripted(EMBEDDED, context=served(files, asks=True)) as server:
        nobody = kind(server.url, verify=files.certificate, retries=0)
        with pytest.raises(Unreachable):
            await value(nobody.embed(b"x"))
        await closed(nobody)
        known = kind(server.url, verify=files.certificate, cert=(files.certificate, files.key))
        assert (await value(known.embed(b"x"))).percentile == 0.25
        await closed(known)

"""Where a collection is: URLs, logins and certificates."""

from pathlib import Path
from typing import Any

import pytest

from service.gallery.base import GalleryError
from service.gallery.milvus.address import client_arguments, parse_address
from service.gallery.options import EngineOptions

PLAIN = EngineOptions()
CA, CERTIFICATE, KEY = Path("ca.pem"), Path("client.pem"), Path("client.key")


def test_a_url_is_read_in_full() -> None:
    address = parse_address("milvus://me%40here:s%2Fcret@db.example:1234/archive/items", PLAIN)
    assert (address.host, address.port, address.database, address.collection) == (
        "db.example",
        1234,
        "archive",
        "items",
    )
    assert (address.user, address.password) == ("me@here", "s/cret")
    arguments = client_arguments(address, PLAIN)
    assert arguments["uri"] == "http://db.example:1234"
    assert (arguments["db_name"], arguments["user"], arguments["password"]) == ("archive", "me@here", "s/cret")


def test_port_database_and_login_may_be_left_out() -> None:
    address = parse_address("milvus://localhost/items", PLAIN)
    assert (address.port, address.database, address.collection) == (19530, "", "items")
    assert "user" not in client_arguments(address, PLAIN)


def test_the_login_of_the_options_is_taken_in_place_of_the_urls() -> None:
    address = parse_address("milvus://a:b@localhost/items", EngineOptions(user="c", password="d"))
    assert (address.user, address.password) == ("c", "d")


def test_no_password_is_shown() -> None:
    address = parse_address("milvus://me:hidden@localhost/items", PLAIN)
    assert "hidden" not in repr(address)
    assert address.location == "milvus://localhost:19530/items"


@pytest.mark.parametrize(
    "location",
    [
        "milvus://localhost",
        "milvus://localhost/",
        "milvus:///items",
        "milvus://me:hidden@localhost:port/items",
        "milvus://me:hidden@localhost/a/b/c",
        "milvus://me:hidden@localhost/has-a-dash",
        "milvus://me:hidden@localhost/1st",
        "milvus://me:hidden@localhost/items?a=b",
        f"milvus://localhost/{'x' * 256}",
    ],
)
def test_what_is_no_address_is_refused(location: str) -> None:
    with pytest.raises(GalleryError, match="milvus://") as refused:
        parse_address(location, PLAIN)
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"secure": False}),
        ({"tls": False}, {"secure": False}),
        ({"tls": True}, {"secure": True}),
        ({"tls": True, "ca": CA}, {"secure": True, "server_pem_path": "ca.pem"}),
        (
            {"tls": True, "ca": CA, "certificate": CERTIFICATE, "key": KEY},
            {
                "secure": True,
                "ca_pem_path": "ca.pem",
                "client_pem_path": "client.pem",
                "client_key_path": "client.key",
            },
        ),
    ],
    ids=["unsaid", "plain", "system", "authority", "both sides"],
)
def test_certificates_reach_the_client(options: dict[str, Any], expected: dict[str, Any]) -> None:
    given = EngineOptions(**options)
    arguments = client_arguments(parse_address("milvus://localhost/items", given), given)
    names = ("secure", "server_pem_path", "ca_pem_path", "client_pem_path", "client_key_path")
    assert {name: arguments[name] for name in names if name in arguments} == expected


@pytest.mark.parametrize(
    "options", [{"ca": CA}, {"tls": True, "certificate": CERTIFICATE, "key": KEY}, {"tls": True, "ca": CA, "key": KEY}]
)
def test_certificates_that_would_not_be_used_are_refused(options: dict[str, Any]) -> None:
    given = EngineOptions(**options)
    with pytest.raises(GalleryError, match="certificate"):
        client_arguments(parse_address("milvus://localhost/items", given), given)

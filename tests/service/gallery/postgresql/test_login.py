"""Logging in: which credentials and certificates count, and that what is refused says why without telling secrets."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from service.gallery.base import GalleryError, GalleryUnavailable
from service.gallery.options import EngineOptions
from tests.service.gallery.oracle import item, same_item
from tests.service.gallery.postgresql.opened import open_postgres
from tests.service.gallery.postgresql.tls import Certificates, make_certificates, tls_in_front
from tests.service.gallery.servers.postgresql import PASSWORD, USER, PostgresPlace


def with_login(location: str, user: str, password: str) -> str:
    return location.replace("://", f"://{user}:{quote(password, safe='')}@")


async def works(location: str, options: EngineOptions) -> None:
    gallery = await open_postgres(location, options)
    await gallery.upsert([item("a")])
    assert same_item(await gallery.get("a"), item("a"))
    await gallery.close()


async def refusal(location: str, options: EngineOptions) -> str:
    with pytest.raises(GalleryError) as refused:
        await open_postgres(location, options)
    assert not isinstance(refused.value, GalleryUnavailable)
    return str(refused.value)


async def test_the_login_may_be_in_the_url_and_the_options_replace_it(location: str) -> None:
    await works(with_login(location, USER, PASSWORD), EngineOptions())
    await works(with_login(location, "nobody", "wrong"), EngineOptions(user=USER, password=PASSWORD))
    await works(with_login(location, USER, "wrong"), EngineOptions(password=PASSWORD))


async def test_a_wrong_login_is_refused_and_the_password_not_told(location: str) -> None:
    for user, password in ((USER, "not it"), ("nobody", "not it")):
        told = await refusal(location, EngineOptions(user=user, password=password))
        for part in ("127.0.0.1", user, "login", "CANDOR_GALLERY_PASSWORD"):
            assert part in told
        assert password not in told


async def test_a_database_that_is_not_there_is_named(place: PostgresPlace, location: str) -> None:
    told = await refusal(location.replace("/candor?", "/nowhere?"), place.options)
    assert "nowhere" in told
    assert "create it" in told


@pytest.mark.parametrize("password", ["123#456", "xyz#456", "xyz/456", "123/456", "123?456", "xyz?456", "xyz[456"])
async def test_a_url_that_cannot_be_read_is_not_repeated(password: str) -> None:
    told = await refusal(f"postgresql://candor:{password}@host/db", EngineOptions())
    assert "cannot be read" in told
    assert not any(part in told for part in ("123", "xyz", "456"))


async def test_an_option_of_the_url_that_makes_no_sense_is_named(location: str) -> None:
    assert "sslmode" in await refusal(f"{location}&sslmode=maybe", EngineOptions())


async def test_a_host_that_does_not_answer_is_named(place: PostgresPlace) -> None:
    with pytest.raises(GalleryUnavailable, match=r"PostgreSQL at 127\.0\.0\.1:1/db"):
        await open_postgres("postgresql://127.0.0.1:1/db", place.options)


async def test_of_several_hosts_one_that_answers_is_enough(place: PostgresPlace, location: str) -> None:
    several = location.replace("://", "://127.0.0.1:1,") + "&target_session_attrs=read-write"
    await works(several, place.options)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


@pytest.fixture
async def encrypted(place: PostgresPlace, location: str, certificates: Certificates) -> AsyncIterator[str]:
    """The location, where it is reached with TLS."""
    async with tls_in_front(place.server.port, certificates) as port:
        yield location.replace(f":{urlsplit(location).port}", f":{port}")


async def test_a_certificate_of_the_given_authority_is_trusted(
    place: PostgresPlace, encrypted: str, certificates: Certificates
) -> None:
    await works(encrypted, replace(place.options, tls=True, ca=certificates.ca))
    await works(encrypted, replace(place.options, ca=certificates.ca))
    await works(encrypted + "&sslmode=require", place.options)


async def test_a_certificate_of_another_authority_or_host_is_refused(
    place: PostgresPlace, encrypted: str, certificates: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = make_certificates(tmp_path / "other")
    for location, ca in (
        (encrypted, other.ca),
        (encrypted, None),
        (encrypted.replace("127.0.0.1", "localhost"), certificates.ca),
    ):
        told = await refusal(location, replace(place.options, tls=True, ca=ca))
        assert "certificate" in told
        assert "CANDOR_GALLERY_CA" in told


async def test_a_server_without_tls_is_not_used_where_tls_is_asked_for(
    place: PostgresPlace, location: str, encrypted: str, certificates: Certificates
) -> None:
    with pytest.raises(GalleryError, match="SSL"):
        await open_postgres(location, replace(place.options, tls=True, ca=certificates.ca))
    with pytest.raises(GalleryError):
        await open_postgres(encrypted, replace(place.options, tls=False))


async def test_a_file_that_is_no_certificate_is_named(place: PostgresPlace, location: str, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("nothing")
    for name in ("missing", "empty"):
        assert name in await refusal(location, replace(place.options, tls=True, ca=tmp_path / name))

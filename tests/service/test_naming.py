"""How settings name bundles and galleries."""

from pathlib import Path

import pytest

from service.naming import fill, gallery_of, read_bundles, read_galleries
from service.places import place_of, shared_places
from service.settings import Settings

HASH = "sha256:0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("bundles/vit", [(None, "bundles/vit")]),
        ("a=x,b=org/name@v1", [("a", "x"), ("b", "org/name@v1")]),
        ("runs/rate=0.1/bundle", [(None, "runs/rate=0.1/bundle")]),
        ("x, b=y", [(None, "x"), ("b", "y")]),
    ],
)
def test_bundles_are_named_or_not(text: str, named: list[tuple[str | None, str]]) -> None:
    assert list(read_bundles(text)) == named


def test_a_folder_that_is_there_is_one_bundle_whatever_its_name(tmp_path: Path) -> None:
    odd = tmp_path / "a,b=c"
    odd.mkdir()

    assert read_bundles(str(odd)) == ((None, str(odd)),)


@pytest.mark.parametrize("text", ["", "a=", "a,,b", "a=x,a=y"])
def test_names_of_nothing_and_names_given_twice_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"names nothing|given twice"):
        read_bundles(text)


def test_the_url_of_a_gallery_may_have_commas() -> None:
    text = "postgresql://one,two/db?search_path=a,b,small=items/small"

    assert read_galleries(text) == {None: "postgresql://one,two/db?search_path=a,b", "small": "items/small"}


@pytest.mark.parametrize(
    ("galleries", "table", "first", "second"),
    [
        ("here", "t", "here", None),
        ("none", "t", None, None),
        ("here,b=there", "t", "here", "there"),
        ("b=there", "t", None, "there"),
        ("{bundle}", "t", "{bundle}", "{bundle}"),
        ("{bundle},b=none", "t", "{bundle}", None),
        ("{hash}", "t", "{hash}", None),
        ("postgresql://h/db", "{bundle}", "postgresql://h/db", "postgresql://h/db"),
        ("here", "{bundle}", "here", None),
    ],
)
def test_a_gallery_belongs_to_whom_it_names(galleries: str, table: str, first: str | None, second: str | None) -> None:
    found = read_galleries(galleries)

    assert gallery_of(found, table, "a", default=True) == first
    assert gallery_of(found, table, "b", default=False) == second


def test_places_are_filled_in_as_the_engine_can_take_them() -> None:
    assert fill("g/{bundle}/{hash}", "vit-s.2", HASH) == "g/vit-s.2/0123456789ab"
    assert fill("g/{bundle}", "../my birds", HASH) == "g/_._my_birds"
    assert fill("milvus://h:1/{bundle}_{hash}", "vit-s.2", HASH) == "milvus://h:1/vit_s_2_0123456789ab"


def test_each_bundle_has_a_file_of_policies() -> None:
    by_folder = Settings(gallery="g/{bundle}")
    by_url = Settings(gallery="s3://bucket/{bundle}")
    named = Settings(gallery="s3://bucket/{bundle}", policies=Path("kept/p.sqlite"))

    def policies(settings: Settings, name: str) -> Path:
        place = place_of(settings, name, HASH, default=name == "a")
        assert place is not None
        return place.policies

    assert [policies(by_folder, name) for name in "ab"] == [Path("g/a/policies.sqlite"), Path("g/b/policies.sqlite")]
    assert [policies(by_url, name) for name in "ab"] == [
        Path("candor-policies.sqlite"),
        Path("candor-policies-b.sqlite"),
    ]
    assert [policies(named, name) for name in "ab"] == [Path("kept/p.sqlite"), Path("kept/p-b.sqlite")]


@pytest.mark.parametrize(
    ("galleries", "table", "shared"),
    [
        ("a=g,b=g", "t", True),
        ("a=g,b=./g", "t", True),
        ("a=g,b=h", "t", False),
        ("postgresql://h/db,b=postgresql://h/db", "t", True),
        ("postgresql://h/db", "{bundle}", False),
    ],
)
def test_a_place_that_two_bundles_would_share_is_found(galleries: str, table: str, shared: bool) -> None:
    settings = Settings(gallery=galleries, gallery_table=table)
    places = {name: place_of(settings, name, HASH, default=name == "a") for name in "ab"}
    found = shared_places({name: place for name, place in places.items() if place is not None})

    assert found == (("a", "b") if shared else None)

"""`candor gallery export` and `import` as typed: what they write, what they refuse, and how they go on when killed."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from models.bundle import Bundle
from service.moving.manifest import at_work, read_manifest
from service.moving.opening import Place
from service.places import place_of
from service.settings import Settings
from tests.service.bundle_factory import make_bundle
from tests.service.gallery.oracle import same_item
from tests.service.moving.commands import candor, contents, fill, killed
from tests.service.moving.exports import parts

MANY = 4000


@pytest.fixture
def settings(bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names the bundle, and a gallery."""
    monkeypatch.setenv("CANDOR_BUNDLE", str(bundle_path))
    monkeypatch.setenv("CANDOR_GALLERY", str(tmp_path / "gallery"))


@pytest.fixture
async def exported(settings: None, bundle: Bundle, tmp_path: Path) -> Path:
    """An export of thirty items in three parts."""
    await fill(tmp_path / "gallery", bundle, 30)
    result = candor("export", "--out", tmp_path / "out", "--part-items", 10)
    assert result.returncode == 0, result.stderr
    return tmp_path / "out"


async def test_a_gallery_of_the_settings_is_exported_and_imported(
    settings: None, bundle_path: Path, bundle: Bundle, tmp_path: Path
) -> None:
    items = await fill(tmp_path / "gallery", bundle, 30)
    out = tmp_path / "new" / "out"
    made = candor("export", "--out", out, "--part-items", 12)
    again = candor("export", "--out", out)
    filled = candor("import", out, "--gallery", tmp_path / "other", "--bundle", bundle_path, CANDOR_BUNDLE="nowhere")

    assert (made.returncode, again.returncode, filled.returncode) == (0, 0, 0), made.stderr + filled.stderr
    assert "30 items in 3 parts" in made.stdout
    assert "holds the whole export already" in again.stdout
    assert "all 30 items" in filled.stdout
    assert "exported 30 of 30 items" in made.stderr
    assert "imported 30 of 30 items" in filled.stderr
    assert all(same_item(*pair) for pair in zip(await contents(tmp_path / "other", bundle), items, strict=True))
    table = pq.read_table(out / "part-000001.parquet")
    assert table.column_names == ["id", "embedding", "uncertainty", "payload"]
    assert table.column("id").to_pylist() == [item.id for item in items[:12]]
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["bundle_hash"] == bundle.hash
    assert [part["items"] for part in manifest["parts"]] == [12, 12, 6]


async def test_an_export_that_is_killed_goes_on_after_its_last_whole_part(
    settings: None, bundle: Bundle, tmp_path: Path
) -> None:
    items = await fill(tmp_path / "gallery", bundle, MANY)
    out = tmp_path / "out"
    arguments = ["export", "--out", out, "--part-items", 100]
    before: dict[str, int] = {}
    for wanted in (1, 12):
        killed(arguments, lambda wanted=wanted: (out / f"part-{wanted:06}.parquet").exists())  # type: ignore[misc]
        whole = read_manifest(out).parts
        assert wanted - 1 <= len(whole) < MANY // 100
        written = {part.name: (out / part.name).stat().st_mtime_ns for part in whole}
        assert written.items() >= before.items()
        before = written
    refused = candor("import", out, "--gallery", tmp_path / "other")
    assert candor(*arguments).returncode == 0

    assert refused.returncode == 1
    assert "not finished" in refused.stderr
    manifest = read_manifest(out)
    assert (manifest.complete, manifest.items) == (True, MANY)
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in out.iterdir()}.items()
    assert not list(out.glob("*.partial"))
    assert candor("import", out, "--gallery", tmp_path / "other").returncode == 0
    assert all(same_item(*pair) for pair in zip(await contents(tmp_path / "other", bundle), items, strict=True))


async def test_an_import_that_is_killed_goes_on_after_its_last_whole_part(
    settings: None, bundle: Bundle, tmp_path: Path
) -> None:
    items = await fill(tmp_path / "gallery", bundle, MANY)
    assert candor("export", "--out", tmp_path / "out", "--part-items", 200).returncode == 0
    state = tmp_path / "state.json"
    arguments = ["import", tmp_path / "out", "--gallery", tmp_path / "other", "--state", state]

    def done() -> int:
        return len(json.loads(state.read_text())["parts"]) if state.exists() else 0

    for wanted in (1, 8):
        killed(arguments, lambda wanted=wanted: done() >= wanted)  # type: ignore[misc]
        assert wanted <= done() < MANY // 200
    so_far = done()
    result = candor(*arguments)

    assert result.returncode == 0, result.stderr
    assert f"{MANY - 200 * so_far:,} of" not in result.stderr
    assert done() == MANY // 200
    assert all(same_item(*pair) for pair in zip(await contents(tmp_path / "other", bundle), items, strict=True))


async def test_a_changed_short_or_missing_part_is_refused_before_anything_is_written(
    exported: Path, tmp_path: Path, bundle: Bundle
) -> None:
    part = exported / "part-000002.parquet"
    whole = part.read_bytes()
    for damaged in (whole[:-1], whole[:100] + bytes([whole[100] ^ 1]) + whole[101:], None):
        part.unlink() if damaged is None else part.write_bytes(damaged)
        result = candor("import", exported, "--gallery", tmp_path / "other")
        assert result.returncode == 1
        assert str(part) in result.stderr
        assert "copy the export again" in result.stderr
        assert "Traceback" not in result.stderr
        assert not (tmp_path / "other").exists()
    part.write_bytes(whole)
    assert candor("import", exported, "--gallery", tmp_path / "other").returncode == 0
    assert len(await contents(tmp_path / "other", bundle)) == 30


def test_the_export_of_another_bundle_is_refused(exported: Path, bundle: Bundle, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "bundle", name="larger", scale=2.0)
    result = candor("import", exported, "--gallery", tmp_path / "other", "--bundle", other)
    assert result.returncode == 1
    for part in ("another bundle", bundle.hash, "larger"):
        assert part in result.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"name": "app", "version": "1.0.0"}', "not a manifest of"),
        ("no JSON", "not a manifest of"),
        (None, "holds no export"),
    ],
)
def test_a_foreign_folder_is_refused(settings: None, tmp_path: Path, text: str | None, message: str) -> None:
    folder = tmp_path / "foreign"
    folder.mkdir()
    (folder / "mine.txt").write_text("dear to me")
    if text is not None:
        (folder / "manifest.json").write_text(text)
    (tmp_path / "gallery").mkdir()
    for result in (candor("import", folder), candor("export", "--out", folder)):
        assert result.returncode == 1
        assert message in result.stderr
        assert "Traceback" not in result.stderr
    made = candor("export", "--out", folder, "--overwrite")
    assert made.returncode == 0, made.stderr
    assert (folder / "mine.txt").read_text() == "dear to me"
    assert read_manifest(folder).complete


def test_a_manifest_that_contradicts_itself_is_refused(exported: Path, tmp_path: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    (exported / "manifest.json").write_text(json.dumps({**manifest, "parts": manifest["parts"][:2]}))
    result = candor("import", exported, "--gallery", tmp_path / "other")
    assert result.returncode == 1
    assert "contradicts itself" in result.stderr


async def test_another_gallerys_export_is_kept_unless_it_may_be_overwritten(
    exported: Path, bundle: Bundle, tmp_path: Path
) -> None:
    await fill(tmp_path / "other", bundle, 5)
    refused = candor("export", "--out", exported, "--gallery", tmp_path / "other")
    assert refused.returncode == 1
    assert "--overwrite" in refused.stderr
    assert read_manifest(exported).items == 30
    made = candor("export", "--out", exported, "--gallery", tmp_path / "other", "--overwrite")
    assert made.returncode == 0, made.stderr
    assert read_manifest(exported).items == 5
    assert parts(exported) == ["part-000001.parquet"]


async def test_a_finished_export_is_made_anew_with_overwrite(exported: Path, bundle: Bundle, tmp_path: Path) -> None:
    await fill(tmp_path / "gallery", bundle, 40)
    assert candor("export", "--out", exported).returncode == 0
    assert read_manifest(exported).items == 30
    assert candor("export", "--out", exported, "--overwrite").returncode == 0
    assert read_manifest(exported).items == 40


def test_a_gallery_that_is_not_there_is_not_made(settings: None, tmp_path: Path) -> None:
    result = candor("export", "--out", tmp_path / "out")
    assert result.returncode == 1
    assert "there is no gallery at" in result.stderr
    assert not (tmp_path / "gallery").exists()


def test_two_at_work_in_one_folder_are_one_too_many(exported: Path, tmp_path: Path) -> None:
    with at_work(exported, writing=False):
        refused = candor("export", "--out", exported, "--overwrite")
        allowed = candor("import", exported, "--gallery", tmp_path / "other")
    assert refused.returncode == 1
    assert "at work in" in refused.stderr
    assert allowed.returncode == 0


def test_settings_that_cannot_be_used_are_told_without_a_traceback(settings: None, tmp_path: Path) -> None:
    (tmp_path / "gallery").mkdir()
    wrong = candor("export", "--out", tmp_path / "out", CANDOR_GALLERY_POOL="none")
    nowhere = candor("export", "--out", tmp_path / "out", "--gallery", "s4://bucket")
    no_bundle = candor("export", "--out", tmp_path / "out", "--bundle", tmp_path)
    for result, message in (
        (wrong, "CANDOR_GALLERY_POOL"),
        (nowhere, "no gallery engine"),
        (no_bundle, "is no bundle"),
    ):
        assert result.returncode == 1
        assert result.stderr.startswith("candor gallery export: ")
        assert message in result.stderr


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("s3://bucket/a", "s3://bucket/a"),
        ("milvus://me:secret@host:19530/photos", "milvus://host:19530/photos"),
        (
            "postgresql://me:secret@a,b/db?password=secret&search_path=mine&sslmode=require",
            "postgresql://a,b/db?search_path=mine (candor_items)",
        ),
    ],
)
def test_a_gallery_is_named_without_secrets(bundle: Bundle, location: str, name: str) -> None:
    place = place_of(Settings(gallery=location), "tiny", bundle.hash, default=True)

    assert place is not None
    assert Place(place, bundle).name == name


def test_a_read_only_export_is_imported_with_a_state_elsewhere(exported: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported, copy)
    state = tmp_path / "missing" / "state.json"
    result = candor("import", copy, "--gallery", tmp_path / "other", "--state", state)
    assert result.returncode == 1
    assert "--state" in result.stderr
    state.parent.mkdir()
    assert candor("import", copy, "--gallery", tmp_path / "other", "--state", state).returncode == 0
    assert sorted(path.name for path in copy.iterdir()) == sorted(path.name for path in exported.iterdir())

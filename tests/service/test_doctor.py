"""`candor doctor` in real situations: what it finds, what it advises, and that it changes nothing."""

import os
import pty
import socket
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

from service import doctor as doctor_module
from service.checks.findings import Finding, Kind, Level
from service.checks.report import as_text, summary
from service.server import listen
from tests.service.bundle_factory import DIMENSION, make_bundle
from tests.service.callers import give_key
from tests.service.examination import Examination, doctor, examine
from tests.service.images import png
from tests.service.process import PATIENCE_S, ready_client, serving
from tests.service.test_process import PNG

FREE = ("--port", "0")


def keys(**given: object) -> dict[str, Finding]:
    """What is found with these settings, the last of each kind, without a process of its own; no variable is set."""
    findings, _ = doctor_module.examine({"port": 0, **given}, {})
    return {finding.kind.key: finding for finding in findings}


def test_a_healthy_setup_is_all_well_and_nothing_is_made(tmp_path: Path) -> None:
    found = examine(*FREE, cwd=tmp_path)

    assert found.code == 0
    assert found.keys("warning", "problem") == set()
    assert found.one("bundle_loaded")["found"].startswith("default at ")
    assert "it runs on " in found.one("graph_runs")["found"]
    assert str(tmp_path / "candor-gallery") in found.one("gallery_to_be_made")["found"]
    assert found.keys("ok") >= {"settings_read", "packages_installed", "device_chosen", "memory_enough", "port_free"}
    assert list(tmp_path.iterdir()) == []


def test_a_gallery_in_use_is_found_as_it_is(bundle_path: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "gallery"
    with serving(bundle_path, gallery) as server, ready_client(server) as client:
        for name in "ab":
            assert client.put(f"/gallery/{name}", content=png(1), headers=PNG).status_code == 200
        port = server.url.rpartition(":")[2]
        found = examine("--bundle", str(bundle_path), "--gallery", str(gallery), "--port", port, cwd=tmp_path)
        assert client.get("/gallery").json()["count"] == 2

    assert found.code == 0, found.output
    assert "2 item(s)" in found.one("gallery_opened")["found"]
    assert "2 of 2" in found.one("gallery_unindexed")["found"]
    assert "index in the background" in found.one("gallery_unindexed")["advice"]
    served = found.one("port_served")
    assert "bundle tiny (sha256:" in served["found"]
    assert "is ready" in served["found"]
    assert "CANDOR_PORT" in served["advice"]


def test_a_stranger_on_the_port_is_a_problem(bundle_path: Path, tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as stranger:
        port = str(stranger.getsockname()[1])
        found = examine("--bundle", str(bundle_path), "--port", port, cwd=tmp_path)

    assert found.code == 1
    assert port in found.one("port_taken")["found"]
    assert "CANDOR_PORT to a free port" in found.one("port_taken")["advice"]


def test_an_address_of_another_machine_is_a_problem(bundle_path: Path, tmp_path: Path) -> None:
    found = keys(bundle=str(bundle_path), gallery=str(tmp_path / "gallery"), host="192.0.2.1", allow_anonymous=True)[
        "address_unusable"
    ]

    assert "192.0.2.1" in found.found
    assert "CANDOR_HOST" in found.kind.advice
    assert found.kind.level is Level.PROBLEM


def test_a_public_address_without_a_key_and_an_unknown_variable_are_warned_of(
    bundle_path: Path, tmp_path: Path
) -> None:
    options = ("--bundle", str(bundle_path), "--host", "0.0.0.0", *FREE)
    found = examine(*options, cwd=tmp_path, CANDOR_GALERY="x", CANDOR_ALLOW_ANONYMOUS="true")

    assert found.code == 0
    assert "CANDOR_API_KEYS" in found.one("public_without_key")["advice"]
    assert "perhaps CANDOR_GALLERY was meant" in found.one("setting_unknown")["found"]
    assert "unset it" in found.one("setting_unknown")["advice"]


def test_a_public_address_that_nobody_decided_on_is_refused(bundle_path: Path, tmp_path: Path) -> None:
    found = examine("--bundle", str(bundle_path), "--host", "0.0.0.0", *FREE, cwd=tmp_path)

    assert found.code == 2
    assert "CANDOR_ALLOW_ANONYMOUS" in found.one("settings_refused")["found"]


def test_keys_are_enough_for_a_public_address(bundle_path: Path, tmp_path: Path) -> None:
    give_key(tmp_path / "keys.txt")
    options = ("--bundle", str(bundle_path), "--host", "0.0.0.0", *FREE)
    found = examine(*options, cwd=tmp_path, CANDOR_API_KEYS=str(tmp_path / "keys.txt"))

    assert found.code == 0
    assert "public_without_key" not in found.findings


def test_several_bundles_are_examined_each_with_its_gallery(bundle_path: Path, tmp_path: Path) -> None:
    other = make_bundle(tmp_path / "other", scale=2.0)
    bundles = ("--bundle", f"one={bundle_path}", "--bundle", f"two={other}", "--bundle", f"three={tmp_path / 'none'}")
    found = examine(*bundles, "--gallery", f"two={tmp_path / 'gallery'}", *FREE, cwd=tmp_path)

    assert found.code == 1
    assert [each["found"].split()[0] for each in found.findings["bundle_loaded"]] == ["one", "two"]
    assert found.one("gallery_none")["found"].startswith("one ")
    assert str(tmp_path / "gallery") in found.one("gallery_to_be_made")["found"]
    assert str(tmp_path / "none") in found.one("bundle_refused")["found"]


def test_bundles_that_one_server_cannot_have_are_a_problem(bundle_path: Path, tmp_path: Path) -> None:
    twice = ("--bundle", str(bundle_path), "--bundle", str(bundle_path))
    found = examine(*twice, "--gallery", "none", *FREE, cwd=tmp_path)

    assert found.code == 1
    assert "two bundles are called 'tiny'" in found.one("bundle_refused")["found"]


def change_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def bundle_problem(folder: Path, cwd: Path) -> Examination:
    found = examine("--bundle", str(folder), "--gallery", str(cwd / "gallery"), *FREE, cwd=cwd)
    assert found.code == 1, found.output
    return found


def test_a_graph_with_a_changed_byte_is_a_problem(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle")
    change_a_byte(folder / "model.onnx")

    refused = bundle_problem(folder, tmp_path).one("bundle_refused")

    assert "is not the graph bundle.json describes" in refused["found"]
    assert "Copy or export the bundle again" in refused["advice"]


def test_a_manifest_of_another_dimension_is_a_problem(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "bundle", dimension=DIMENSION + 1)

    refused = bundle_problem(folder, tmp_path).one("graph_refused")

    assert f"the manifest says {DIMENSION + 1}" in refused["found"]
    assert "export the bundle again" in refused["advice"]


def test_a_folder_without_a_bundle_is_a_problem(tmp_path: Path) -> None:
    refused = keys(bundle=str(tmp_path), gallery=str(tmp_path / "gallery"))["bundle_refused"]

    assert "bundle.json is missing" in refused.found


def test_the_gallery_of_another_bundle_is_a_problem(bundle_path: Path, tmp_path: Path) -> None:
    gallery = tmp_path / "gallery"
    with serving(bundle_path, gallery) as server, ready_client(server):
        pass

    refused = bundle_problem(make_bundle(tmp_path / "other", scale=2.0), tmp_path).one("gallery_refused")

    assert "another bundle" in refused["found"]
    assert "CANDOR_GALLERY" in refused["advice"]


@pytest.mark.parametrize("below", ["", "gallery"])
def test_a_file_where_the_gallery_would_be_is_a_problem(bundle_path: Path, tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("not a folder")
    place = tmp_path / "file" / below

    found = examine("--bundle", str(bundle_path), "--gallery", str(place), *FREE, cwd=tmp_path)

    assert found.code == 1
    assert str(place) in found.one("gallery_read_only")["found"]
    assert "right to write" in found.one("gallery_read_only")["advice"]
    assert "gallery_to_be_made" not in found.findings


def test_a_kind_of_gallery_that_nobody_knows_is_a_problem(bundle_path: Path) -> None:
    refused = keys(bundle=str(bundle_path), gallery="mysql://db/x")["gallery_refused"]

    assert "no gallery engine for mysql://" in refused.found


def test_an_engine_that_is_away_is_a_problem(bundle_path: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    location = f"postgresql://candor:hidden@127.0.0.1:{port}/candor"

    found = examine("--bundle", str(bundle_path), *FREE, cwd=tmp_path, CANDOR_GALLERY=location)

    assert found.code == 1
    assert f"127.0.0.1:{port}" in found.one("gallery_unreachable")["found"]
    assert "Start the engine" in found.one("gallery_unreachable")["advice"]
    assert "hidden" not in found.output


def test_settings_that_cannot_be_used_exit_with_2(tmp_path: Path) -> None:
    found = examine("--port", "many", cwd=tmp_path, CANDOR_THREADS="-1", CANDOR_PRT="1")

    assert found.code == 2
    assert [line["found"].partition(":")[0] for line in found.findings["settings_refused"]] == [
        "CANDOR_PORT",
        "CANDOR_THREADS",
    ]
    assert "docs/settings.md" in found.findings["settings_refused"][0]["advice"]
    assert "perhaps CANDOR_PORT was meant" in found.one("setting_unknown")["found"]


def test_a_device_that_cannot_be_had_is_a_problem_and_the_bundle_is_examined_all_the_same(
    bundle_path: Path, tmp_path: Path
) -> None:
    if "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("the CUDA runtime is installed here")
    found = examine("--bundle", str(bundle_path), "--device", "cuda", *FREE, cwd=tmp_path, NVIDIA_VISIBLE_DEVICES="all")

    told = " ".join(finding["found"] for finding in found.findings["device_missing"])
    assert found.code == 1
    assert "no CUDAExecutionProvider" in told
    assert "candor[gpu]" in told
    assert "--gpus all" in told
    assert "CANDOR_DEVICE=cpu" in found.findings["device_missing"][0]["advice"]
    assert "it runs on cpu" in found.one("graph_runs")["found"]


def test_a_tuning_that_is_kept_is_told_apart_from_one_to_be_measured(bundle_path: Path, tmp_path: Path) -> None:
    options = ("--bundle", str(bundle_path), *FREE)
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "CANDOR_AUTOTUNE": "true"}
    before = examine(*options, cwd=tmp_path, **cache)
    with serving(bundle_path, tmp_path / "gallery", **cache) as server:
        ready = server.event("ready")
    after = examine(*options, cwd=tmp_path, **cache)

    assert "CANDOR_MAX_BATCH" in before.one("tuning_due")["advice"]
    assert f"batches of {ready['max_batch']}" in after.one("tuning_settled")["found"]


def test_more_workers_than_cores_are_warned_of(bundle_path: Path, tmp_path: Path) -> None:
    found = keys(bundle=str(bundle_path), gallery=str(tmp_path / "gallery"), workers=256)

    assert "256 workers" in found["workers_above_cores"].found
    assert {"memory_short", "memory_tight", "memory_enough"} & found.keys()


def test_policies_that_cannot_be_read_are_a_problem(bundle_path: Path, tmp_path: Path) -> None:
    (tmp_path / "policies").write_text("no database at all, but long enough to look like something else" * 20)

    found = examine("--bundle", str(bundle_path), *FREE, cwd=tmp_path, CANDOR_POLICIES=str(tmp_path / "policies"))

    assert found.code == 1
    assert "not a database" in found.one("policies_refused")["found"]
    assert "CANDOR_POLICIES" in found.one("policies_refused")["advice"]


def test_people_read_lines_in_columns_without_colour(bundle_path: Path, tmp_path: Path) -> None:
    done = doctor("--bundle", str(bundle_path), *FREE, cwd=tmp_path)
    lines = done.stdout.splitlines()

    assert done.returncode == 0
    assert "\033" not in done.stdout
    assert lines[0].startswith("settings  ok       ")
    assert any(line.startswith("                   -> ") for line in lines)
    assert lines[-1].endswith("docs/doctor.md explains each")


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_levels_are_coloured_on_a_terminal_unless_it_is_not_wanted(
    bundle_path: Path, tmp_path: Path, no_color: str, coloured: bool
) -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "service.doctor", "--bundle", str(bundle_path), *FREE],
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": no_color},
        stdout=theirs,
    ) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
        process.wait(PATIENCE_S)
    os.close(ours)

    assert (b"\033[32m" in shown) is coloured
    assert b"docs/doctor.md" in shown


def test_a_package_that_cannot_be_imported_is_a_finding(bundle_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "path" / "onnxruntime"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libsomething.so.1: cannot open shared object file')")

    found = examine("--bundle", str(bundle_path), *FREE, cwd=tmp_path, PYTHONPATH=str(broken.parent))

    told = [finding["found"] for finding in found.findings["check_failed"]]
    assert told
    assert all("libsomething.so.1" in text for text in told)
    assert "packages_installed" in found.findings
    assert found.code == 0


def test_the_help_says_what_it_does(tmp_path: Path) -> None:
    done = doctor("--help", cwd=tmp_path)

    assert done.returncode == 0
    for option in ("--json", "--bundle", "--gallery", "--device", "--workers", "--host", "--port"):
        assert option in done.stdout


def findings_table() -> str:
    """The table of docs/doctor.md, made from the code."""
    rows = [f"| `{kind.key}` | {kind.level.value} | {kind.meaning} | {kind.advice} |" for kind in Kind]
    return "\n".join(["| finding | level | what it means | what to do |", "|---|---|---|---|", *rows])


def test_the_documented_findings_are_the_codes(repository: Path) -> None:
    documented = (repository / "docs" / "doctor.md").read_text()
    table = "\n".join(line for line in documented.splitlines() if line.startswith("|"))

    assert table == findings_table(), f"docs/doctor.md should hold this table:\n{findings_table()}"


def test_every_finding_that_asks_for_attention_says_what_to_do() -> None:
    assert len({kind.key for kind in Kind}) == len(Kind) > 40
    for kind in Kind:
        assert bool(kind.advice) == (kind.level is not Level.OK), kind
        assert kind.meaning.endswith("."), kind
        assert not kind.advice or kind.advice.endswith("."), kind


def test_every_finding_is_made_somewhere(repository: Path) -> None:
    code = "".join(path.read_text() for path in (repository / "service" / "checks").glob("*.py"))

    for kind in Kind:
        assert f"Kind.{kind.name}" in code, kind


def test_nothing_to_do_is_said() -> None:
    assert summary([]) == "nothing to do"
    assert as_text([], width=None, colour=False).strip() == "nothing to do"

"""The console command: what it lists, how it finds a stage, and what it says when it cannot."""

import ast
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import candor


def write_stage(folder: Path, name: str, body: str) -> candor.Command:
    (folder / f"{name}.py").write_text(body)
    return candor.Command("a-stage", name, "a stage made for a test")


def defines_main(path: Path) -> bool:
    return any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in ast.parse(path.read_text()).body)


def test_help_lists_every_command_and_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        candor.main(["--help"])

    text = " ".join(capsys.readouterr().out.split())
    assert exit_info.value.code == 0
    assert len(candor.COMMANDS) > 5
    for command in candor.COMMANDS:
        assert f"{command.name} {command.summary}" in text


def test_every_stage_is_a_command_and_every_command_has_its_file(repository: Path) -> None:
    folders = ("scripts", "service")
    stages = {
        f"{name}.{path.stem}" for name in folders for path in (repository / name).glob("*.py") if defines_main(path)
    }

    assert {command.module for command in candor.COMMANDS} == stages


def test_a_stage_is_called_after_its_module() -> None:
    for command in candor.COMMANDS:
        name = command.name.replace("-", "_").replace(" ", "_")
        assert command.module in {"service.main", f"scripts.{name}", f"service.{name}"}


def test_two_words_may_name_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    first = write_stage(tmp_path, "first_of_a_group", "def main(argv):\n    print('first', argv)\n")
    second = write_stage(tmp_path, "second_of_a_group", "def main(argv):\n    print('second', argv)\n")
    commands = (candor.Command("group one", first.module, "-"), candor.Command("group two", second.module, "-"))
    monkeypatch.setattr(candor, "COMMANDS", commands)

    candor.main(["group", "one", "two", "--help"])
    candor.main(["group", "two"])

    assert capsys.readouterr().out == "first ['two', '--help']\nsecond []\n"
    with pytest.raises(SystemExit) as helped:
        candor.main(["group", "--help"])
    assert helped.value.code == 0
    assert "group two" in capsys.readouterr().out


def test_version_is_the_one_of_the_package(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    declared = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]

    with pytest.raises(SystemExit) as exit_info:
        candor.main(["--version"])

    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"candor {declared}\n"


@pytest.mark.parametrize("argv", [[], ["no-such-stage"], ["--no-such-option"], ["gallery"], ["gallery", "burn"]])
def test_anything_else_is_a_usage_error(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        candor.main(argv)

    assert exit_info.value.code == 2
    assert "usage: candor" in capsys.readouterr().err


def test_arguments_after_the_command_reach_the_stage_untouched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    stage = write_stage(tmp_path, "echoing_stage", "def main(argv):\n    print(argv)\n")
    monkeypatch.setattr(candor, "COMMANDS", (stage,))

    candor.main(["a-stage", "--help", "--version", "x"])

    assert capsys.readouterr().out == "['--help', '--version', 'x']\n"


@pytest.mark.parametrize(
    ("package", "extra"),
    [("torch.nn", "candor[train]"), ("timm", "candor[train]"), ("onnxruntime", "candor[cpu]")],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(
    package: str, extra: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, package.partition(".")[0], None)
    stage = write_stage(tmp_path, f"stage_without_{package.partition('.')[0]}", f"import {package}\n")

    with pytest.raises(SystemExit) as exit_info:
        candor.run(stage, [])

    assert f"pip install '{extra}'" in str(exit_info.value.code)


def test_a_missing_package_of_no_extra_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    stage = write_stage(tmp_path, "stage_with_a_typing_error", "import no_such_package_anywhere\n")

    with pytest.raises(ModuleNotFoundError, match="no_such_package_anywhere"):
        candor.run(stage, [])


def test_every_package_of_an_extra_is_one_the_extra_installs(repository: Path) -> None:
    extras = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    for package, extra in candor.EXTRAS.items():
        assert any(requirement.startswith(f"{package}>=") for requirement in extras[extra]), package


def test_input_that_can_be_mended_is_told_without_a_traceback(tmp_path: Path) -> None:
    arguments = ["train-head", "--backbone", str(tmp_path / "nowhere"), "--cache", "c", "--out", str(tmp_path / "out")]

    with pytest.raises(SystemExit, match=r"candor train-head: .*nowhere is no backbone: .* make one with"):
        candor.main(arguments)


def test_no_command_lets_the_inference_runtime_report_to_its_maker(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    code = "import candor, sys; sys.argv = ['candor', 'serve', '--bundle', 'nowhere', '--port', '0']; candor.main()"

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**environment, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert "is no bundle" in done.stderr
    assert not cache.exists()

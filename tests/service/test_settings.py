"""Settings: read, refused, and documented."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from models.bundle import DEFAULT_BUNDLE
from models.errors import UserError
from service.main import main, parse_arguments
from service.settings import Settings, SettingsError, read_settings, unknown_variables, variable
from service.starting import check_start


def test_defaults_need_no_environment() -> None:
    settings = read_settings({})

    assert (settings.host, settings.port, settings.bundle) == ("127.0.0.1", 8000, str(DEFAULT_BUNDLE))


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDOR_PORT", "9000")
    monkeypatch.setenv("CANDOR_MAX_BATCH", "7")

    settings = read_settings(parse_arguments(["--port", "9001", "--device", "cpu", "--gallery", "g"]))
    several = read_settings(parse_arguments(["--bundle", "x", "--bundle", "b=y,c=z"]))

    assert (settings.port, settings.max_batch, settings.device, settings.gallery) == (9001, 7, "cpu", "g")
    assert several.bundle == "x,b=y,c=z"


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDOR_API_KEYS", "")

    assert read_settings({}).api_keys is None


def test_passwords_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDOR_GALLERY_PASSWORD", "correct-horse")
    monkeypatch.setenv("CANDOR_TLS_KEY_PASSWORD", "correct-horse")
    monkeypatch.setenv("CANDOR_TLS_CERTIFICATE", "c.pem")
    monkeypatch.setenv("CANDOR_TLS_KEY", "k.pem")

    assert "correct-horse" not in repr(read_settings({}))


def test_origins_are_joined_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANDOR_ALLOWED_ORIGINS", "https://A.example, http://b.example:8080,")

    assert read_settings({}).allowed_origins == {"https://a.example", "http://b.example:8080"}


def test_a_password_comes_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "password"
    file.write_text("correct-horse\n")
    monkeypatch.setenv("CANDOR_GALLERY_PASSWORD_FILE", str(file))

    settings = read_settings({})
    assert settings.engine_options.password == "correct-horse"
    assert "correct-horse" not in repr(settings)

    file.write_text("\n")
    with pytest.raises(SettingsError, match="is empty"):
        read_settings({})

    file.write_text("correct-horse")
    monkeypatch.setenv("CANDOR_GALLERY_PASSWORD", "battery-staple")
    with pytest.raises(SettingsError, match="exclude each other"):
        read_settings({})


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        ({"CANDOR_PORT": "many"}, ["CANDOR_PORT"]),
        ({"CANDOR_PORT": "70000"}, ["CANDOR_PORT"]),
        ({"CANDOR_DEVICE": "tpu"}, ["CANDOR_DEVICE", "'cuda'"]),
        ({"CANDOR_MAX_PERCENTILE": "1.5", "CANDOR_THREADS": "-1"}, ["CANDOR_MAX_PERCENTILE", "CANDOR_THREADS"]),
        ({"CANDOR_MAX_UNCERTAINTY": "nan"}, ["CANDOR_MAX_UNCERTAINTY"]),
        ({"CANDOR_MAX_UNCERTAINTY": "1", "CANDOR_MAX_PERCENTILE": "0.5"}, ["exclude each other"]),
        ({"CANDOR_BUNDLE": "a=x,a=y"}, ["CANDOR_BUNDLE", "'a' is given twice"]),
        ({"CANDOR_GALLERY": "a="}, ["CANDOR_GALLERY", "names nothing"]),
        ({"CANDOR_QUEUE_IMAGES": "8"}, ["CANDOR_MAX_IMAGES_PER_REQUEST", "CANDOR_QUEUE_IMAGES"]),
        ({"CANDOR_API_KEYS": "/nowhere/keys.txt"}, ["/nowhere/keys.txt cannot be read"]),
        ({"CANDOR_ALLOWED_ORIGINS": "*"}, ["CANDOR_ALLOWED_ORIGINS", "'*' is no origin"]),
        ({"CANDOR_ALLOWED_ORIGINS": "https://a.example/"}, ["CANDOR_ALLOWED_ORIGINS", "is no origin"]),
        ({"CANDOR_TLS_CERTIFICATE": "c.pem"}, ["CANDOR_TLS_CERTIFICATE", "CANDOR_TLS_KEY"]),
        ({"CANDOR_TLS_KEY_PASSWORD": "secret"}, ["CANDOR_TLS_KEY_PASSWORD"]),
        ({"CANDOR_GALLERY_PASSWORD_FILE": "/no/such"}, ["CANDOR_GALLERY_PASSWORD_FILE", "/no/such", "cannot be read"]),
    ],
)
def test_bad_values_are_named_without_a_traceback(
    environment: dict[str, str], names: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises((SettingsError, UserError)):
        check_start(read_settings({}))
    with pytest.raises(SystemExit) as exit_:
        main([])

    message = capsys.readouterr().err
    assert exit_.value.code == 2
    assert all(name in message for name in names)
    assert "Traceback" not in message
    assert "secret" not in message


def test_unknown_variables_are_told_with_the_nearest_that_exists() -> None:
    environment = {
        "CANDOR_PRT": "1",
        "CANDOR_PORT": "1",
        "CANDOR_MAX_PERCENTIL": "1",
        "CANDOR_XYZZY_Q": "1",
        "CANDOR_SERVER": "http://127.0.0.1:8000",
        "CANDOR_KEY": "of a client",
        "PATH": "",
    }

    assert unknown_variables(environment) == {
        "CANDOR_PRT": "CANDOR_PORT",
        "CANDOR_MAX_PERCENTIL": "CANDOR_MAX_PERCENTILE",
        "CANDOR_XYZZY_Q": None,
    }


def shown_default(default: Any) -> str:
    if default is None or default is PydanticUndefined or default == frozenset():
        return "none"
    if default == str(DEFAULT_BUNDLE):
        return "the shipped one"
    return f"`{getattr(default, 'value', default)}`"


def settings_table() -> str:
    """The table of docs/settings.md, made from the code."""
    rows = [
        f"| `{variable(name)}` | {shown_default(field.default)} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]
    return "\n".join(["| variable | default | meaning |", "|---|---|---|", *rows])


def test_the_documented_table_is_the_codes(repository: Path) -> None:
    documented = (repository / "docs" / "settings.md").read_text()
    table = "\n".join(line for line in documented.splitlines() if line.startswith("|"))

    assert table == settings_table(), f"docs/settings.md should hold this table:\n{settings_table()}"


def test_every_setting_says_what_it_is_for() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert re.search(r"[.)]$", field.description), name


@pytest.mark.parametrize(("workers", "share"), [(1, 256), (2, 128), (4, 64), (16, 64)])
def test_workers_share_the_queue_and_each_takes_the_largest_request(workers: int, share: int) -> None:
    assert read_settings({"workers": workers}).queue_per_worker == share

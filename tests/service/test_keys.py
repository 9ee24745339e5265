"""API keys: the file that holds them, the commands that change it, and when a change holds."""

import io
import json
import os
import stat
from pathlib import Path

import pytest

from candor import main
from models.errors import UserError
from service.keyring import Keyring
from service.keys import KeyScope, KeysError, digest_of, find_key, new_key, read_keys
from service.keys_remove import remove_key
from service.settings import Settings
from service.telemetry import make_logger
from tests.service.callers import give_key

DIGEST = digest_of(b"one").hex()
OTHER = digest_of(b"other").hex()


def file_of(folder: Path, text: str) -> Path:
    file = folder / "keys.txt"
    file.write_text(text)
    return file


def test_a_file_of_keys_is_read_past_blank_lines_and_comments(tmp_path: Path) -> None:
    text = f"# ours\n\nsearch embed,retrieve {DIGEST}  # the shop\n\tops admin {OTHER.upper()}\n"
    search, ops = read_keys(file_of(tmp_path, text))

    assert (search.name, set(search.scopes)) == ("search", {KeyScope.EMBED, KeyScope.RETRIEVE})
    assert (ops.name, set(ops.scopes)) == ("ops", {KeyScope.ADMIN})
    assert find_key((search, ops), b"one") is search
    assert find_key((search, ops), b"other") is ops
    assert find_key((search, ops), b"another") is None
    assert find_key((), b"one") is None


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("search embed", "expected NAME SCOPES SHA256"),
        ("search embed, retrieve " + OTHER, "expected NAME SCOPES SHA256"),
        ("a/b embed " + OTHER, "a name must be"),
        ("search read " + OTHER, "embed, retrieve, write, admin"),
        ("search , " + OTHER, "embed, retrieve, write, admin"),
        ("search embed candor_key-itself", "64 hexadecimal digits"),
        ("first admin " + OTHER, "there is a key first above"),
        ("search embed " + DIGEST, "search and first are the same key"),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_not_shown(tmp_path: Path, line: str, complaint: str) -> None:
    with pytest.raises(KeysError, match=complaint) as caught:
        read_keys(file_of(tmp_path, f"first embed {DIGEST}\n\n{line}\n"))

    assert "keys.txt, line 3: " in str(caught.value)
    assert "itself" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match=r"keys\.txt cannot be read: No such file"):
        read_keys(tmp_path / "keys.txt")
    (tmp_path / "keys.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(KeysError, match=r"keys\.txt cannot be read"):
        read_keys(tmp_path / "keys.txt")


def test_keys_differ_and_are_long_enough_that_nobody_tries_them_out() -> None:
    keys = {new_key() for _ in range(100)}

    assert len(keys) == 100
    assert all(key.startswith("candor_") and len(key) == len("candor_") + 43 for key in keys)


def test_the_commands_add_list_and_remove(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "keys.txt"
    main(["keys", "add", "search", "--scopes", "retrieve,embed", "--file", str(file)])
    shown = capsys.readouterr()
    key = shown.out.strip()
    main(["keys", "add", "ops", "--scopes", "admin", "--file", str(file)])
    capsys.readouterr()

    assert shown.out == key + "\n"
    assert key not in shown.err
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = find_key(read_keys(file), key.encode())
    assert found is not None
    assert found.name == "search"

    main(["keys", "list", "--file", str(file)])
    assert capsys.readouterr().out == "search\tembed,retrieve\nops\tadmin\n"
    main(["keys", "remove", "search", "--file", str(file)])
    assert [key.name for key in read_keys(file)] == ["ops"]
    assert list(tmp_path.iterdir()) == [file]


def test_a_name_is_given_once_and_only_what_is_there_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    give_key(file, "search")
    before = file.read_text()

    with pytest.raises(UserError, match="has a key search"):
        give_key(file, "search")
    with pytest.raises(UserError, match="has no key other"):
        remove_key(file, "other")
    with pytest.raises(SystemExit, match="a name must be"):
        main(["keys", "add", "a b", "--scopes", "embed", "--file", str(file)])
    with pytest.raises(SystemExit, match="scopes must be some of"):
        main(["keys", "add", "a", "--scopes", "all", "--file", str(file)])
    with pytest.raises(SystemExit, match="cannot be written"):
        main(["keys", "add", "a", "--scopes", "embed", "--file", str(tmp_path / "nowhere" / "keys.txt")])
    assert file.read_text() == before


def test_a_change_keeps_comments_links_and_who_may_read(tmp_path: Path) -> None:
    file = file_of(tmp_path, f"# ours\nfirst embed {DIGEST} # the shop\nsecond embed {OTHER}\n")
    file.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(file)
    remove_key(link, "second")
    give_key(link, "third")

    assert link.is_symlink()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert file.read_text().startswith(f"# ours\nfirst embed {DIGEST} # the shop\nthird ")


class Ring:
    """A keyring and what it logs."""

    def __init__(self, file: Path) -> None:
        self._log = io.StringIO()
        self.keyring = Keyring(file, make_logger(Settings(log_format="json"), self._log))

    def knows(self, key: str) -> bool:
        return self.keyring.find(key.encode()) is not None

    @property
    def events(self) -> list[str]:
        return [json.loads(line)["event"] for line in self._log.getvalue().splitlines()]


def test_a_key_is_good_and_no_longer_from_the_next_request_on(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    one = give_key(file, "one")
    ring = Ring(file)
    assert ring.knows(one)

    two = give_key(file, "two")
    assert ring.knows(two)
    remove_key(file, "one")
    assert not ring.knows(one)
    assert ring.knows(two)
    remove_key(file, "two")
    assert not ring.knows(two)
    assert ring.events == ["API keys read again"] * 3 + ["no API key in the file: nobody may come in"]


def test_a_file_that_breaks_changes_nothing_and_is_told_once(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    key = give_key(file)
    whole = file.read_text()
    ring = Ring(file)

    file.write_text("half a li")
    assert ring.knows(key)
    file.unlink()
    assert ring.knows(key)
    assert ring.knows(key)
    assert ring.events == ["API keys not read again: those of before hold"] * 2
    file.write_text(whole)
    assert ring.knows(key)
    assert ring.events[2:] == ["API keys read again"]


def test_a_file_that_others_may_write_is_warned_about(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    give_key(file)
    assert Ring(file).events == []
    os.chmod(file, 0o666)
    assert Ring(file).events == ["not only its owner may write the file of API keys"]

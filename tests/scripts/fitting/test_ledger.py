import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from scripts.fitting.ledger import Stage, run_stages


class Record:
    """Stages a, b and c, each of which writes its file, and the order in which they ran."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ran = folder, ""
        self.ledger = folder / "stages.json"

    def stage(self, name: str, *arguments: str) -> Stage:
        return Stage(name, self._run(name), arguments, self.folder / name)

    def run(self, b: str = "same", given: str = "weights", stages: str = "abc") -> str:
        self.ran = ""
        run_stages([self.stage(name, b if name == "b" else "same") for name in stages], self.ledger, {"file": given})
        return self.ran

    def _run(self, name: str) -> Callable[[Sequence[str]], None]:
        def run(arguments: Sequence[str]) -> None:
            self.ran += name
            (self.folder / name).write_text(" ".join(arguments))

        return run


@pytest.fixture
def record(tmp_path: Path) -> Record:
    return Record(tmp_path)


def test_what_is_finished_is_not_done_twice(record: Record) -> None:
    assert record.run() == "abc"
    assert record.run() == ""


def test_other_arguments_make_a_stage_and_what_follows_again(record: Record) -> None:
    record.run()

    assert record.run(b="other") == "bc"
    assert record.run(b="other") == ""


def test_a_result_that_is_gone_is_made_again_and_what_follows(record: Record) -> None:
    record.run()
    (record.folder / "b").unlink()

    assert record.run() == "bc"


def test_other_files_to_start_from_make_everything_again(record: Record) -> None:
    record.run()

    assert record.run(given="others") == "abc"


def test_another_list_of_stages_goes_on_where_the_lists_part(record: Record) -> None:
    record.run()

    assert record.run(stages="ac") == "c"
    assert record.run(stages="abc") == "bc"


def test_a_stage_that_failed_is_where_the_next_call_begins(record: Record) -> None:
    def fail(arguments: Sequence[str]) -> None:
        raise RuntimeError("stopped")

    stages = [record.stage("a", "same"), Stage("b", fail, ("same",)), record.stage("c", "same")]
    with pytest.raises(RuntimeError, match="stopped"):
        run_stages(stages, record.ledger, {"file": "weights"})

    assert [each["name"] for each in json.loads(record.ledger.read_text())["stages"]] == ["a"]
    assert record.run() == "bc"


def test_the_ledger_says_how_long_each_stage_took(record: Record) -> None:
    record.run()

    kept = json.loads(record.ledger.read_text())["stages"]
    assert [stage["name"] for stage in kept] == ["a", "b", "c"]
    assert all(stage["seconds"] >= 0 and stage["arguments"] == ["same"] for stage in kept)


def test_the_log_counts_the_stages(record: Record, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="candor"):
        record.run()
        record.run()

    assert [line.split(":")[0] for line in caplog.messages[:3]] == ["== 1/3 a", "== 2/3 b", "== 3/3 c"]
    assert caplog.messages[3] == "== 1/3 a: done before"

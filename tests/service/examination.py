"""`candor doctor` as a process of its own, and what it found."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.service.process import PATIENCE_S


@dataclass(frozen=True)
class Examination:
    """The exit code, the findings by key, and what was written."""

    code: int
    findings: dict[str, list[dict[str, Any]]]
    output: str
    errors: str

    def one(self, key: str) -> dict[str, Any]:
        """The only finding of that kind."""
        (finding,) = self.findings[key]
        return finding

    def keys(self, *levels: str) -> set[str]:
        """Of the findings of these levels."""
        return {key for key, found in self.findings.items() if found[0]["level"] in levels}


def doctor(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command, as a shell runs it."""
    return subprocess.run(
        [sys.executable, "-c", "import candor; candor.main()", "doctor", *arguments],
        cwd=cwd,
        env={**os.environ, "XDG_CACHE_HOME": str(cwd / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def examine(*arguments: str, cwd: Path, **environment: str) -> Examination:
    """`candor doctor --json`, read; nothing else may be written."""
    done = doctor("--json", *arguments, cwd=cwd, **environment)
    assert done.stderr == "", done.stderr
    told = json.loads(done.stdout)
    assert told["exit_code"] == done.returncode
    findings: dict[str, list[dict[str, Any]]] = {}
    for finding in told["findings"]:
        findings.setdefault(finding["finding"], []).append(finding)
    return Examination(done.returncode, findings, done.stdout, done.stderr)

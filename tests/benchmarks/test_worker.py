import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.worker import WorkerDied, worker

PARENT = """
import os
import time
from pathlib import Path
from benchmarks.server_process import launched
from benchmarks.worker import end_on_sigterm, worker

if __name__ == "__main__":
    end_on_sigterm()
    with worker() as busy, launched(["sleep", "60"], os.environ, Path(os.devnull)) as server:
        print(busy.pid, server.pid, flush=True)
        busy.call(time.sleep, 60.0)
"""


def refuse(text: str) -> None:
    raise LookupError(text)


def test_a_worker_answers_raises_and_goes_on() -> None:
    with worker() as other:
        assert other.call(os.getpid) == other.pid != os.getpid()
        with pytest.raises(LookupError, match="not here"):
            other.call(refuse, "not here")
        assert other.call(divmod, 7, 2) == (3, 1)


def test_a_worker_that_dies_is_said_to_have_died() -> None:
    with worker() as other, pytest.raises(WorkerDied, match=str(other.pid)):
        other.call(os._exit, 3)


def test_nothing_outlives_a_benchmark_that_is_told_to_end(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert all(exists(pid) for pid in children)

        parent.send_signal(signal.SIGTERM)

        assert parent.wait(20.0) == 128 + signal.SIGTERM
    deadline = time.monotonic() + 10.0
    while any(exists(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in children if exists(pid)] == []


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cpu_time import PROC, family
from benchmarks.peers.memory import growth, measure
from benchmarks.process_memory import memory_of, watching
from tests.service.bundle_factory import make_bundle
from tests.service.images import jpeg

pytestmark = pytest.mark.skipif(not (PROC / "stat").is_file(), reason="needs Linux's /proc")

MIB = 2**20
HOLD = "import subprocess, sys; held = b'x' * (64 * 2**20); print('held', flush=True); {}"
CHILD = "subprocess.run([sys.executable, '-c', {!r}], stdin=sys.stdin)"


def test_memory_is_that_of_the_whole_tree() -> None:
    inner = HOLD.format("input()")
    code = HOLD.format(CHILD.format(inner))
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        assert [parent.stdout.readline(), parent.stdout.readline()] == ["held\n"] * 2
        with watching(parent.pid, every_s=0.01) as peak:
            held = memory_of(parent.pid)
        assert len(family(parent.pid)) == 2
        assert 2 * 64 * MIB <= held.pss <= held.rss
        assert peak.memory.pss >= held.pss
        parent.communicate("\n")
    assert memory_of(parent.pid).rss == 0


def test_memory_is_sampled_every_so_many_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CANDOR_")]:
        monkeypatch.delenv(name)
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(jpeg(0))

    samples = measure(make_bundle(tmp_path / "tiny"), [photo], requests=50, every=20)

    assert [sample["requests"] for sample in samples] == [0, 20, 40, 50]
    assert all(sample["rss"] >= sample["pss"] > MIB for sample in samples)


def test_growth_is_relative_to_the_first_stretch() -> None:
    samples = [{"requests": n, "rss": rss, "pss": rss / 2} for n, rss in ((0, 50.0), (5, 100.0), (10, 110.0))]

    assert growth(samples) == pytest.approx({"rss_growth": 1.1, "pss_growth": 1.1})

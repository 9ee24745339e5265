"""Counting cores from made-up control groups."""

import os
from pathlib import Path

import pytest

from service.cores import usable_cores


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("files", "membership", "cores"),
    [
        ({}, "", 8),
        ({"cpu.max": "max 100000\n"}, "0::/\n", 8),
        ({"cpu.max": "200000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "150000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "10000 100000\n"}, "0::/\n", 1),
        ({"cpu.max": "9900000 100000\n"}, "0::/\n", 8),
        ({"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, "0::/a/b\n", 3),
        ({"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "400000 100000\n"}, "0::/a/b\n", 3),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, "", 4),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, "", 8),
        (
            {"cpu/x/cpu.cfs_quota_us": "500000\n", "cpu/x/cpu.cfs_period_us": "100000\n"},
            "4:cpuset:/\n3:cpu,cpuacct:/x\n",
            5,
        ),
        ({"cpu.max": "nonsense"}, "0::/\n", 8),
    ],
)
def test_the_tightest_quota_counts(tmp_path: Path, files: dict[str, str], membership: str, cores: int) -> None:
    for name, text in files.items():
        write(tmp_path / "cgroup" / name, text)
    write(tmp_path / "self", membership)

    assert usable_cores(tmp_path / "cgroup", tmp_path / "self") == cores


def test_affinity_counts_where_there_is_no_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)

    assert usable_cores(tmp_path / "nowhere", tmp_path / "nothing") == 2

"""CPU-seconds of processes and of all else on the machine, from Linux's /proc, to its resolution of 10 ms."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

PROC = Path("/proc")


@dataclass(frozen=True)
class Usage:
    """What a stretch of work took: wall-clock seconds, and CPU-seconds of each process watched and of all others."""

    seconds: float
    cpu_seconds: tuple[float, ...]
    other_cpu_seconds: float


def metered(work: Callable[[], Result], *pids: int) -> tuple[Result, Usage]:
    """Do the work, and say what these processes and the rest of the machine used meanwhile."""
    cpu_before, machine_before, started = _cpu_seconds(pids), _machine_cpu_seconds(), time.perf_counter()
    result = work()
    seconds, cpu_after, machine_after = time.perf_counter() - started, _cpu_seconds(pids), _machine_cpu_seconds()
    used = tuple(after - before for before, after in zip(cpu_before, cpu_after, strict=True))
    return result, Usage(seconds, used, max(0.0, machine_after - machine_before - sum(used)))


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process and its descendants, those that have ended and were waited for included."""
    processes = _processes()
    return sum(processes[member][1] for member in _family(pid, processes)) / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> set[int]:
    """A process and its descendants, as they are now; empty where it has ended."""
    return _family(pid, _processes())


def _family(pid: int, processes: dict[int, tuple[int, int]]) -> set[int]:
    members = {pid} & processes.keys()
    found = members
    while found:
        found = {child for child, (parent, _) in processes.items() if parent in members} - members
        members |= found
    return members


def _cpu_seconds(pids: tuple[int, ...]) -> list[float]:
    return [cpu_seconds(pid) for pid in pids]


def _processes() -> dict[int, tuple[int, int]]:
    """Every process that can be seen -> its parent, and the ticks it and the children it has waited for have used."""
    processes = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            text = (folder / "stat").read_text()
        except OSError:  # it ended meanwhile
            continue
        fields = text.rpartition(")")[2].split()  # from the state on: the name before it may hold anything
        processes[int(folder.name)] = (int(fields[1]), sum(map(int, fields[11:15])))
    return processes


def _machine_cpu_seconds() -> float:
    """Seconds that all cores together were not idle, what a hypervisor took from them included."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, (PROC / "stat").read_text().split(maxsplit=9)[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")

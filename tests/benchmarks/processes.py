"""What commands take with all the processes that they start, as Linux counts it. Their own children may have ended."""

import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

TIMES_EVERY, MEMORY_EVERY = 0.05, 0.25
"""Seconds between two looks. What a process used in its last 0.05 s is lost, unless nobody has waited for it yet."""

SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER: descendants whose parents end become children of this process, and are found again."""

TICK = os.sysconf("SC_CLK_TCK")


@dataclass
class Took:
    """passed, processor: seconds; peak: MB of all processes together, what they share counted once; processes: the most
    at one time; lines: what was written on stderr, and when (time.time()); ended: when each command did.
    """

    began: float
    passed: float = 0.0
    processor: float = 0.0
    peak: float = 0.0
    processes: int = 0
    lines: list[tuple[float, str]] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)


def together(commands: Sequence[Sequence[str]], env: dict[str, str]) -> Took:
    """Run commands at the same time to their ends, and those of all their descendants. Raises RuntimeError if one
    fails.
    """
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    took = Took(time.time())
    start = time.perf_counter()
    pipe = subprocess.PIPE
    started = [subprocess.Popen(c, env=env, stdout=subprocess.DEVNULL, stderr=pipe, text=True) for c in commands]
    readers = [threading.Thread(target=_read, args=(one, took)) for one in started]
    for reader in readers:
        reader.start()
    times: dict[tuple[int, str], float] = {}
    looked = 0.0
    running = list(started)
    while running:
        there = _descendants()
        times |= {key: seconds for key, (_, seconds) in there.items()}
        took.processes = max(took.processes, len(there))
        if time.perf_counter() - looked >= MEMORY_EVERY:
            took.peak = max(took.peak, sum(_megabytes(pid) for pid, _ in there))
            looked = time.perf_counter()
        time.sleep(TIMES_EVERY)
        for one in running:
            if one.poll() is not None:
                took.ended.append(time.time())
        running = [one for one in running if one.returncode is None]
    took.passed = time.perf_counter() - start
    while there := _descendants():  # a cluster ends a little later
        times |= {key: seconds for key, (_, seconds) in there.items()}
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        time.sleep(TIMES_EVERY)
    for reader in readers:
        reader.join()
    took.processor = sum(times.values())
    if any(one.returncode for one in started):
        raise RuntimeError(f"{commands}: {(took.lines or [(0.0, 'no message')])[-1][1]}")
    return took


def _read(process: "subprocess.Popen[str]", took: Took) -> None:
    assert process.stderr is not None
    with process.stderr as lines:
        for line in lines:
            took.lines.append((time.time(), line.rstrip()))


def _descendants() -> dict[tuple[int, str], tuple[int, float]]:
    """Of this process, by number and beginning: the parent, and seconds of processor time so far."""
    every: dict[tuple[int, str], tuple[int, float]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
                every[int(entry.name), fields[19]] = int(fields[1]), (int(fields[11]) + int(fields[12])) / TICK
    found = {os.getpid()}
    while more := {pid for (pid, _), (parent, _) in every.items() if parent in found} - found:
        found |= more
    return {key: told for key, told in every.items() if key[0] in found and key[0] != os.getpid()}


def _megabytes(pid: int) -> float:
    """Of memory: pages that several processes share are divided among them."""
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)
    return 0.0

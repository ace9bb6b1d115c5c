"""Resident memory of this process, as Linux counts it, in MB."""

from collections.abc import Callable
from pathlib import Path


def resident() -> float:
    """Now."""
    return _status("VmRSS")


def peak_mb(work: Callable[[], object]) -> float:
    """What `work` takes at most above what there was before it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident()
    work()
    return _status("VmHWM") - before


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))

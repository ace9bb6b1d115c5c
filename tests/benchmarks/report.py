"""What the benchmarks share: their options, their parts of docs/benchmarks.md, tables, and the machine's description.

A part stands between two marks on the page. Writing it replaces what is between them and nothing else.
"""

import argparse
import math
import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from nfinspect_store import kernels

SMALLER = 50
"""How many times fewer tokens or values --quick takes."""


def options(about: str, *, page: bool = True) -> argparse.ArgumentParser:
    """A parser with --quick and, for a benchmark that has a part of the page, --page. about: its docstring."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: to see whether it runs; measures nothing")
    if page:
        parser.add_argument("--page", type=Path, metavar="FILE", help="write its part of this page, too")
    return parser


def tell(name: str, text: str, page: Path | None) -> None:
    """Print a benchmark's part, and put it on the page if there is one."""
    print(text, flush=True)
    if page is not None:
        put(page, name, text)


def put(page: Path, name: str, text: str) -> None:
    """Replace the part `name` of the page. Raises ValueError unless it has both marks once, the first one first."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    whole = page.read_text(encoding="utf-8")
    before, found, rest = whole.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed or whole.count(begin) + whole.count(end) != 2:
        raise ValueError(f"expected {begin} and, after it, {end} in {page}, each once")
    page.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; its first column holds names, the others figures. None is a dash."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: object) -> str:
    return "–" if value is None else str(value).replace("|", "\\|")


def figure(value: float | None) -> str | None:
    """A measured number, with as many digits as it deserves."""
    if value is None or math.isnan(value):
        return None
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def exponent(sizes: Sequence[float], found: Sequence[float]) -> float:
    """Growth over the last two sizes: 1 for a straight line through zero, less where a fixed cost is left."""
    if min(found[-2:]) <= 0:
        return math.nan
    return math.log(found[-1] / found[-2]) / math.log(sizes[-1] / sizes[-2])


def conditions(*, quick: bool) -> str:
    """Where and with what it was measured. Call it first: it tells how busy the machine is."""
    load = os.getloadavg()[0]
    packages = ", ".join(f"{package} {version(package)}" for package in ("duckdb", "numpy", "textual"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    said = (
        f"{os.cpu_count()} processors ({_processor()}), {memory:.0f} GB; {packages}; "
        f"loops {'compiled' if kernels.compiled() else 'in numpy'}; load average before: {load:.1f}."
    )
    return f"**Sizes of --quick: no measurement.** {said}" if quick else said


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())

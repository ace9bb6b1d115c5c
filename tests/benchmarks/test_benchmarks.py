"""Benchmarks that do not run would measure nothing: each does, in small, and writes its own part of the page alone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import put

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"
DRAWN = {"bench_growth": ["growth.svg"], "bench_workers": ["workers.svg"]}
NAMES = sorted(path.stem for path in Path(__file__).parent.glob("bench_*.py"))


def parts(text: str) -> dict[str, str]:
    """The text between marks by the name in them, and what is outside of them by "" ."""
    outside, *rest = text.split("<!-- ")
    found = {"": outside}
    for piece in rest:
        mark, _, after = piece.partition(" -->")
        name, _, kind = mark.partition(": ")
        if kind == "begin":
            found[name] = after
        else:
            found[""] += after
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_runs(name: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    shutil.copy(PAGE, page)
    before = parts(page.read_text(encoding="utf-8"))
    own = name.replace("_", "-")
    writes = ["--page", str(page)] if own in before else []
    done = subprocess.run(
        [sys.executable, "-m", f"tests.benchmarks.{name}", "--quick", *writes],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()
    after = parts(page.read_text(encoding="utf-8"))
    changed = {part for part in before if before[part] != after[part]}
    assert changed == ({own} if writes else set())
    if writes:
        assert "no measurement" in after[own] and "| ---" in after[own]
    assert not [*tmp_path.rglob("*.duckdb")], "no run is left behind"
    drawn = [path.name for path in tmp_path.glob("*.svg")]
    assert drawn == DRAWN.get(name, [])
    assert all((tmp_path / file).stat().st_size < 60_000 for file in drawn)


def test_a_part_replaces_what_was_between_its_marks_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n<!-- y: begin -->\n<!-- y: end -->\n")
    put(page, "x", "new")
    put(page, "x", "newer\n")
    assert page.read_text() == (
        "a\n<!-- x: begin -->\n\nnewer\n\n<!-- x: end -->\nb\n<!-- y: begin -->\n<!-- y: end -->\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- x: begin -->",
        "<!-- x: end --><!-- x: begin -->",
        "<!-- x: begin --><!-- x: end --><!-- x: begin --><!-- x: end -->",
    ],
)
def test_a_page_without_both_marks_once_is_left_alone(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="expected <!-- x: begin -->"):
        put(page, "x", "new")
    assert page.read_text() == text

"""The lines about a capture under way, or about how it ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from nfinspect.present.numbers import duration, percent, size
from nfinspect.tui import cells
from nfinspect.tui.cells import Cell
from nfinspect.tui.glyphs import Glyphs, bar

if TYPE_CHECKING:
    from nfinspect.tui.requests import Standing
    from nfinspect_store.types import Progress

LATE = 10
"""Seconds without news from which the pane says so, and the steps in which they are counted: each is a repaint."""

RESUME = "the same capture command with --resume continues it"


def capture_lines(progress: Progress, width: int, g: Glyphs) -> list[Cell | str]:
    """A bar, and tokens, rate, time left, bytes and process in words."""
    p = progress
    total, share = p.tokens_total, None
    if total:
        share = min(1.0, p.tokens_done / total)
    left = (total - p.tokens_done) / p.tokens_per_second if total and p.tokens_per_second > 0 else None
    pieces: list[Cell | str] = []
    if share is not None:
        wide = max(10, min(60, width - 8))
        pieces += [Cell(cells.fit(bar(share, wide, g), wide), "accent"), f" {percent(share):>6}\n\n"]
    facts = {
        "phase": p.phase,
        "tokens": f"{p.tokens_done:,}" + (f" of {total:,}" if total else ""),
        "rate": f"{p.tokens_per_second:,.0f} tokens/s",
        "time left": f"{duration(left, g)}, {duration(p.updated_at - p.started_at, g)} so far",
        "written": size(p.bytes, g),
        "process": f"{p.pid} on {p.host}",
    }
    for name, fact in facts.items():
        pieces += [Cell(f"{name:<10}", "dim"), Cell(fact), "\n"]
    late = int((time.time() - p.updated_at) // LATE) * LATE
    if not p.alive:
        pieces += ["\n", Cell(f"Process {p.pid} is gone, and the capture with it.", "bad"), f"\n{sentence(RESUME)}\n"]
    elif late:
        pieces += [
            "\n",
            Cell(f"no news for {duration(late, g)}: slow disk, or a process that hangs", "warn"),
            "\n",
        ]
    return pieces


def standing_line(standing: Standing, g: Glyphs) -> Cell:
    """In one line how far the run on screen is, and how much of it is committed, and thus shown."""
    p = standing.progress
    if p is None:
        return Cell(f"the capture is ending {g.dot} shown: {standing.tokens:,} tokens", "accent")
    total, left = p.tokens_total, None
    if total and p.tokens_per_second > 0:
        left = max(0, total - p.tokens_done) / p.tokens_per_second
    done = f"capturing {percent(p.tokens_done / total, places=0)} of {total:,}" if total else "capturing"
    behind = max(0, p.tokens_done - standing.tokens)
    shown = f"shown: {standing.tokens:,}" + (f", {behind:,} not committed yet" if behind else "")
    facts = (f"{done} tokens", f"{p.tokens_per_second:,.0f}/s", f"ETA {duration(left, g)}", shown)
    return Cell(f" {g.dot} ".join(facts), "accent")


def sentence(words: str) -> str:
    return words[:1].upper() + words[1:] + "."

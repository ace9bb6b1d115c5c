"""The lines about a capture under way, or about how it ended."""

from __future__ import annotations

import shlex
import time
from typing import TYPE_CHECKING

from nfinspect.edits import KINDS
from nfinspect.present.numbers import duration, percent, size
from nfinspect.tui import cells
from nfinspect.tui.cells import Cell
from nfinspect.tui.glyphs import Glyphs, bar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfinspect.backend.protocol import JobState, Token
    from nfinspect.tui.captures import Seen
    from nfinspect.tui.requests import Standing
    from nfinspect_store.types import Progress

LATE = 10
"""Seconds without news from which the pane says so, and the steps in which they are counted: each is a repaint."""

RESUME = "the same capture command with --resume continues it"


def capture_lines(progress: Progress, width: int, g: Glyphs) -> list[Cell | str]:
    """What is wrong, if anything is, a bar, and tokens, rate, time left, bytes and process in words."""
    p = progress
    total = p.tokens_total
    left = (total - p.tokens_done) / p.tokens_per_second if total and p.tokens_per_second > 0 else None
    pieces = _bar(p.tokens_done, total, width, g)
    facts = {
        "phase": p.phase,
        "tokens": f"{p.tokens_done:,}" + (f" of {total:,}" if total else ""),
        "rate": f"{p.tokens_per_second:,.0f} tokens/s",
        "time left": f"{duration(left, g)}, {duration(p.updated_at - p.started_at, g)} so far",
        "written": size(p.bytes, g),
        "process": f"{p.pid} on {p.host}",
        **({"edits": p.edits} if p.edits else {}),
    }
    late = int((time.time() - p.updated_at) // LATE) * LATE
    why: list[Cell | str] = []
    if not p.alive:
        why = [Cell(f"Process {p.pid} is gone, and the capture with it.", "bad"), f"\n{sentence(RESUME)}\n\n"]
    elif late:
        why = [Cell(f"no news for {duration(late, g)}: slow disk, or a process that hangs", "warn"), "\n\n"]
    return [*why, *pieces, *_facts(facts)]


def _bar(done: int, total: int | None, width: int, g: Glyphs) -> list[Cell | str]:
    if not total:
        return []
    share, wide = min(1.0, done / total), max(10, min(60, width - 8))
    return [Cell(cells.fit(bar(share, wide, g), wide), "accent"), f" {percent(share):>6}\n\n"]


def _facts(facts: dict[str, str]) -> list[Cell | str]:
    pieces: list[Cell | str] = []
    for name, fact in facts.items():
        pieces += [Cell(f"{name:<10}", "dim"), Cell(fact), "\n"]
    return pieces


def job_lines(seen: Seen, width: int, g: Glyphs) -> list[Cell | str]:
    """A capture as its backend tells of it: how far it is, what it takes, what waits behind it, and what it writes."""
    job, status = seen.job, seen.status
    total = f" of {job.total:,}" if job.total else ""
    phase = job.phase or job.state if job.state == "running" else job.state
    if status is not None and status.state == "loading":
        phase = "loading the model"
    facts = {
        "phase": phase,
        "tokens": f"{job.done:,}{total}",
        "rate": f"{job.rate:,.0f} tokens/s",
        "time left": f"{duration(job.seconds_left, g)}, {duration(int(job.seconds), g)} so far",
        "written": size(job.bytes, g),
    }
    if edits := _edits(job.arguments):
        facts["edits"] = edits
    if status is not None:
        gpu = f", {size(status.device_bytes, g)} on the GPU" if status.device_bytes else ""
        facts["memory"] = f"{size(status.memory_bytes, g)}{gpu}"
        where = f" on {status.device} ({status.dtype})" if status.device else ""
        facts["backend"] = f"{status.id}{where}, process {status.pid}"
        ahead = [one for one in (status.job, *status.queue) if one is not None and one.id < job.id]
        if ahead and job.state == "waiting":
            facts["before it"] = _names(ahead, g)
        if behind := [one for one in status.queue if one.id > job.id]:
            facts["waiting"] = _names(behind, g)
    if job.id <= 0:  # nobody here has seen it before it ended
        from nfinspect.tui.captures import resuming

        facts = {"tokens": f"{job.done:,}"} if job.done else {}
        facts["command"] = shlex.join(("nfinspect", *resuming(job)))
    why: list[Cell | str] = []  # first: a small terminal has room for little else
    if seen.over:
        told = seen.lost or job.line.removeprefix("nfinspect: ") or job.state
        why = [Cell(told, "good" if job.state == "done" else "bad"), "\n\n"]
    elif seen.silent:
        why = [Cell(seen.silent, "warn"), "\n\n"]
    pieces = [*why, *_bar(job.done, job.total, width, g), *_facts(facts)]
    if seen.committed and not why:
        pieces += ["\n", Cell("Enter", "bold"), " browses what is committed.\n"]
    if seen.tokens:
        pieces += ["\n", *_written(seen.tokens, width, g)]
    return pieces


def _edits(words: Sequence[str]) -> str:
    """The edits of a command, as they were typed."""
    from nfinspect.tui.captures import options_of

    options = {**{f"--{kind}": kind for kind in (*KINDS, "direction")}, "--from": "from token"}
    told = []
    for option, value in options_of(words):
        if option in options:
            told.append(f"{options[option]} {value}")
    return "; ".join(told)


def _names(jobs: list[JobState], g: Glyphs) -> str:
    """Jobs in a word each: their command, and its run or model."""
    from nfinspect.tui.captures import value_of

    def name(job: JobState) -> str:
        command, *words = job.arguments or ("",)
        run = value_of(words, "--run") or (words[0] if words else "")
        return f"{command} {cells.model_name(run, g)}".strip()

    return f"{len(jobs)}: " + ", ".join(map(name, jobs[:3])) + (f" {g.more}" if len(jobs) > 3 else "")


TEXT_LINES = 6
"""Of the text that is being written; its end is shown."""


def _written(tokens: tuple[Token, ...], width: int, g: Glyphs) -> list[Cell | str]:
    """The end of the text that is being written, and the strongest neurons at its last token."""
    last = tokens[-1]
    own = [token for token in tokens if token.prompt == last.prompt]
    text = cells.visible_in("".join(token.text for token in own), g)
    room = TEXT_LINES * max(20, width)
    pieces: list[Cell | str] = [Cell(f"prompt {last.prompt}  ", "dim"), Cell(text[-room:]), "\n"]
    if last.strongest:
        found = sorted(last.strongest, key=lambda one: -abs(one[2]))[:6]
        told = "  ".join(f"L{layer}/N{neuron} {value:.2f}" for layer, neuron, value in found)
        pieces += [Cell(f"strongest at {last.site}  ", "dim"), Cell(told, "accent"), "\n"]
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

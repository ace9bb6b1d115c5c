"""The columns of the list of runs, and the lines about the one under the cursor."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from textual.content import Content

from nfinspect.present.numbers import count, duration, percent, size
from nfinspect.tui import cells
from nfinspect.tui.cells import Cell, content
from nfinspect.tui.glyphs import Glyphs, bar
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nfinspect.backend.protocol import Status
    from nfinspect_store.types import RunEntry

TONES = {"complete": "good", "capturing": "accent", "interrupted": "warn", "failed": "bad"}


def share_done(run: RunEntry) -> float | None:
    progress = run.progress
    return progress.tokens_done / progress.tokens_total if progress and progress.tokens_total else None


def run_columns(g: Glyphs) -> list[Column]:
    """The table of runs; all of it fits in 80 cells."""

    def status(run: RunEntry, width: int) -> Cell:
        if run.problem and run.status != "capturing":
            return Cell("unreadable", "bad")
        share = share_done(run)
        if run.kind == "history" and run.progress is not None:
            return Cell(f"step {count(run.progress.tokens_done, g)}", "accent")
        if share is None:
            return Cell(run.status, TONES.get(run.status, ""))
        return Cell(f"{cells.fit(bar(share, 6, g), 6)} {percent(share, places=0):>4}", "accent")

    def model(run: RunEntry, width: int) -> Cell:
        return Cell(f"{'edited ' if run.edits else ''}{cells.model_name(run.model, g)}", "warn" if run.edits else "")

    def created(run: RunEntry, width: int) -> Cell:
        return Cell(run.created_at.strftime("%Y-%m-%d %H:%M") if run.created_at else g.none, "dim")

    return [
        Column("run", 15, lambda r, w: Cell(r.name, "bold"), flex=True, key="name"),
        Column("model", 15, model, flex=True, key="model"),
        Column("status", 11, status),
        Column("tokens", 6, lambda r, w: Cell(count(r.tokens, g)), "right", key="tokens"),
        Column("size", 8, lambda r, w: Cell(size(r.bytes, g)), "right", key="bytes"),
        Column("created (UTC)", 16, created, key="created"),
    ]


def welcome(path: Path, g: Glyphs) -> Content:
    """What an empty store says: what a run is, and what to type to get one."""
    return content(
        Cell("No runs here yet", "bold"),
        Cell(f" ({path})."),
        "\n\n",
        "A run records what every neuron of a model did on every token. ",
        "",
        Cell("c", "bold"),
        " captures one here. In a shell:\n\n",
        Cell("  nfinspect demo", "accent"),
        "\n",
        Cell("      the sample model over the sample concepts, about a minute", "dim"),
        "\n",
        Cell("  nfinspect capture gpt2 --prompts prompts.json", "accent"),
        "\n",
        Cell("      a model of yours: a hub name or a directory", "dim"),
        "\n\n",
        "It appears here by itself, with its progress.  ",
        Cell("?", "bold"),
        " help  ",
        Cell("q", "bold"),
        " quit",
    )


def backend_lines(backends: Sequence[Status], g: Glyphs) -> list[Cell | str]:
    """A line about each backend of the store: what it does, and how far it is."""
    from nfinspect.backend.protocol import makes_a_run

    pieces: list[Cell | str] = []
    for one in backends:
        job, tone = one.job, "accent"
        if job is not None:
            share = f" {percent(job.done / job.total, places=0)}" if job.total else ""
            run = Path(job.run).stem if job.run else ""
            command = " ".join(job.arguments[:1])
            if command == "capture":
                command = "capturing" if makes_a_run(job.arguments) else "estimating"
            words = f"{'paused: ' if job.state == 'paused' else ''}{command} {run}{share}".rstrip()
        elif one.state == "loading":
            words = "loading the model"
        else:
            words, tone = "idle", "dim"
        waiting = f", {len(one.queue)} waiting" if one.queue else ""
        is_shown = any(x is not None and makes_a_run(x.arguments) for x in (job, *one.queue))
        shows = f" {g.dot} p shows it" if is_shown else ""
        pieces += [*(["\n"] if pieces else []), Cell(f"backend {one.id}: {words}{waiting}", tone), Cell(shows, "dim")]
    return pieces


def being_made(run: RunEntry) -> str:
    """Why a run cannot be deleted now, and what to do: it is being written; empty if it is not."""
    alive = run.progress is not None and run.progress.alive
    if run.kind == "history":
        return f"the training {run.name} goes on: end it, then d deletes its history" if alive else ""
    if alive or run.status == "capturing":
        return f"{run.name} is being captured: p shows it, and x there cancels it; then d deletes its run"
    return ""


def is_unfinished(run: RunEntry) -> bool:
    """Whether the capture of a run has ended too soon, and may go on."""
    return run.status in ("interrupted", "failed") and not run.problem and run.kind != "history"


def about_run(run: RunEntry, g: Glyphs, resume: str = "") -> list[Cell | str]:
    """Two lines about a run: its progress, or what is wrong with it, or how it goes on, or where it is. resume: the
    command that goes on with it, if anybody knows.
    """
    progress = run.progress
    if run.kind == "history" and not run.problem:
        words = f"training, step {progress.tokens_done:,}: " if progress is not None else "history of a training: "
        return [Cell(words, "accent"), "Enter shows it\n", Cell(str(run.path), "dim")]
    if progress is not None:
        share = share_done(run)
        left = (progress.tokens_total or 0) - progress.tokens_done
        eta = left / progress.tokens_per_second if share is not None and progress.tokens_per_second > 0 else None
        total = f" of {count(progress.tokens_total, g)}" if progress.tokens_total else ""
        alive = "" if progress.alive else ", its process is gone"
        ago = time.time() - progress.updated_at
        edited = [Cell(f"  edited: {run.edits}", "warn")] if run.edits else []
        late = f", no news for {duration(ago, g)}" if ago > 10 else ""
        return [
            Cell(f"{progress.phase}{alive}{late}", "accent"),
            f"  {count(progress.tokens_done, g)}{total} tokens "
            f"at {progress.tokens_per_second:,.0f}/s, "
            f"ETA {duration(eta, g)}\n",
            Cell(
                f"{size(progress.bytes, g)} so far, process {progress.pid} on {progress.host}",
                "dim",
            ),
            *edited,
        ]
    if run.problem:
        return [Cell(run.problem, "bad")]
    edited = [Cell(f"edited: {run.edits}  ", "warn")] if run.edits else []
    if is_unfinished(run):
        how = "p, then r goes on with it" if resume else "the same capture command with --resume continues it"
        return [Cell(f"{run.status}: {how}", "warn"), "\n", Cell(f"$ {resume}" if resume else str(run.path), "dim")]
    return [Cell(str(run.path), "dim"), "\n", *edited, Cell(run.model, "dim")]

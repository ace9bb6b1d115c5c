"""A capture under way. One that a backend makes is told of by the backend, and can be paused, cancelled and resumed
from here. Of one in a process of its own there is the small file that it keeps next to its run: DuckDB lets no other
process read a file that one writes.
"""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content

from nfinspect.tui.cells import Cell, content
from nfinspect.tui.columns.live import RESUME, capture_lines, job_lines, sentence
from nfinspect.tui.panes.base import Pane
from nfinspect.tui.widgets.text_panel import TextPanel

if TYPE_CHECKING:
    from nfinspect.backend.protocol import Action, JobState
    from nfinspect.tui.captures import JobAt, Seen, Watch
    from nfinspect.tui.engine import Engine
    from nfinspect.tui.session import Session
    from nfinspect_store.types import Progress

SECONDS = 1.0
"""Seconds between two looks: shorter ones would be felt on a slow link."""


class LivePane(Pane):
    """Looks once a second, and draws only what has changed."""

    help_text = (
        "A capture in a backend outlives the app: p pauses it and lets it go on, x cancels it, Enter browses what it "
        "has committed, r goes on with one that was cancelled, has failed, or whose backend was killed. Of a capture "
        "in a process of its own only its progress is known; p pauses this view. When a capture has finished, its run "
        "opens by itself."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pause", "Pause", id="live.pause"),
        Binding("x", "cancel", "Cancel", id="live.cancel"),
        Binding("enter,l", "browse", "Browse", key_display="Enter", id="live.browse"),
        Binding("r", "resume", "Resume", id="live.resume"),
        Binding("y", "copy", "Copy the command", show=False, id="live.copy"),
    ]

    def __init__(self, run: str = "", at: JobAt | None = None, job: JobState | None = None) -> None:
        """run: its name; empty while it has none. at, job: of a capture in a backend."""
        super().__init__("")
        self._run = run
        self._progress: Progress | None = None
        self._paused = self._over = False
        self._watch: Watch | None = None
        self._seen: Seen | None = None
        self._at = at
        self._known = job
        self._drawn: Content | None = None
        self._entitle()

    def _entitle(self) -> None:
        self.crumb = f"{self._run or 'a new run'} (capturing)"

    def compose(self) -> ComposeResult:
        yield TextPanel(id="progress")

    @property
    def hint(self) -> str:
        return "paused" if self._paused else ""

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        seen = self._seen
        match action:
            case "pause":
                return seen is None or not seen.over
            case "cancel":
                return seen is not None and not seen.over
            case "browse":
                return seen is not None and self._readable(seen)
            case "resume":
                return seen is not None and seen.over and seen.job.state != "done" and not self._resuming
        return True

    def why_idle(self, action: str) -> str:
        match action:
            case "pause" | "cancel":
                return "this capture does not run" if self._seen else "it is not known yet how far this is"
            case "browse":
                return "nothing is committed yet: there is nothing to browse"
            case "resume":
                return "only a capture that was cut short can be resumed"
        return super().why_idle(action)

    @property
    def _resuming(self) -> bool:
        return any(work.group == "resumed" for work in self.asked)

    @staticmethod
    def _readable(seen: Seen) -> bool:
        return seen.committed or (seen.over and bool(seen.job.run) and Path(seen.job.run).exists())

    def entered(self) -> None:
        self._over = False
        self.look_every(SECONDS, self._look)
        if self._at is None:  # the file next to the run, before its backend answers
            self.load("beat", partial(self.hub.engine.progress, self._run), self._put_progress)
        self._draw()
        self._look()

    def left(self) -> None:
        super().left()
        self._let_go()

    def on_unmount(self) -> None:
        self._let_go()

    def _let_go(self) -> None:
        if self._watch is not None:
            self.hub.engine.captures.forget(self._watch)
            self._watch = None

    def on_resize(self) -> None:
        self._draw()

    def _look(self) -> None:
        if self._over or len(self.app.screen_stack) > 1 or any(work.group == "progress" for work in self.asked):
            return
        captures = self.hub.engine.captures
        if self._at is not None:
            if self._watch is None:
                self._watch = captures.watch(self._at, self._known)
            asking = f"asking the backend {self._at.backend} how far it is" if self._seen is None else ""
            self.load("progress", self._watch.look, partial(self._looked, self._watch), busy=asking)
        elif not self._paused:
            asking = f"asking how far the capture of {self._run} is"
            found = partial(_found, self.hub.engine, self._run)
            self.load("progress", found, self._show, self._not_answered, busy=asking)

    # a capture in a backend

    def _looked(self, watch: Watch, seen: Seen) -> None:
        if watch is self._watch:  # else this place was left meanwhile
            self._show_job(seen)

    def _show_job(self, seen: Seen) -> None:
        if seen.at != self._at:
            return
        before, self._seen, self._known = self._seen, seen, seen.job
        if seen.run and seen.run != self._run:
            self._run = seen.run
            self._entitle()
        self._paused = seen.job.state == "paused"
        if before is None or _shape(before) != _shape(seen):
            self.refresh_bindings()
            self.hub.update_trail()
        self._draw()
        if not seen.over:
            return
        self._over = True
        self._let_go()
        if seen.job.state == "done" and seen.run:
            self._open()
        else:
            self.hub.say(self._what_next(seen), "warn" if seen.job.state == "cancelled" else "bad")

    def _what_next(self, seen: Seen) -> str:
        """Why it has ended stands in the panel."""
        from nfinspect.tui.captures import LIMIT

        more = f" with {LIMIT} {seen.needed}" if seen.needed else ""
        return f"not all was captured; {self.key('resume')} resumes it here{more}"

    def _open(self) -> None:
        opened = partial(self.hub.engine.open, self._run)
        self.load("opened", opened, self._opened, self._not_opened, busy=f"opening {self._run}")

    # a capture in a process of its own

    def _put_progress(self, progress: Progress | None) -> None:
        if progress is not None:
            self._progress = progress
            self._draw()

    def _not_answered(self, line: str) -> None:
        self.hub.say(line, "bad", of=(id(self), "silence"))

    def _show(self, found: JobAt | Seen | Progress | None) -> None:
        from nfinspect.tui.captures import Seen
        from nfinspect_store.types import Progress

        self.hub.over((id(self), "silence"))
        if isinstance(found, Seen):
            self._at = found.at
            self._show_job(found)
        elif found is None:  # the capture has deleted its file: it has ended, in one way or another
            self._over = True
            self._open()
        elif isinstance(found, Progress):
            self._put_progress(found)
        else:
            self._at = found
            self._look()

    def _opened(self, session: Session) -> None:
        status, here = session.info.status, self.hub.pane is self
        self.hub.opened(session, show=here)
        if status != "complete" and here and not session.under_way:
            self.hub.say(f"{session.name} is {status}: {RESUME}", "warn", keep=True)

    def _not_opened(self, line: str) -> None:
        self.say_failed(line)
        pieces = [Cell(f"The capture of {self._run} has ended, and saved no run.", "bad")]
        self.query_one(TextPanel).put(content(*pieces, f"\n{sentence(line)}\n"))

    def _draw(self) -> None:
        width, seen = self.size.width - 4, self._seen
        if seen is None and self._at is not None and self._known is not None:
            from nfinspect.tui.captures import Seen

            seen = Seen(self._at, self._known)
        if seen is not None:
            shown = content("\n", *job_lines(seen, width, self.glyphs))
        elif self._progress is not None:
            shown = content("\n", *capture_lines(self._progress, width, self.glyphs))
        else:
            return
        if self._drawn is None or (shown.plain, shown.spans) != (self._drawn.plain, self._drawn.spans):
            self._drawn = shown
            self.query_one(TextPanel).put(shown)

    # keys

    def action_pause(self) -> None:
        if self._seen is not None:
            self._act("go on" if self._paused else "pause")
            return
        self._paused = not self._paused
        self.hub.say("this view is paused, the capture goes on; p follows it again" if self._paused else "", "dim")
        self.hub.update_trail()
        self._look()

    def _act(self, action: Action) -> None:
        if (at := self._at) is not None:
            self.load("act", partial(self.hub.engine.captures.act, at, action), self._acted)

    def _acted(self, job: JobState) -> None:
        if not job.ended:
            said = {"paused": "the capture pauses after this batch; p lets it go on", "running": ""}
            self.hub.say(said.get(job.state, f"the job is {job.state}"), "dim")
        self._look()

    def action_cancel(self) -> None:
        from nfinspect.tui.dialogs import Confirm

        def answered(yes: bool | None) -> None:
            if yes:
                self._act("cancel")
                self.hub.say("the capture is being cancelled: it finishes its batch and commits", "dim")

        waits = self._seen is not None and self._seen.job.state == "waiting"
        then = "It has not begun." if waits else "What it has read is kept, and can be resumed."
        question = f"Cancel the capture of {self._run or 'a new run'}? {then}"
        self.app.push_screen(Confirm(question), answered)

    def action_copy(self) -> None:
        """The command that goes on with a capture that has ended too soon; of another one the command that made it."""
        from nfinspect.tui.captures import resuming

        seen = self._seen
        if seen is None or not seen.job.arguments:
            self.hub.say("the command of this capture is not known here", "dim")
            return
        over = seen.over and seen.job.state != "done"
        words = resuming(seen.job) if over else seen.job.arguments
        self.hub.copy(shlex.join(("nfinspect", *words)))

    def action_browse(self) -> None:
        self.hub.open_run(self._run)

    def action_resume(self) -> None:
        """Go on in a backend of its model: a new one, if that was killed."""
        seen = self._seen
        if seen is None or self._resuming:
            return
        from nfinspect.tui.captures import FROM_FILE, LIMIT, resuming

        if seen.job.id != FROM_FILE and not seen.needed:
            self._resume(seen)
            return
        from nfinspect.tui.dialogs import Confirm

        line = shlex.join(("nfinspect", *resuming(seen.job)))
        of_file, limit = (
            "Run what the file of this run says?",
            f"Go on with {LIMIT} {seen.needed}, enough for all of it?",
        )
        asked = of_file if seen.job.id == FROM_FILE else limit
        self.app.push_screen(Confirm(f"{asked} {line}"), lambda yes: self._resume(seen) if yes else None)

    def _resume(self, seen: Seen) -> None:
        from nfinspect.tui.captures import resuming

        self.hub.release_unfinished()
        captures = self.hub.engine.captures

        def resumed() -> tuple[JobAt, JobState]:
            return captures.begin(resuming(seen.job), Path(seen.job.directory))

        self.load("resumed", resumed, self._resumed, self._not_resumed, busy="starting a backend", lasting=True)
        self.refresh_bindings()

    def _not_resumed(self, line: str) -> None:
        self.say_failed(line)
        self.refresh_bindings()

    def _resumed(self, begun: tuple[JobAt, JobState]) -> None:
        self._let_go()  # of the job before, if this place was left and entered again meanwhile
        self._at, self._known = begun
        self._seen, self._over = None, False
        self.hub.say("")
        self.refresh_bindings()
        self._look()


def _found(engine: Engine, run: str) -> JobAt | Seen | Progress | None:
    """In a worker: the job of a run in a backend, what is known of one that has ended too soon, or else how far its
    capture says that it is. Raises NotAnswering.
    """
    progress = engine.progress(run)
    at = engine.captures.of_run(run) if progress is not None else None
    return at or engine.captures.left(run) or progress


def _shape(seen: Seen) -> tuple[object, ...]:
    """What the keys and the breadcrumbs depend on."""
    return seen.over, seen.committed, seen.job.state, seen.run, bool(seen.silent)

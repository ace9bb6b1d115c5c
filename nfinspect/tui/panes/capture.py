"""A new capture: its fields, the command that they make, and its estimate before it starts.

It is made by the backend of its model, which is started if there is none, and outlives the app.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.suggester import Suggester
from textual.widget import Widget
from textual.widgets import Input, Static, TextArea

from nfinspect.tui import capture_form
from nfinspect.tui.capture_form import FIELDS, MODEL, TYPED, Field
from nfinspect.tui.cells import Cell, content
from nfinspect.tui.output import prompts_folder
from nfinspect.tui.panes.base import Pane
from nfinspect.tui.panes.command import Runner
from nfinspect.tui.widgets.headline import Headline
from nfinspect.tui.widgets.text_block import TextBlock
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.backend.protocol import JobState as BackendJob
    from nfinspect.tui.captures import JobAt
    from nfinspect.tui.engine import Engine
    from nfinspect.tui.jobs import Job
    from nfinspect.tui.requests import JobState

KEY = ("a new run", "estimate")
"""Of the estimate, as on the board of commands."""


NOTE = "NOTE "
"""What a warning in a printed estimate begins with."""


class Paths(Suggester):
    """Completes the path that is being typed; Right takes it."""

    def __init__(self, field: Field) -> None:
        super().__init__(use_cache=False, case_sensitive=True)
        self._field = field

    async def get_suggestion(self, value: str) -> str | None:
        return await asyncio.to_thread(capture_form.completed, self._field, value)


class Prompts(TextArea):
    """Prompts that are typed; from their first and last line the arrows lead to the other fields."""

    def action_cursor_up(self, select: bool = False) -> None:
        if self.cursor_at_first_line and not select:
            self.screen.focus_previous()
        else:
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        if self.cursor_at_last_line and not select:
            self.screen.focus_next()
        else:
            super().action_cursor_down(select)


class CommandLine(Headline, inherit_bindings=False):
    """The command that the fields make; with the keys on it, it is copied, edited or started."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "start", "Start", key_display="Enter", id="capture.enter"),
        Binding("y", "copy", "Copy", id="capture.copy"),
        Binding("e", "edit", "Edit", id="capture.edit"),
        Binding("k,up", "app.focus_previous", "Up", show=False, id="capture.up_from_command"),
    ]

    def allow_focus(self) -> bool:
        return True

    def action_start(self) -> None:
        _pane_of(self).action_start()

    def action_copy(self) -> None:
        _pane_of(self).copy_command()

    def action_edit(self) -> None:
        _pane_of(self).edit_command()


def _pane_of(widget: Widget) -> CapturePane:
    return next(node for node in widget.ancestors if isinstance(node, CapturePane))


class CapturePane(Pane):
    """Fields that are typed; every change changes the command. What was typed is kept when the pane is left."""

    help_text = (
        "Tab, Enter and the arrows go from field to field; ^o offers what a field can be, Right completes a path. The "
        "command below is what the fields make: Tab down to it, then y copies and e edits it. ^r estimates tokens, "
        "bytes and time; ^r again starts the capture in a backend, which is started if none holds the model. It goes "
        "on when the app ends. What is typed is kept until a capture has started."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r,f5", "start", "Estimate, then start", key_display="^r", id="capture.start"),
        Binding("ctrl+o,f2", "choose", "Choose", key_display="^o", id="capture.choose"),
        Binding("down", "app.focus_next", "Next field", show=False, id="capture.next"),
        Binding("up", "app.focus_previous", "Previous field", show=False, id="capture.previous"),
    ]

    DEFAULT_CSS = """
    CapturePane #fields { height: 1fr; max-height: 11; overflow-y: auto; scrollbar-size-vertical: 1; }
    CapturePane .row { height: 1; }
    CapturePane .label { width: 12; padding: 0 1; color: $text-muted; }
    CapturePane Input, CapturePane Input:focus { border: none; height: 1; padding: 0; width: 1fr; }
    CapturePane Input:focus, CapturePane TextArea:focus { background: $bar; }
    CapturePane #typed-row { height: 2; }
    CapturePane TextArea, CapturePane TextArea:focus { border: none; height: 2; padding: 0; width: 1fr; }
    CapturePane CommandLine { height: auto; max-height: 5; margin: 1 0 0 0; padding: 0 1; }
    CapturePane CommandLine:focus { background: $bar; }
    CapturePane #about { height: auto; max-height: 4; padding: 0 1; }
    CapturePane.-shorter CommandLine { max-height: 1; margin: 0; }
    """

    def __init__(self, fields: Mapping[str, str] | None = None) -> None:
        """fields: what is typed already; a model alone goes with what was typed before."""
        super().__init__("new capture")
        self._first = dict(fields or {})
        self._edited: tuple[str, ...] | None = None
        """The command as it was edited, until a field is changed."""

        self._estimated: tuple[str, ...] | None = None
        """The command whose estimate is on screen."""

        self._asked_for: tuple[str, ...] = ()
        self._read: dict[str, tuple[int, ...]] = {}
        """The files that were estimated, as `file_state` tells of them."""

        self._said = Cell("")
        self.runner = Runner(self, KEY, self._draw)

    def compose(self) -> ComposeResult:
        typed = {**({} if self._first.keys() - {MODEL} else self.hub.typed_capture), **self._first}
        with Vertical(id="fields"):
            for field in FIELDS:
                with Horizontal(classes="row", id=f"{_id(field)}-row"):
                    yield Static(field.name, classes="label", markup=False)
                    yield _typed_into(field, typed.get(field.name, ""))
        yield CommandLine(id="command")
        yield Headline(id="about")

    def on_mount(self) -> None:
        self.hub.typed_capture = self.values
        self._draw()

    def entered(self) -> None:
        self._draw()

    @property
    def hint(self) -> str:
        return str(self.hub.engine.store)

    # what is asked for

    @property
    def values(self) -> dict[str, str]:
        """What stands in the fields."""
        found = {}
        for field in FIELDS:
            widget = self.query_one(f"#{_id(field)}")
            found[field.name] = widget.text if isinstance(widget, TextArea) else getattr(widget, "value", "")
        return found

    def command(self) -> tuple[str, ...]:
        """Raises RequestError."""
        if self._edited is not None:
            return self._edited
        return capture_form.command(self.values, self.hub.engine.store, prompts_folder())

    def _readable(self) -> tuple[str, ...] | None:
        """The command; None for fields that make none, and why is said."""
        try:
            return self.command()
        except RequestError as error:
            self._say(str(error), "bad")
            return None

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        self._changed()

    def on_text_area_changed(self, event: TextArea.Changed) -> None:
        event.stop()
        self._changed()

    def _changed(self) -> None:
        typed = self.values
        if typed != self.hub.typed_capture:
            self.hub.typed_capture = typed
            self._edited, self._estimated, self._said = None, None, Cell("")
        self._draw()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.screen.focus_next()

    def _draw(self) -> None:
        if not self.is_attached:
            return
        try:
            line = shlex.join(("nfinspect", *self.command()))
            said = self._said
        except RequestError as error:
            line, said = "nfinspect capture", Cell(str(error), "bad")
        edited = Cell("(edited) ", "dim") if self._edited is not None else ""  # first: the end may have no room
        self.query_one("#command", CommandLine).put(content(edited, Cell(line, "accent")))
        state = self.runner.state
        if state is not None:
            said = Cell(f"estimating{self.glyphs.more} {state.line}", "dim")
        elif not said.text:
            said = Cell("^r estimates tokens, bytes and time; again starts it", "dim")
        self.query_one("#about", TextBlock).put(content(said))

    def _say(self, text: str, tone: str) -> None:
        self._said = Cell(text, tone)
        self._draw()

    # keys

    def copy_command(self) -> None:
        if (command := self._readable()) is not None:
            self.hub.copy(shlex.join(("nfinspect", *command)))

    def edit_command(self) -> None:
        self.hub.typed_capture = self.values  # news of a field that is still on its way must not undo the edit
        if (command := self._readable()) is not None:
            self.hub.ask(self, "command", "nfinspect", self._put_edited, shlex.join(command))

    def _put_edited(self, text: str) -> None:
        try:
            self._edited = tuple(capture_form.words_of(text)) or None
        except RequestError as error:
            self._say(f"{error}; Up recalls the line", "bad")
            return
        self._estimated, self._said = None, Cell("")
        self._draw()

    def action_choose(self) -> None:
        focused = self.screen.focused
        field = next((one for one in FIELDS if focused is not None and focused.id == _id(one)), FIELDS[0])
        line = self.query_one(f"#{_id(field)}")
        if not isinstance(line, Input):
            return
        text = line.value
        self.load("options", partial(_options, self.hub.engine, field, text), partial(self._offer, field))

    def _offer(self, field: Field, options: list[str]) -> None:
        if self.hub.pane is not self:
            return
        line = self.query_one(f"#{_id(field)}", Input)
        if not options:
            self.hub.say(f"there is nothing to choose from for {field.name}: type it", "dim")
            return

        def taken(option: str) -> None:
            line.value = capture_form.chosen(field, line.value, option)
            line.cursor_position = len(line.value)
            if capture_form.is_open_folder(field, option):
                self.action_choose()

        self.pick(field.name, options, line.value or None, taken, width=70)

    def cancel_work(self) -> bool:
        return self.runner.cancel() or super().cancel_work()

    def action_start(self) -> None:
        """Estimate what the fields ask for; if its estimate is on screen, start it."""
        if self.runner.under_way or self.busy_with:
            starting = any(work.group == "begin" for work in self.busy_with)
            cause = (id(self), "begin") if starting else KEY
            what = "its backend is being started" if starting else "it is being estimated; ^c cancels"
            self.hub.say(what, "dim", of=cause)
            return
        if (command := self._readable()) is None:
            return
        there = [run.name for run in self.hub.listed]
        if missing := capture_form.lacks(command) or capture_form.is_taken(command, there):
            self._say(missing, "warn")
        elif command == self._estimated:
            self._start(command)
        else:
            self._estimate(command)

    def _estimate(self, command: tuple[str, ...]) -> None:
        engine, typed = self.hub.engine, self.values[TYPED]
        self._asked_for = command

        def start() -> Job:
            if typed.strip():
                capture_form.write_prompts(typed, prompts_folder())
            self._read = capture_form.read_files(command)
            return engine.start(engine.captures.estimating(command, Path.cwd()))

        self.runner.start(start, self._estimate_ended, partial(self._say, tone="bad"), key=KEY, busy="estimating")

    def job_news(self, state: JobState) -> None:
        self._draw()

    def _estimate_ended(self, state: JobState) -> None:
        if state.status != 0:
            self._say(
                "the estimate was cancelled" if state.cancelled else state.line, "warn" if state.cancelled else "bad"
            )
            return
        printed = self.hub.board.printed.pop(KEY, "")
        facts = [" ".join(line.split()) for line in printed.splitlines() if line.strip()]
        notes = [fact.removeprefix(NOTE) for fact in facts if fact.startswith(NOTE)]
        told = f" {self.glyphs.dot} ".join([*notes, *(fact for fact in facts if not fact.startswith(NOTE))])
        if self.is_attached and self._asked_for == self._readable():
            self._estimated = self._asked_for
            self._say(f"^r starts it{' all the same' if notes else ''}: {told}", "warn" if notes else "good")

    def _start(self, command: tuple[str, ...]) -> None:
        captures, typed, read = self.hub.engine.captures, self.values[TYPED], self._read

        def begin() -> tuple[JobAt, BackendJob] | str:
            for file, state in capture_form.read_files(command).items():
                if state != read.get(file):
                    return f"{file} has changed since the estimate"
            if typed.strip():
                capture_form.write_prompts(typed, prompts_folder())
            return captures.begin(command, Path.cwd())

        self.load("begin", begin, self._begun, self._not_begun, busy="starting a backend", lasting=True)

    def _begun(self, begun: tuple[JobAt, BackendJob] | str) -> None:
        """begun: where it is made; else why it is not, in words."""
        self._estimated = None
        if isinstance(begun, str):
            self._say(f"{begun}: ^r estimates again", "warn")
        elif self.hub.pane is self:
            self.hub.follow("", *begun)

    def _not_begun(self, line: str) -> None:
        self.say_failed(line)
        self._say(line, "bad")


def _typed_into(field: Field, text: str) -> Input | TextArea:
    """What a field is typed into."""
    made: Input | TextArea
    if field.kind == "typed":
        made = Prompts(
            text, id=_id(field), compact=True, tab_behavior="focus", highlight_cursor_line=False,
            placeholder=field.hint,
        )  # fmt: skip
    else:
        paths = Paths(field) if field.kind in ("model", "files", "file") else None
        made = Input(text, placeholder=field.hint, id=_id(field), compact=True, select_on_focus=False, suggester=paths)
    made.cursor_blink = False  # a blinking cursor sends bytes twice a second for nothing
    return made


def _id(field: Field) -> str:
    return field.name.replace(" ", "-")


def _options(engine: Engine, field: Field, text: str) -> list[str]:
    """In a worker: what a field can be."""
    recent: list[str] = []
    if field.kind == "model":
        recent = [status.model for status in engine.captures.statuses()]
        recent += [run.model for run in engine.runs() if run.kind != "history"]
    return capture_form.options(field, text, recent)

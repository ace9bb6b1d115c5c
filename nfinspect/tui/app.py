"""The app: one screen, a trail of panes on it, and what all panes share (messages, keys). start.py runs it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen

from nfinspect.tui.cells import Cell
from nfinspect.tui.chrome import KEY_NAMES, Breadcrumbs, KeyLine, StatusLine
from nfinspect.tui.glyphs import ASCII, UNICODE
from nfinspect.tui.harmless import Harmless
from nfinspect.tui.jobs import JobBoard
from nfinspect.tui.journal import Journal, command_line, without_store
from nfinspect.tui.marks import MarkKeeper
from nfinspect.tui.painting import HeldScreen
from nfinspect.tui.panes.base import LOG, OPENING, Pane, Work
from nfinspect.tui.places import Place, place
from nfinspect.tui.prompt_line import PromptLine
from nfinspect.tui.router import open_pane
from nfinspect.tui.trail import Stop, Trail
from nfinspect.tui.typeahead import TypeAheadApp
from nfinspect.tui.under_way import Follower

if TYPE_CHECKING:
    from textual.app import App

    from nfinspect.backend.protocol import JobState
    from nfinspect.tui.captures import JobAt
    from nfinspect.tui.engine import Engine
    from nfinspect.tui.lab import Setup
    from nfinspect.tui.requests import Completer, TraceRequest
    from nfinspect.tui.session import Session
    from nfinspect_store.statements import Statement
    from nfinspect_store.types import RunEntry

BUSY_SECONDS = 0.25
"""Shorter work is not announced: it would cost two repaints for nothing."""


class NfinspectApp(TypeAheadApp):
    """Panes are kept while they are in a remembered trail, so that going back finds the cursor where it was."""

    TITLE = "nfinspect"
    ENABLE_COMMAND_PALETTE = True
    NOTIFICATION_TIMEOUT = 4
    CSS = """
    Screen { background: $background; }
    #body { height: 1fr; width: 1fr; }
    #foot { height: auto; }
    .ruled-top { border-top: solid $secondary; }
    .ruled-left { border-left: solid $secondary; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("question_mark,f1", "help", "Help", key_display="?", id="app.help"),
        Binding("escape", "out", "Out", key_display="Esc", id="app.out"),
        Binding("colon", "goto", "Go to", key_display=":", show=False, id="app.goto"),
        Binding("left_square_bracket", "step(-1)", "Back", key_display="[", show=False, id="app.back"),
        Binding("right_square_bracket", "step(1)", "Forward", key_display="]", show=False, id="app.forward"),
        Binding("z", "zoom", "Zoom", show=False, id="app.zoom"),
        Binding("F", "frequencies", "Count a column", show=False, id="app.frequencies"),
        Binding("D", "describe", "Describe the columns", show=False, id="app.describe"),
        Binding("ctrl+l", "repaint", "Paint again", show=False, priority=True, id="app.repaint"),
        Binding("at", "journal", "Log", key_display="@", show=False, id="app.log"),
        Binding("tab", "app.focus_next", "Next panel", show=False, id="app.next_panel"),
        Binding("shift+tab", "app.focus_previous", "Previous panel", show=False, id="app.previous_panel"),
        Binding("q", "leave", "Quit", id="app.quit"),
        Binding("ctrl+q", "leave", "Quit", show=False, priority=True, id="app.quit_always"),
        Binding("ctrl+c", "interrupt", "Cancel", show=False, id="app.interrupt"),
    ]

    def __init__(self, engine: Engine, run: str | None = None, *, plain: bool = False) -> None:
        super().__init__()
        self.engine = engine
        self.glyphs = ASCII if plain else UNICODE
        self._filters.append(Harmless(plain=plain))
        self.animation_level = "none"
        self.sessions: dict[str, Session] = {}
        self.marks = MarkKeeper(self, engine.marks)
        self.traced: dict[str, TraceRequest] = {}
        """By run, the choices that its last trace or overlap was asked with: the next one begins with them."""

        self.typed_capture: dict[str, str] = {}
        """What was typed into the fields of a new capture."""

        self.listed: Sequence[RunEntry] = ()
        """The runs and trainings of the store, as they were last listed."""

        self.aliases: Mapping[str, str] = {}
        """Own words for `:`, and what they stand for."""

        self.labs: dict[str, Setup] = {}
        """By run, what its lab was last set up to do."""

        self.board = JobBoard(self)
        self._follower = Follower(self)
        self.journal = Journal(engine.store)
        self.loop: asyncio.AbstractEventLoop | None = None
        self._first_run = run
        self._keep_line = False
        self._said = 0
        self._announced: object = None
        """The work that the status line is about, until something else is said there."""

        self._said_before_key = 0
        self._work: dict[tuple[int, str], Work[Any]] = {}
        self._trail = Trail(Stop(partial(open_pane, place("runs", "nfinspect"))))
        self._shown: Pane | None = None

    def get_key_display(self, binding: Binding) -> str:
        """Keys by name, the way they are written in the documentation; no arrows or return signs."""
        if binding.id == "app.help" and self.focused is not None and self.focused.check_consume_key("?", "?"):
            return "F1"  # where text is typed, `?` is text
        if binding.key_display:
            return binding.key_display
        return KEY_NAMES.get(binding.key) or super().get_key_display(binding)

    def compose(self) -> ComposeResult:
        yield Breadcrumbs()
        yield Container(id="body")
        with Container(id="foot"):
            yield StatusLine()
            yield PromptLine()
        yield KeyLine()

    async def on_mount(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.app_resume_signal.subscribe(self, self.repaint)
        if self.glyphs is ASCII:
            from nfinspect.tui.ascii_borders import use_ascii

            use_ascii(self)
        await self._show()
        self.call_after_refresh(self._after_first_paint)

    def on_resize(self) -> None:
        self.repaint()

    def action_repaint(self) -> None:
        self.repaint()

    def _after_first_paint(self) -> None:
        gc.enable()  # run_app turned it off
        from nfinspect.tui.own_words import read_own

        own = read_own(type(self))
        if own.keys:
            self.set_keymap(own.keys)
        self.aliases = own.aliases
        if own.wrong:
            self.say(own.wrong, "warn", keep=True)
        if self._first_run is not None:
            self.open_run(self._first_run)

    # what there is to say

    def say(self, text: str, tone: str = "", *, keep: bool = False, of: object = None) -> None:
        """One line in the status line. `keep` it beyond the next change of place. of: the work that it is about: with
        its end (`over`) the line goes.
        """
        self._keep_line = keep
        self._said += 1
        self._announced = of
        self._base_screen.query_one(StatusLine).put(Cell(text, tone))

    def stand(self, cell: Cell | None) -> None:
        """What the status line says while there is nothing else to say."""
        self._base_screen.query_one(StatusLine).stand(cell or Cell(""))

    def note(self, pane: Pane, statements: Sequence[Statement] = ()) -> None:
        """What a place has asked of its run, and the command that answers what it shows now."""
        if statements:
            self.journal.asked(pane.crumb, pane.run_name or "", statements)
        if pane is self._shown:
            if said := pane.equivalent:
                self.journal.shown(pane.crumb, said)
            self._base_screen.query_one(StatusLine).put_command(command_line(without_store(said)) if said else "")

    def busy(self, pane: Pane, work: Work[Any]) -> None:
        key = (id(pane), work.group)
        self._work[key] = work

        def announce() -> None:
            here = self._work.get(key) is work and pane is self._shown and not self._keep_line
            if here and (self._said == self._said_before_key or not self._base_screen.query_one(StatusLine).cell.text):
                self.say(work.busy + self.glyphs.more, "dim", of=key)

        self.set_timer(BUSY_SECONDS, announce)

    def done(self, pane: Pane, work: Work[Any]) -> None:
        key = (id(pane), work.group)
        self._work.pop(key, None)
        if work.group == OPENING:  # twice: after the place that this may bring on screen
            self.call_later(self.call_later, self.let_in_next)
        self.over(key)

    def over(self, work: object) -> None:
        """A piece of work has ended: what was said of it while it ran is no longer so."""
        if self._announced == work:
            self.say("")

    def answered(self, pane: Pane) -> None:
        """An answer is in its place. The place on screen is painted once it waits for nothing more."""
        if pane is self._shown and not pane.asked:
            self._base_screen.release()

    @property
    def _base_screen(self) -> HeldScreen:
        return cast(HeldScreen, self.screen_stack[0])

    # places

    @property
    def pane(self) -> Pane:
        assert self._shown is not None
        return self._shown

    def into(self, place: Place, run: str | None = None) -> None:
        """A step further in."""
        self._trail.into(Stop(partial(open_pane, place), run, place))
        self.call_later(self._show)

    def beside(self, place: Place, run: str | None = None) -> None:
        """To another pane of a run: the breadcrumbs have one of each kind."""
        self._trail.beside(Stop(partial(open_pane, place), run, place))
        self.call_later(self._show)

    def step_in(self, place: Place) -> None:
        """A step further in, in the run of this place if it has one."""
        self.into(place, self._trail.here.run)

    def jump(self, place: Place, session: Session) -> None:
        """To a place of a run from anywhere: runs › layers of the run › there."""
        self._trail.go((*self._base_of(session), Stop(partial(open_pane, place), session.name, place)))
        self.call_later(self._show)

    def _base_of(self, session: Session) -> tuple[Stop, ...]:
        first = self._trail.stops[0]
        for stop in self._trail.stops[1:2]:
            if stop.run == session.name:
                return (first, stop)
        return (first, Stop(partial(open_pane, place("layers", session)), session.name))

    async def _show(self) -> None:
        stop = self._trail.here
        if stop.pane is not None and stop.pane is self._shown:
            return
        if self._keep_line:
            self._keep_line = False
        else:  # before the pane is mounted: it may have something to say at once
            self.say("")
        body = self._base_screen.query_one("#body")
        if self._shown is not None:
            focused = self._base_screen.focused
            if focused is not None and self._shown in focused.ancestors:
                self._shown.last_focus = focused
            self._shown.left()
            self._shown.display = False
        self.paint_whole()
        if new := stop.pane is None:
            self._base_screen.hold()
            stop.pane = stop.make()
            self._shown = stop.pane
            stop.pane.set_height(body.size.height)
            await body.mount(stop.pane)
        self._shown = stop.pane
        stop.pane.display = True
        known = {s.pane for s in self._trail.known()}
        for old in body.query(Pane):
            if old not in known and old is not self._shown:
                await old.remove()
        for widget in (stop.pane.last_focus, *stop.pane.query(stop.pane.first_focus).exclude("Headline")):
            if widget is not None and widget.is_attached and widget.focusable:
                self._base_screen.query_one(PromptLine).focus_behind(widget)
                break
        stop.pane.entered()
        self._follower.entered(stop.pane, new=new)
        self.update_trail()
        self.note(stop.pane)
        if stop.run is not None:
            self.marks.look()

    def update_trail(self) -> None:
        """The breadcrumbs, after a pane's crumb or hint has changed."""
        names = [stop.pane.crumb if stop.pane is not None else (stop.run or "") for stop in self._trail.stops]
        if self._shown is not None:
            crumbs = self._base_screen.query_one(Breadcrumbs)
            crumbs.put(names, self._shown.signed_hint)

    def to_runs(self) -> None:
        self._trail.go(self._trail.stops[:1])
        self.call_later(self._show)

    def action_frequencies(self) -> None:
        from nfinspect.tui.sheet_keys import choose_column

        choose_column(self)

    def action_describe(self) -> None:
        from nfinspect.tui.sheet_keys import describe

        describe(self)

    def action_journal(self) -> None:
        if self.pane.crumb != LOG:
            self.into(place(LOG))

    def to_layers(self, session: Session) -> None:
        self._trail.go(self._base_of(session))
        self.call_later(self._show)

    async def action_out(self) -> None:
        if self._trail.out():
            await self._show()

    async def action_step(self, step: int) -> None:
        if self._trail.step(step):
            await self._show()
        else:
            self.say("no earlier place" if step < 0 else "no later place", "dim")

    def action_zoom(self) -> None:
        self.pane.action_zoom()

    # runs

    def open_run(self, name: str) -> None:
        from nfinspect.tui.opening import open_run

        open_run(self, name)

    def follow(self, run: str = "", at: JobAt | None = None, job: JobState | None = None) -> None:
        """To the progress of a run that is being captured, or of a job of a backend."""
        self._trail.go((self._trail.stops[0], Stop(partial(open_pane, place("live", run, at, job)))))
        self.call_later(self._show)

    def opened(self, session: Session, *, show: bool = True) -> None:
        """A run is open; `show` its layers."""
        kept = self.sessions.get(session.name)
        if kept is not None and kept is not session:
            session.close()
            session = kept
        self.sessions[session.name] = session
        if show:
            self.to_layers(session)

    def forget_run(self, name: str) -> None:
        """A run is being deleted: close it and drop the places in it."""
        self.board.forget_run(name)
        if (session := self.sessions.pop(name, None)) is not None:
            session.close()
        self._trail.forget_run(name)
        self.call_later(self._show)

    def release_unfinished(self) -> None:
        """Close the runs that are not complete: while one is open here, `capture --resume` cannot write to it."""
        for name, session in list(self.sessions.items()):
            if session.info.status != "complete" and not session.under_way:
                del self.sessions[name]
                session.close()
                self._trail.forget_run(name)

    def session_here(self) -> Session | None:
        """The run that this place is in or points at, or the only one that is open."""
        run = self._trail.here.run or (self._shown.run_name if self._shown is not None else None)
        if run is not None:
            return self.sessions.get(run)
        return next(iter(self.sessions.values())) if len(self.sessions) == 1 else None

    # keys

    def before_key(self) -> None:
        self._said_before_key = self._said

    def after_key(self) -> None:
        """If it said nothing, the line of an earlier key is no longer about what is on screen."""
        if self._said == self._said_before_key and not self._keep_line and not self._work:
            self.say("")

    async def _check_bindings(self, key: str, priority: bool = False) -> bool:
        """No key is silent: one that nothing takes says why."""
        taken = await super()._check_bindings(key, priority)
        if not taken and not priority and len(self.screen_stack) == 1 and self._shown is not None:
            from nfinspect.tui.chrome import why_idle

            self.say(why_idle(self, self._shown, key), "dim")
        return taken

    @property
    def opening(self) -> bool:
        """Whether the place on screen is waiting for a run that was asked for."""
        return self._shown is not None and any(work.group == OPENING for work in self._shown.busy_with)

    def give_up_opening(self) -> None:
        self.pane.cancel_work()

    def action_help(self) -> None:
        from nfinspect.tui.help import HelpScreen

        self.push_screen(HelpScreen.of(self))

    def action_goto(self) -> None:
        from nfinspect.tui.completing import target_completer

        self._base_screen.query_one(PromptLine).open("goto", ":", self.go_to, completer=target_completer(self))

    def go_to(self, text: str) -> None:
        from nfinspect.tui.opening import go_to_typed

        go_to_typed(self, text)

    def ask(
        self,
        pane: Pane,
        kind: str,
        sign: str,
        then: Callable[[str], None],
        text: str = "",
        select: str = "",
        completer: Completer | None = None,
    ) -> None:
        """Let the user type a line; `then` gets it, if `pane` is still on screen.

        kind: of the earlier lines that can be recalled. select: the part of `text` that typing replaces. completer:
        what Tab offers.
        """

        def entered(typed: str) -> None:
            if pane is self._shown:
                then(typed)

        if pane is self._shown:  # a key may reach a pane that is just being left
            self._base_screen.query_one(PromptLine).open(kind, sign, entered, text, select, completer)

    def copy_to_clipboard(self, text: str) -> None:
        super().copy_to_clipboard(text.encode(errors="replace").decode())  # a file's name may be no UTF-8

    def copy(self, text: str) -> None:
        """Copy to a file, and to the clipboard by OSC 52, which no terminal confirms: hence the word "sent"."""
        from nfinspect.tui.output import keep_copy

        self.copy_to_clipboard(text)
        path = keep_copy(text)
        self.say(f"sent {len(text):,} characters to the clipboard" + (f", also in {path}" if path else ""), "good")

    def action_command_palette(self) -> None:
        from nfinspect.tui.palette import Palette

        if not Palette.is_open(cast("App[object]", self)):
            self.push_screen(Palette(placeholder="find a command", id="--command-palette"))

    def action_interrupt(self) -> None:
        """ctrl+c cancels the work of this place, else, after a question, the commands that run elsewhere.

        It never ends the app: a habit from the shell must not cost the place.
        """
        if self.pane.cancel_work():
            return
        if self.board.under_way:
            question = f"Cancel {', '.join(self.board.under_way)}?"
            self._confirm(question, self.board.close)
        else:
            self.say("nothing runs here; q quits", "dim")

    def _confirm(self, question: str, then: Callable[[], None]) -> None:
        """Do `then` if the user says yes. While a question is open, no other is asked."""
        from nfinspect.tui.dialogs import Confirm

        if not isinstance(self.screen, Confirm):
            self.push_screen(Confirm(question), lambda yes: then() if yes else None)

    @property
    def would_be_lost(self) -> list[str]:
        """What quitting would interrupt although the user may be waiting for it: commands, exports, deletions."""
        started = [work.busy for work in self._work.values() if work.lasting]
        return [*self.board.under_way, *started]

    def action_leave(self) -> None:
        """End the app; while such work is under way, only after a yes. Signals do not ask."""
        if lost := self.would_be_lost:
            self._confirm(f"Quit, and give up {', '.join(lost)}?", partial(self.exit, 0))
        else:
            self.exit(0)

    async def action_quit(self) -> None:
        self.action_leave()

    def close_runs(self) -> None:
        """Cancel every query and command, so that no worker thread holds up the exit and no command outlives it; write
        the last marks.
        """
        self.board.close()
        self.marks.flush()
        for session in list(self.sessions.values()):
            session.interrupt()

    def on_unmount(self) -> None:
        self.close_runs()

    def _fatal_error(self) -> None:
        """Textual's own prints a traceback with every local variable. Here the app just ends, and run_app raises the
        error.
        """
        self._close_messages_no_wait()

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        from nfinspect.tui.palette import commands

        return commands(self, screen, self.run_action, self.go_to)

"""The lab: what the run's model writes after a prompt, and what it writes with neurons or directions edited."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.tui.capture_form import keep_prompts
from nfinspect.tui.cells import Cell, model_name
from nfinspect.tui.journal import command_line, with_store
from nfinspect.tui.lab import (
    AMOUNTS,
    NUMBERS,
    Change,
    Number,
    Setup,
    command,
    kept_command,
    kept_prompt,
    prompt_line,
    python,
    setup_of,
    typed_change,
    typed_number,
    typed_prompt,
)
from nfinspect.tui.output import prompts_folder
from nfinspect.tui.panes.experimenting import Experimenting
from nfinspect.tui.panes.exporting import Export
from nfinspect.tui.panes.keeping import Keeping
from nfinspect.tui.panes.run_pane import AS_TYPED, RunPane
from nfinspect.tui.widgets.lab_result import LabResult
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect_store.edits import DIRECTION, number_text
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.tui.session import Session
    from nfinspect_store.addresses import Address

SECONDS = 0.4
"""Seconds between two looks at what is being written or kept."""

KEPT = "kept as"
"""The name of the row of the run that a generation is kept as."""

RECALLS = "; Up recalls the line"


@dataclass(frozen=True)
class Row:
    """A line of the setup. change: which of the edits, if it is one; number: which number."""

    name: str
    value: str
    change: int | None = None
    number: Number | None = None


class LabPane(RunPane):
    """Rows are what is asked; below stands what came of it."""

    help_text = (
        "Enter changes the line under the cursor, c adds an edit: zero, scale, clamp or add, of neurons (L3/N17), sets "
        "(@hot) or what is marked (@marked); D adds a direction, the difference of two concepts' means in this run. "
        "r runs it in a backend, which is started if none holds the model, and writes both texts as they come; both "
        "draw with the same noise. Marked is the first token that differs. NLL is the mean surprisal of "
        "the prompt's tokens: its change is shown; below it stands what random edits of the same size do. K keeps "
        "what is shown as a run, of the sites and layers of this one, and with values or statistics alone as it has: "
        "a capture with the same edits and draws, of the text with the edits if there are any; Enter on its line, or "
        "K again, opens it. e writes all of it "
        "as a document, y copies the Python and Y the command that repeat it. Leaving the app cancels what is being "
        "written."
    )

    first_focus = "PagedTable"
    idle: ClassVar[Mapping[str, str]] = {
        "cancel": "nothing is being written here",
        "start": "it is being written already; x cancels",
        **dict.fromkeys(("export", "keep"), "nothing has been written yet: r runs it"),
    }

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "start", "Run", id="lab.run"),
        Binding("x", "cancel", "Cancel", id="lab.cancel"),
        Binding("c", "add", "Add an edit", id="lab.add"),
        Binding("D", "direction", "Direction", id="lab.direction"),
        Binding("v", "kind", "Kind", id="lab.kind"),
        Binding("d", "delete", "Delete", id="lab.delete"),
        Binding("K", "keep", "Keep as a run", id="lab.keep"),
        Binding("i", "type", "Type a prompt", id="lab.type"),
        Binding("p", "prompt", "Prompt of the run", id="lab.prompt"),
        Binding("y", "copy", "Copy Python", id="lab.copy"),
        Binding("Y", "copy_command", "Copy the command", show=False, id="lab.copy_command"),
        Binding("e", "export", "Export", show=False, id="lab.export"),
    ]

    DEFAULT_CSS = """
    LabPane PagedTable { height: 8; }
    LabPane LabResult { height: 1fr; }
    """

    def __init__(
        self,
        session: Session,
        site: str | None = None,
        *,
        prompt: str = "",
        prompt_idx: int | None = None,
        neuron: Address | None = None,
    ) -> None:
        """prompt: its text, or else that of the run's prompt_idx, or else of its first prompt. neuron: to edit."""
        super().__init__("lab", session, site)
        self._first_prompt, self._first_neuron = prompt, neuron
        self._prompt_idx = prompt_idx
        self._setup: Setup | None = None
        self._why_not = ""
        self.experimenting = Experimenting(self, self._news)
        self.keeping = Keeping(self, self._news)

    @property
    def hint(self) -> str:
        return self.session.name

    @property
    def equivalent(self) -> tuple[str, ...]:
        made = self.experimenting
        if self._setup is None or made.document is None or self._setup != made.made_by:
            return ()
        return command(self._setup)

    def compose(self) -> ComposeResult:
        columns = [
            Column("model", 12, lambda row, width: Cell(row.name, "dim")),
            Column(
                model_name(self.session.info.model, self.glyphs) or "none",
                40,
                lambda row, width: Cell(row.value),
                flex=True,
            ),
        ]
        table = PagedTable(columns, glyphs=self.glyphs, empty="")
        table.add_class("panel")
        yield table
        yield LabResult(id="result")

    # what is asked

    def on_mount(self) -> None:
        kept = self.hub.labs.get(self.session.name)
        try:
            setup = kept or setup_of(self.session.name, self.session.info)
        except RequestError as error:
            self._why_not = str(error)
            self._draw()
            return
        if self._first_neuron is not None:
            written = self.address_in_model(self._first_neuron)
            if not any(written in change.what.split(",") for change in setup.changes):
                of_run = setup.changes if kept is None else ()
                setup = replace(setup, changes=(*of_run, Change("zero", written)))
        elif kept is None and not setup.changes and self.hub.marks.members(self.session, self.site):
            setup = replace(setup, changes=(Change("zero", "@marked"),))
        if self._first_prompt:
            setup = replace(setup, prompt=self._first_prompt)
        self._change(setup)
        if self._first_prompt:
            self.hub.say(AS_TYPED, "dim")
        elif self._prompt_idx is not None:
            self.hub.say(f"the prompt is number {self._prompt_idx} of the run", "dim")
        if not self._first_prompt and (self._prompt_idx is not None or not setup.prompt):
            read = partial(self.session.first_text, self._prompt_idx)
            self.load("first prompt", read, self._put_first, busy="reading the prompt")

    def _put_first(self, text: str) -> None:
        if self._setup is not None and text and "\0" not in text:
            self._change(replace(self._setup, prompt=text))

    def _change(self, setup: Setup) -> None:
        self._setup = self.hub.labs[self.session.name] = setup
        self._draw()
        self.hub.note(self)

    def _rows(self) -> list[Row]:
        setup = self._setup
        if setup is None:
            return []
        rows = [Row(KEPT, self.keeping.told)] if self.keeping.run else []
        rows.append(Row("prompt", prompt_line(setup.prompt) or "(none: i types one)"))
        rows += [Row("edit", self._told(change), change=i) for i, change in enumerate(setup.changes)]
        if not setup.changes:
            rows.append(Row("edit", "(none: c adds one, D a direction)"))
        for one in NUMBERS:
            about = f"  ({one.about})" if one.about else ""
            rows.append(Row(one.name, f"{number_text(getattr(setup, one.field))}{about}", number=one))
        return rows

    def _told(self, change: Change) -> str:
        if "@marked" not in change.what.split(","):
            return change.text
        marked = sum(len(self.hub.marks.members(self.session, site)) for site in self.session.sites)
        return f"{change.text}  ({marked:,} neurons)" if marked != 1 else f"{change.text}  (1 neuron)"

    def marks_changed(self) -> None:
        self._draw_setup()

    def entered(self) -> None:
        self._news()

    def left(self) -> None:
        super().left()
        self.keeping.let_go()

    def on_unmount(self) -> None:
        self.experimenting.close()
        self.keeping.let_go()

    def on_resize(self) -> None:
        self._draw()

    # keys

    @property
    def _row(self) -> Row | None:
        row: Row | None = self.table.current if self.is_attached else None
        return row

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        match action:
            case "cancel":
                return self.experimenting.under_way
            case "start":
                return not self.experimenting.under_way
            case "export" | "keep":
                return self.experimenting.document is not None
        return super().check_action(action, parameters)

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        row, setup = message.row, self._setup
        if setup is None:
            return
        if row.number is not None:
            typed = number_text(getattr(setup, row.number.field))
            self.hub.ask(self, f"lab-{row.name}", row.name, partial(self._put_number, row.number), typed)
        elif row.change is not None:
            put = partial(self._put_change, row.change)
            self.hub.ask(self, "lab-edit", "edit", put, setup.changes[row.change].text)
        elif row.name == KEPT:
            self.keeping.go()
        elif row.name == "edit":
            self.action_add()
        else:
            self.action_type()

    def _put_number(self, one: Number, text: str) -> None:
        if self._setup is None:
            return
        try:
            typed: dict[str, Any] = {one.field: typed_number(one, text)}
            self._change(replace(self._setup, **typed))
        except RequestError as error:
            self.hub.say(f"{error}{RECALLS}", "bad")

    def action_add(self) -> None:
        marked = self.hub.marks.members(self.session, self.site)
        self.hub.ask(self, "lab-edit", "edit", partial(self._put_change, None), "zero @marked" if marked else "zero ")

    def _put_change(self, place: int | None, text: str) -> None:
        if self._setup is None or not text:
            return
        try:
            change = typed_change(text)
        except RequestError as error:
            self.hub.say(f"{error}{RECALLS}", "bad")
            return
        changes = list(self._setup.changes)
        if place is None or place >= len(changes):
            changes.append(change)
        else:
            changes[place] = change
        self._change(replace(self._setup, changes=tuple(changes)))

    def _on_edit(self) -> int | None:
        row = self._row
        if row is None or row.change is None:
            self.hub.say("put the cursor on an edit first", "dim")
            return None
        return row.change

    def action_kind(self) -> None:
        if self._setup is not None and (place := self._on_edit()) is not None:
            changes = list(self._setup.changes)
            changes[place] = changes[place].turned()
            self._change(replace(self._setup, changes=tuple(changes)))

    def action_delete(self) -> None:
        if self._setup is not None and (place := self._on_edit()) is not None:
            changes = self._setup.changes
            self._change(replace(self._setup, changes=changes[:place] + changes[place + 1 :]))

    def action_direction(self) -> None:
        concepts = list(self.session.concepts)
        if len(concepts) < 2:
            self.hub.say("a direction needs two concepts: this run has one", "warn")
        elif "resid" not in self.session.sites:
            self.hub.say("a direction is at resid, which this run does not hold: capture with --sites resid", "warn")
        else:
            self.pick("direction to", concepts, None, self._direction_from)

    def _direction_from(self, concept: str) -> None:
        others = [one for one in self.session.concepts if one != concept]
        name = self.session.name

        def chosen(other: str) -> None:
            concepts = f"{concept}-{other}"
            self._direction_at(f"{name}:{concepts}" if ":" in concepts else concepts)  # what is before : is a run

        self.pick(f"to {concept} from", others, None, chosen)

    def _direction_at(self, concepts: str) -> None:
        layers = [f"resid:L{one.layer}" for one in self.session.layers if one.site == "resid"]
        self.pick("added at", layers, None, lambda layer: self._direction_by(f"{concepts}@{layer}"))

    def _direction_by(self, what: str) -> None:
        change = Change(DIRECTION, what, AMOUNTS[DIRECTION])
        self.hub.ask(self, "lab-edit", "edit", partial(self._put_change, None), change.text, AMOUNTS[DIRECTION])

    def action_type(self) -> None:
        if self._setup is not None:
            self.hub.ask(self, "lab-prompt", "prompt", self._put_prompt, prompt_line(self._setup.prompt))

    def _put_prompt(self, text: str) -> None:
        if self._setup is None or not text:
            return
        try:
            self._change(replace(self._setup, prompt=typed_prompt(text)))
        except RequestError as error:
            self.hub.say(f"{error}{RECALLS}", "bad")

    def action_prompt(self) -> None:
        self.offer_prompts(self._put_first, self._setup.prompt if self._setup is not None else "")

    def action_copy(self) -> None:
        if self._setup is not None:
            self.hub.copy(python(self._setup, self.hub.engine.store))

    def action_copy_command(self) -> None:
        if self._setup is None:
            return
        try:
            said = command(self._setup)
        except RequestError as error:
            self.hub.say(str(error), "warn")
            return
        self.hub.copy(command_line(with_store(said, self.hub.engine.store)))

    def export(self) -> Export | None:
        document = self.experimenting.document
        if document is None:
            return None

        def write(name: str) -> str:
            from nfinspect.tui.output import write_json

            return write_json(name, document)

        return Export(f"{self.session.name}-generation.json", write)

    # running

    def action_start(self) -> None:
        if self._setup is None:
            self.hub.say(self._why_not, "warn")
            return
        try:
            self.experimenting.start(self._setup)
        except RequestError as error:
            self.hub.say(str(error), "warn")
            return
        self.keeping.forget()
        self._news()

    def _look(self) -> None:
        self.experimenting.look()
        self.keeping.look()

    def _news(self) -> None:
        """Of what is being written or kept: look on while there is something to come."""
        if not self.experimenting.writing and not self.keeping.under_way:
            self._stop_looking()
        elif self.hub.pane is self:
            self.look_every(SECONDS, self._look)
        self.refresh_bindings()
        self._draw()

    def action_cancel(self) -> None:
        if self.experimenting.writing:
            self.experimenting.cancel()
        elif not super().cancel_work():
            self.hub.say("nothing is being written here", "dim")
        self._news()

    def cancel_work(self) -> bool:
        if self.experimenting.writing:
            self.action_cancel()
            return True
        return super().cancel_work()

    # keeping

    def action_keep(self) -> None:
        """Keep what is on screen as a run; once it is, or is being, kept: go there."""
        if self.keeping.run and not self.keeping.failed:
            self.keeping.go()
        elif (made_by := self.experimenting.made_by) is not None:
            name = f"{self.session.name}-{'edited' if made_by.changes else 'written'}"
            there = {run.name for run in self.hub.listed} | set(self.hub.sessions)
            free = (one for one in (name, *(f"{name}-{i}" for i in range(2, 1000))) if one not in there)
            self.hub.ask(self, "lab-keep", "keep as run", self._keep_as, next(free, name))

    def _keep_as(self, name: str) -> None:
        setup = self.experimenting.made_by
        if setup is None or not name:
            return
        prompts, content = kept_prompt(setup, prompts_folder())
        command = with_store(self._kept_command(setup, name, prompts), self.hub.engine.store)
        flush = self.hub.marks.flush
        self.hub.journal.ran(self.crumb, command)

        def write() -> None:
            flush()
            keep_prompts(prompts, content)

        self.keeping.start(name, command, write)
        self.table.move_to(0)

    def _kept_command(self, setup: Setup, name: str, prompts: Path) -> tuple[str, ...]:
        held = self.session.info.settings.get("layers")
        layers = held if isinstance(held, list) and all(isinstance(layer, int) for layer in held) else None
        keep = str(self.session.info.settings.get("keep") or "all")
        return kept_command(setup, name, prompts, self.session.sites, layers, keep)

    # what is drawn

    def _draw(self) -> None:
        if self.is_attached:
            self._draw_setup()
            self._draw_result()

    def _draw_setup(self) -> None:
        table, rows = self.table, self._rows()
        table.styles.height = min(len(rows) + 1, max(4, self.size.height // 2 - 2)) if rows else 1
        table.put_rows(rows)

    def _draw_result(self) -> None:
        result, made = self.query_one(LabResult), self.experimenting
        if made.document is not None:
            result.show_document(made.document, self.glyphs, stale=self._setup != made.made_by)
            return
        state = Cell(f"! {self._why_not}", "bad") if self._why_not else made.state
        tokens = made.written.tokens if made.written is not None else ()
        result.show_written(state, made.made_by.prompt if made.made_by is not None else "", tokens)

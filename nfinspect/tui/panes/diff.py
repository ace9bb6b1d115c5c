"""Two runs neuron by neuron: who died, woke or moved from the first to the second."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from nfinspect.present.numbers import counted, fixed, number, percent
from nfinspect.tui import cells
from nfinspect.tui.cells import Cell
from nfinspect.tui.listing import ASCENDING, Arranged, Listing
from nfinspect.tui.panes.base import Pane, arranging_keys
from nfinspect.tui.panes.exporting import Export, json_export
from nfinspect.tui.panes.opening import Opened, comparing_keys, open_runs, sites_in_common, take_over
from nfinspect.tui.panes.sorted_rows import ACTIONS, SortedRows, SortingKeys
from nfinspect.tui.places import place
from nfinspect.tui.widgets.headline import Headline
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_block import TextBlock

if TYPE_CHECKING:
    from nfinspect.analysis.diff import Diff, NeuronDiff
    from nfinspect.tui.session import Session

LISTING = Listing(
    rows=lambda found: found.neurons,
    text=lambda row: f"{row.change} {row.class_a} {row.class_b}",
    ascending=lambda key: key in ASCENDING or key in ("q_value", "change", "class_a", "class_b"),
    order=("", False),  # as the command lists them
    empty="no neuron died, woke, moved or changed its class",
)

MOVES = 4
"""Pairs of classes between which most neurons went, that are told."""

COPIED = ("change", "class_a", "class_b", "firing_rate_a", "firing_rate_b", "effect_size", "p_value", "q_value")


@dataclass(frozen=True)
class Compared:
    """A worker's answer, with its rows in order."""

    found: Diff
    rows: Arranged


class DiffPane(SortingKeys, Pane):
    """The neurons that differ. Enter opens one in the second run."""

    help_text = (
        "From the first run (A) to the second (B), neuron by neuron. died: dead in B, not in A; woke: the reverse; "
        "moved: its firing rate differs with q <= 0.05 and |h| >= 0.2; class: only its class differs. h: Cohen's h of "
        "the two firing rates, B minus A. q: of the difference, Benjamini-Hochberg over all neurons of the site; "
        "tokens of one text are not independent, so that q is too sure of itself. Those that died or woke come first, "
        "then by |h|. S reads another site that both have; X turns A and B around."
    )
    first_focus = "#rows"
    option_keys: ClassVar[Mapping[str, str]] = {"--site": "site", "--other-texts": "other_texts"}
    idle: ClassVar[Mapping[str, str]] = {"other_texts": "T is for runs that are refused because their texts differ"}

    BINDINGS: ClassVar[list[BindingType]] = [
        *arranging_keys("diff", before="sort_previous"),
        Binding("space", "mark", "Mark", key_display="Space", show=False, id="diff.mark"),
        Binding("O", "marked", "Overlap of the marked", show=False, id="diff.marked"),
        Binding("X", "turn", "A and B around", id="diff.turn"),
        Binding("T", "other_texts", "All the same", id="diff.other_texts"),
        *comparing_keys("diff"),
    ]

    DEFAULT_CSS = """
    DiffPane #about { height: auto; max-height: 8; padding: 0 1; }
    DiffPane.-shorter #about { max-height: 5; }
    """

    def __init__(self, a: str, b: str, site: str | None = None) -> None:
        super().__init__(f"diff {a} {b}")
        self._runs = (a, b)
        self._site = site
        self._other_texts = False
        self._found: Diff | None = None
        self._refused = ""
        self.rows = SortedRows(self, lambda: LISTING, self.columns, self._reorder)

    def compose(self) -> ComposeResult:
        yield Headline(id="about")
        table = PagedTable(self.columns(), glyphs=self.glyphs, frozen=1, empty="", id="rows")
        table.add_class("panel")
        table.marked = self._is_marked
        yield table

    @property
    def equivalent(self) -> tuple[str, ...]:
        if self._found is None:
            return ()
        others = ("--other-texts",) if self._other_texts else ()
        return ("diff", *self._runs, "--top", "0", *(("--site", self._site) if self._site else ()), *others)

    @property
    def hint(self) -> str:
        return self._found.site if self._found is not None else self._site or ""

    @property
    def run_name(self) -> str | None:
        """A place that is typed after `:` is one of the second run, in which Enter opens a neuron."""
        return self._runs[1]

    def columns(self) -> list[Column]:
        g = self.glyphs

        def told(title: str, name: str, width: int) -> Column:
            return Column(title, width, lambda r, w: Cell(getattr(r, name)), key=name)

        def figure(title: str, name: str, width: int, say: Callable[[Any], str], tone: str = "") -> Column:
            return Column(title, width, lambda r, w: Cell(say(getattr(r, name)), tone), "right", key=name)

        def change(row: NeuronDiff, width: int) -> Cell:
            return Cell(row.change, "bad" if row.change == "died" else "good" if row.change == "woke" else "")

        return [
            Column("neuron", 11, lambda r, w: Cell(r.address, "bold"), key="layer"),
            Column("change", 6, change, key="change"),
            told("class in A", "class_a", 10),
            told("class in B", "class_b", 10),
            figure("fires in A", "firing_rate_a", 10, lambda x: percent(x, g)),
            figure("fires in B", "firing_rate_b", 10, lambda x: percent(x, g)),
            figure("h", "effect_size", 7, lambda x: number(x, g, 3, 7), "bold"),
            figure("q", "q_value", 7, lambda x: number(x, g, 2, 7)),
        ]

    # reading

    def entered(self) -> None:
        if self._found is None or any(name not in self.hub.sessions for name in self._runs):
            self._read()

    def read_again(self) -> None:
        self._read()

    def _read(self) -> None:
        self._refused = ""
        closed = [name for name in self._runs if name not in self.hub.sessions]
        self.load("opened", partial(open_runs, self.hub.engine, closed), self._opened, self._failed, busy="opening")

    def _opened(self, answer: Opened) -> None:
        if why := take_over(self.hub, answer):
            self._failed(why)
            return
        sessions = {**answer[0], **self.hub.sessions}
        if any(name not in sessions for name in self._runs):  # it was open, and has been closed meanwhile
            self._read()
            return
        a, b = (sessions[name] for name in self._runs)
        compare = partial(_compare, a, b, self._site, self._other_texts, self.rows.arranger())
        self.load("compared", compare, self._show, self._failed, busy="comparing")

    def _reorder(self) -> None:
        found = self._found
        if found is not None:
            arrange = self.rows.arranger()
            self.load("compared", lambda: Compared(found, arrange(found)), self._show, self._failed, busy="sorting")

    def _show(self, compared: Compared) -> None:
        other = self._found is not compared.found
        self._found, self._refused = compared.found, ""
        self.rows.put(compared.rows)
        if other:
            self.table.move_to(0)
        self._draw()

    def _failed(self, line: str) -> None:
        """Also why the runs cannot be compared."""
        self._found, self._refused = None, line
        self.rows.put(None)
        self._draw()

    def _draw(self) -> None:
        self.query_one("#about", TextBlock).put(cells.lines(self._about()))
        self.hub.update_trail()
        self.refresh_bindings()

    def _about(self) -> list[list[Cell | str]]:
        found = self._found
        if found is None:
            return [[Cell(f"! {self.by_keys(self._refused)}", "bad")]] if self._refused else []
        health = found.health
        said = (
            f"A {found.a} ({counted(found.tokens_a, 'token')}), B {found.b} ({counted(found.tokens_b, 'token')}) at "
            f"{found.site}: {counted(found.compared, 'neuron')}, {found.died:,} died, "
            f"{found.woke:,} woke, {found.moved:,} moved, {found.changed:,} of another class; health "
            f"{fixed(health.a, self.glyphs)} to {fixed(health.b, self.glyphs)}"
        )
        filtered = [Cell(f"  {self.rows.said}", "accent")] if self.rows.said else []
        moves = sorted((pair for pair in found.classes if pair.class_a != pair.class_b), key=lambda p: -p.neurons)
        told = [f"{pair.class_a} to {pair.class_b} {pair.neurons:,}" for pair in moves[:MOVES]]
        told += [f"{len(moves) - MOVES} other changes of class"] if len(moves) > MOVES else []
        rows: list[list[Cell | str]] = [[said, *filtered]]
        rows += [[Cell(note, "warn")] for note in found.notes]
        return [*rows, [Cell("; ".join(told), "dim")]] if told else rows

    @property
    def _texts_differ(self) -> bool:
        """Whether that is why the runs were refused, which a key overrides."""
        return "--other-texts" in self._refused

    # marks, which are of the second run

    @property
    def _second(self) -> Session | None:
        return self.hub.sessions.get(self._runs[1])

    @property
    def set_names(self) -> Sequence[str]:
        return self.hub.marks.names(self._second) if self._second is not None else ()

    def members_of(self, text: str) -> Collection[tuple[int, int]]:
        if self._second is None or self._found is None:
            return super().members_of(text)
        name = self.hub.marks.set_of(self._second, text)
        return frozenset(self.hub.marks.members(self._second, self._found.site, name))

    def _is_marked(self, row: NeuronDiff) -> bool:
        session = self._second
        return session is not None and (row.layer, row.neuron) in self.hub.marks.members(session, row.site)

    def action_mark(self) -> None:
        from nfinspect_store.addresses import Address

        row, session = self.table.current, self._second
        if row is None or session is None:
            return
        address = Address(row.layer, row.neuron, row.site)
        self.hub.marks.put(session, (address,), added=not self._is_marked(row))
        self.table.action_cursor(1)
        self.table.refresh()
        held = len(self.hub.marks.members(session, row.site))
        self.hub.say(f"{held:,} marked in {session.name}; O lists them" if held else "", "dim")

    def action_marked(self) -> None:
        session, found = self._second, self._found
        if session is None or found is None or not self.hub.marks.members(session, found.site):
            self.hub.say("mark neurons with Space first", "warn")
        else:
            self.hub.into(place("marked", session, found.site), session.name)

    # keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "other_texts":
            return self._texts_differ
        return action not in ACTIONS or self.rows.sortable

    def action_turn(self) -> None:
        self._runs = (self._runs[1], self._runs[0])
        self.crumb = f"diff {self._runs[0]} {self._runs[1]}"
        self._read()

    def action_other_texts(self) -> None:
        self._other_texts = True
        self._read()

    def action_site(self) -> None:
        common = sites_in_common(self.hub, self._runs)
        here = self._found.site if self._found is not None else self._site
        if not set(common) - {here}:
            self.hub.say(f"the runs have no {'other ' if here in common else ''}site in common", "dim")
            return
        self._site = common[(common.index(here) + 1) % len(common)] if here in common else common[0]
        self._read()

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        from nfinspect.tui.steps import Steps
        from nfinspect_store.addresses import Address

        row, session = message.row, self.hub.sessions.get(self._runs[1])
        if session is None:
            self._read()
            return
        site = None if row.site == session.default_site else row.site
        around = tuple((one.layer, one.neuron) for one in self.rows.current)
        steps = Steps(None, around, self.table.cursor)
        self.hub.into(place("neuron", session, Address(row.layer, row.neuron, site), steps), session.name)

    def action_copy(self) -> None:
        """The rows on screen, as a table."""
        if self._found is not None:
            rows = [[row.address, *(getattr(row, name) for name in COPIED)] for row in self.rows.current]
            lines = [["neuron", *COPIED], *(["" if x is None else str(x) for x in row] for row in rows)]
            self.hub.copy("\n".join("\t".join(line) for line in lines))

    def export(self) -> Export | None:
        """The rows on screen."""
        shown = self._found and replace(self._found, neurons=tuple(self.rows.current))
        return json_export(f"diff-{self._runs[0]}-{self._runs[1]}.json", shown, self.rows.told)


def _compare(
    a: Session, b: Session, site: str | None, other_texts: bool, arrange: Callable[[Diff], Arranged]
) -> Compared:
    """In a worker. Raises RequestError for runs that cannot be compared."""
    found = a.diff(b, site, other_texts=other_texts)
    return Compared(found, arrange(found))

"""One neuron: its figures, its histogram, the text that sets it off, and what each concept does to it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container

from nfinspect.present.numbers import count, number, percent
from nfinspect.tui import thresholds
from nfinspect.tui.cells import Cell, lines
from nfinspect.tui.columns.neuron import concept_columns, example_columns
from nfinspect.tui.columns.neurons import said_of
from nfinspect.tui.neuron_figures import class_rows, figure_rows, note_rows, told_rows
from nfinspect.tui.panes.classed import ClassedPane
from nfinspect.tui.panes.exporting import Export, json_export
from nfinspect.tui.places import place
from nfinspect.tui.steps import Found, Step, Steps, find, sizes_of
from nfinspect.tui.widgets.chart_box import ChartBox
from nfinspect.tui.widgets.headline import Headline
from nfinspect.tui.widgets.paged_table import Column, PagedTable
from nfinspect.tui.widgets.text_block import TextBlock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nfinspect.analysis.classes import HealthOptions
    from nfinspect.analysis.neuron import ConceptMean, ExampleText, NeuronDetail
    from nfinspect.analysis.neuron_examples import QuantileExamples
    from nfinspect.tui.session import Session
    from nfinspect_store.addresses import Address
    from nfinspect_store.types import Layer


AHEAD = 8
"""Neighbours that are kept once read."""

VIEWS = ("top", "quantiles", "lowest", "random")
"""Which examples are shown."""

MOST = 3
"""The part of the pane's lines that figures may take, so that the examples stay in sight: notes that take more are cut,
which an ellipsis says.
"""


class NeuronPane(ClassedPane):
    """The detail of one neuron. J and K go on to its neighbours without a step in the breadcrumbs."""

    help_text = (
        "Tokens are toned by how strongly they set the neuron off, relative to the strongest on "
        "screen; the one that the example is about is in brackets. Concept bars are mean "
        "activations over all tokens of the concept; bars of negative means are dim. v goes on to other examples: at "
        "quantiles of the values at which the neuron fires (p95: 95 % of them are lower), its lowest, and random ones. "
        "gu: signs of gate and up, where the MLP is gated and values are kept. What saved n-grams and positions say is "
        "below the figures."
    )

    first_focus = "#examples"
    follows = True

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("J", "step(1)", "Next neuron", id="neuron.next"),
        Binding("K", "step(-1)", "Previous", id="neuron.previous"),
        Binding("v", "view", "Examples", id="neuron.view"),
        Binding("p", "logits", "Promoted tokens", show=False, id="neuron.logits"),
        Binding("s", "similar", "Similar neurons", show=False, id="neuron.similar"),
        Binding("b", "log", "Histogram log or linear", show=False, id="neuron.log"),
        Binding("space", "mark", "Mark", key_display="Space", show=False, id="neuron.mark"),
        Binding("O", "marked", "Overlap of the marked", show=False, id="neuron.marked"),
        Binding("N", "note", "Note", id="neuron.note"),
        Binding("number_sign", "tags", "Tags", key_display="#", show=False, id="neuron.tags"),
        Binding("y", "copy", "Copy", id="neuron.copy"),
        Binding("e", "export", "Export", id="neuron.export"),
    ]

    DEFAULT_CSS = """
    NeuronPane #figures { height: auto; padding: 0 1; }
    NeuronPane #middle { layout: horizontal; height: 9; }
    NeuronPane #concepts { width: 34; height: 1fr; }
    NeuronPane.-tall #middle { height: 15; }
    NeuronPane.-short #middle { height: 6; }
    NeuronPane.-shorter #middle { display: none; }
    NeuronPane.-wide #concepts { width: 60; }
    """

    _detail: NeuronDetail | None = None
    _quantiles: QuantileExamples | None = None
    _told: tuple[str, str] | None = None
    _told_rows = 1
    _read_with: HealthOptions | None = None
    """The thresholds by which the neuron on screen has its class."""

    _view = 0
    _log_scale: bool | None = None

    def __init__(self, session: Session, address: Address, steps: Steps | None = None) -> None:
        site = address.site or session.default_site
        super().__init__(str(address), session, site)
        self._address = address
        self._steps = steps or Steps()
        self._total: int | None = None
        self._ahead: dict[Step, Found] = {}
        self._looking_for: Step | None = None
        self._asked_step: Step | None = None
        self._further = 0
        self._direction = 1

    @property
    def lab_begins_with(self) -> dict[str, Any]:
        return {"neuron": self._address}

    def compose(self) -> ComposeResult:
        g = self.glyphs
        yield Headline(id="figures")
        with Container(id="middle"):
            yield ChartBox(id="chart")
            concepts = PagedTable(concept_columns(self._concepts, g), glyphs=g, empty="no concepts", id="concepts")
            concepts.add_class("panel")
            yield concepts
        examples = PagedTable(self._example_columns(), glyphs=g, empty="no examples kept", id="examples")
        examples.add_class("panel", "ruled-top")
        yield examples

    def _concepts(self) -> tuple[ConceptMean, ...]:
        return self._detail.concepts if self._detail is not None else ()

    def _strongest_value(self) -> float:
        return self._strongest

    def _example_columns(self) -> list[Column]:
        title = VIEWS[self._view] if VIEWS[self._view] != "random" else f"random, seed {self.session.info.seed}"
        return example_columns(
            self._strongest_value, self.glyphs, title=title, signs=self._signs if self._gates else None
        )

    @property
    def _gates(self) -> Mapping[int, bool]:
        """By token_idx of the examples on screen, the sign of the gate; empty where it is not known."""
        found = self._quantiles if VIEWS[self._view] == "quantiles" else self._detail
        return found.gates if found is not None else {}

    def _signs(self, example: ExampleText) -> str:
        from nfinspect.analysis.neuron_examples import gate_and_up

        return gate_and_up(self._layer, self._gates.get(example.token_idx), example.value)

    @property
    def _layer(self) -> Layer:
        return next(x for x in self.session.layers if x.site == self.site and x.layer == self._address.layer)

    @property
    def hint(self) -> str:
        here = f"{(self._steps.row or 0) + 1:,} of {self._total:,} {self.glyphs.dot} " if self._total else ""
        return f"{here}{self.session.name} {self.glyphs.dot} {self.site}"

    @property
    def equivalent(self) -> tuple[str, ...]:
        return ("neuron", self.session.name, str(self._address), *thresholds.arguments(self._read_with))

    def on_mount(self) -> None:
        self._read(0)

    def on_resize(self) -> None:
        self.set_class(self.size.width >= 120, "-wide")
        self._draw_figures()

    def on_chart_box_resized(self) -> None:
        self._draw_chart()

    # answers

    def _read(self, step: int) -> None:
        """Go `step` further from the neuron on screen. One is read at a time; steps that come meanwhile add up."""
        self._direction = 1 if step > 0 else -1 if step < 0 else 1
        if self._asked_step is not None:
            self._further = self._within(self._asked_step.step + self._further + step) - self._asked_step.step
            return
        question = Step(self._address, self._steps, self._within(step), self.session.thresholds)
        if (found := self._ahead.get(question)) is not None:
            self._show(question.options, found)
            return
        self._asked_step = question
        if question != self._looking_for:  # else it is on its way already
            neuron, show = partial(find, self.session, question), partial(self._show, question.options)
            busy = "" if self._stays else f"reading {self._address}"
            self.load("neuron", neuron, show, self._failed, busy=busy)

    def read_again(self) -> None:
        self._ahead.clear()
        self._stays = True
        self._read(0)
        if self._quantiles is not None:
            self._ask_quantiles()

    def thresholds_changed(self) -> None:
        self._asked_step, self._further = None, 0
        if (query := self._steps.query) is not None:
            self._steps = replace(self._steps, query=replace(query, options=self.session.thresholds))
        self.read_again()

    def _within(self, step: int) -> int:
        """The step, cut to stay in the list: presses beyond its end need not be undone on the way back."""
        around, row = self._steps.around, self._steps.row
        if row is not None and (around or self._steps.query is not None):
            here, total = row, len(around) or self._total
        else:
            here, total = self._address.neuron, sizes_of(self.session, self.site).get(self._address.layer)
        return step if total is None else max(-here, min(total - 1 - here, step))

    def _look_ahead(self) -> None:
        """The next neuron in the same direction, before it is asked for: holding J then costs a repaint only."""
        question = Step(self._address, self._steps, self._direction, self.session.thresholds)
        if question not in self._ahead and question != self._looking_for:
            self._looking_for = question
            ahead = partial(find, self.session, question)
            self.load("ahead", ahead, partial(self._found_ahead, question), self._failed_ahead)

    def _found_ahead(self, question: Step, found: Found) -> None:
        self._ahead[question] = found
        while len(self._ahead) > AHEAD:
            self._ahead.pop(next(iter(self._ahead)))
        self._looking_for = None
        if question == self._asked_step:
            self._show(question.options, found)

    def _failed_ahead(self, line: str) -> None:
        """Nobody may have asked for it yet."""
        waited, self._looking_for = self._asked_step == self._looking_for, None
        if waited:
            self._failed(line)

    def _failed(self, line: str) -> None:
        self._asked_step, self._further = None, 0
        if self._detail is None:
            self.query_one("#figures", TextBlock).put(lines([[Cell(f"! {line}", "bad")]]))
        self.say_failed(line)

    def _show(self, chosen: HealthOptions | None, found: Found) -> None:
        self._read_with, again = chosen, self._stays
        further, self._asked_step, self._further = self._further, None, 0
        self._put(found)
        if further:
            self._read(further)
        else:
            self._draw()
            if not again:  # a commit is followed with as few questions as can be
                self._look_ahead()

    def _put(self, found: Found) -> None:
        if found.address != self._address:
            self._quantiles = self._told = None
        self._address, self._total, self._detail = found.address, found.total, found.detail
        self._steps = Steps(self._steps.query, self._steps.around, found.row)
        self.crumb = str(found.address)

    def _draw(self) -> None:
        """All of the neuron. While more steps are to come, the neurons in between are not drawn."""
        if self._detail is None:
            return
        self._draw_figures()
        self._draw_examples()
        self.query_one("#concepts", PagedTable).put_rows(sorted(self._detail.concepts, key=lambda c: -(c.mean or 0.0)))
        self._draw_chart()
        if self._told is None:
            self._ask_results()
        self.hub.update_trail()

    def _draw_examples(self) -> None:
        """Those of the view; where there are none, why."""
        examples = self.query_one("#examples", PagedTable)
        rows, examples.empty = self._examples()
        values = [abs(t.value) for _, e in rows for t in e.window if t.value is not None]
        self._strongest = max(values, default=0.0)
        examples.set_columns(self._example_columns())
        examples.put_rows(rows)
        if not self._stays:
            examples.move_to(0)
        self._stays = False

    def _examples(self) -> tuple[list[tuple[str, ExampleText]], str]:
        """The rows of the view, each with its kind, and what is said if there is none."""
        detail = self._detail
        assert detail is not None
        match VIEWS[self._view]:
            case "top":
                return [("top", example) for example in detail.top_examples], "no examples kept"
            case "random":
                return [("random", example) for example in detail.random_examples], "no examples kept"
            case "lowest" if detail.min_examples and not any(e.value for e in detail.min_examples):
                n = count(detail.row.n, self.glyphs)
                fires = percent(detail.row.firing_rate, self.glyphs)
                return [], f"its lowest value is 0: it fires on {fires} of {n} tokens"
            case "lowest":
                return [("min", example) for example in detail.min_examples], "no examples kept"
        if not self.session.has_values:
            return [], f"quantile examples need every value, and this run holds {self.session.values_kept}"
        if self._quantiles is None:
            self._ask_quantiles()
            return [], "reading"
        pairs = zip(self._quantiles.quantiles, self._quantiles.examples, strict=True)
        return [(f"p{100 * quantile:.0f}", example) for quantile, example in pairs], "it fires on no token"

    def _ask_quantiles(self) -> None:
        address = self._address

        def put(found: QuantileExamples) -> None:
            if address == self._address:
                self._quantiles = found
                self._draw_examples()

        read = partial(self.session.quantile_examples, address)
        self.load("quantiles", read, put, busy="" if self._quantiles is not None else "reading quantiles")

    def _ask_results(self) -> None:
        """What saved results say of the neuron."""
        from nfinspect.tui.neuron_results import told_of

        address = self._address
        of = partial(told_of, self.session, self.site, address.layer, address.neuron, self.glyphs)

        def put(told: tuple[str, str]) -> None:
            if address == self._address:
                self._told = told
                self._draw_figures()

        self.load("told", of, put, lambda line: None)

    _strongest = 0.0
    _stays = False
    """Whether the cursor stays where it is: the same neuron is read again."""

    def _draw_figures(self) -> None:
        detail = self._detail
        if detail is None:
            return
        g, at = self.glyphs, (detail.row.layer, detail.row.neuron)
        width = max(20, self.size.width - 2)
        noted = said_of(*self.hub.marks.about(self.session, self.site, at))
        rows = class_rows(str(self._address), detail, self._read_with, marked=at in self.marks, noted=noted, glyphs=g)
        rows += figure_rows(detail, width, g)
        if self._told is not None:
            lacks_signs = self._layer.fires == "gate" and not self.session.has_values
            said = told_rows(self._told, lacks_signs=lacks_signs, width=width, g=g)
            self._told_rows = len(said)
            rows += said
        else:
            rows += [[" "]] * self._told_rows  # nothing moves when it comes
        rows += note_rows(detail, rows, width, self.size.height // MOST, g)
        self.query_one("#figures", TextBlock).put(lines(rows))

    def _draw_chart(self) -> None:
        if self._detail is None:
            return
        size = self.query_one("#chart").content_size
        if size.width < 1:
            return
        plain = self.glyphs.plain
        chart = partial(_chart, self._detail, size.width, size.height, self._log_scale, plain)
        self.load("chart", chart, self.query_one("#chart", ChartBox).put_lines)

    # keys

    def entered(self) -> None:
        if self._detail is None and self._asked_step is None:  # it could not be read the last time
            self._read(0)
        elif self._read_with != self.session.thresholds and self._asked_step is None:
            self.thresholds_changed()
        self._draw_figures()

    def action_step(self, step: int) -> None:
        self._stays = False
        self._read(step)

    def action_log(self) -> None:
        from nfinspect.tui.widgets.chart import wants_log

        if self._detail is not None:
            now = wants_log(self._detail.histogram.counts) if self._log_scale is None else self._log_scale
            self._log_scale = not now
            self.hub.say("histogram: " + ("logarithmic" if self._log_scale else "linear"), "dim")
            self._draw_chart()

    def on_paged_table_chosen(self, message: PagedTable.Chosen) -> None:
        if message.table.id == "examples":
            self._walk_from(message.row[1].token_idx)
        else:
            self.action_trace(message.row.concept)

    def action_trace(self, concept: str | None = None) -> None:
        self.hub.beside(place("trace", self.session, self.site, concept), self.session.name)

    def _walk_from(self, token_idx: int | None) -> None:
        """To the token walk, coloured by this neuron."""
        walk = place("walk", self.session, self.site, token=token_idx, neuron=self._address)
        self.hub.into(walk, self.session.name)

    def action_walk(self) -> None:
        row = self.query_one("#examples", PagedTable).current
        self._walk_from(row[1].token_idx if row is not None else None)

    def action_logits(self) -> None:
        self.hub.into(place("logits", self.session, self._address), self.session.name)

    def action_view(self) -> None:
        self._view = (self._view + 1) % len(VIEWS)
        if self._detail is not None:
            self._draw_examples()

    def action_similar(self) -> None:
        """To the neurons like this one; J and K have left the address that the pane was opened with."""
        self.hub.into(place("similar", self.session, self._address), self.session.name)

    def action_mark(self) -> None:
        if self._detail is not None:
            self.toggle_marks((self._detail.row.layer, self._detail.row.neuron))
            self._draw_figures()

    def marks_changed(self) -> None:
        self._draw_figures()

    def action_note(self) -> None:
        if self._detail is not None:
            (address,) = self.with_site([(self._detail.row.layer, self._detail.row.neuron)])
            was = self.hub.marks.about(self.session, self.site, (address.layer, address.neuron))[1]
            self.hub.ask(self, "note", f"note on {self._address}", partial(self._noted, address, was), was)

    def _noted(self, address: Address, was: str, text: str) -> None:
        from nfinspect_store.errors import RequestError

        try:
            self.hub.marks.note(self.session, address, text, was)
        except RequestError as error:
            self.hub.say(str(error), "bad")
        self._draw_figures()

    def action_tags(self) -> None:
        if self._detail is not None:
            (address,) = self.with_site([(self._detail.row.layer, self._detail.row.neuron)])
            tags = self.hub.marks.about(self.session, self.site, (address.layer, address.neuron))[0]
            self.hub.ask(self, "tags", f"tags of {self._address}", partial(self._tagged, address, tags), " ".join(tags))

    def _tagged(self, address: Address, were: tuple[str, ...], text: str) -> None:
        """A tag is the name of a set that the neuron is in."""
        from nfinspect_store.errors import RequestError
        from nfinspect_store.marks import check_set_name

        try:
            wanted = {check_set_name(word.removeprefix("#")): None for word in text.replace(",", " ").split()}
        except RequestError as error:
            self.hub.say(str(error), "bad")
            return
        for name in (*were, *wanted):
            if (name in were) != (name in wanted):
                self.hub.marks.put(self.session, (address,), added=name in wanted, name=name)
        self._draw_figures()

    def action_copy(self) -> None:
        if self._detail is not None:
            r = self._detail.row
            tops = [f"{number(e.value)}\t{e.concept}\t{e.text}" for e in self._detail.top_examples]
            self.hub.copy("\n".join([f"{self.session.name} {self._address} {r.cls} mean {r.mean} max {r.max}", *tops]))

    def export(self) -> Export | None:
        return json_export(f"{self.session.name}-{self._address}.json", self._detail)


def _chart(detail: NeuronDetail, width: int, height: int, log: bool | None, plain: bool) -> tuple[str, ...]:
    """Called in a worker; the chart's module is imported here, not with the pane."""
    from nfinspect.tui.widgets.chart import histogram, wants_log

    h = detail.histogram
    return histogram(h.edges, h.counts, h.linear, width, height, wants_log(h.counts) if log is None else log, plain)

"""What all panes inside a run share: the keys to its other panes, its site, its marked neurons."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType

from nfinspect.tui.panes.base import Pane
from nfinspect.tui.places import place

if TYPE_CHECKING:
    from nfinspect.tui.requests import NeuronQuery, PromptText
    from nfinspect.tui.session import Session
    from nfinspect.tui.widgets.paged_table import PagedTable
    from nfinspect_store.addresses import Address

MOST_PROMPTS = 500
"""Prompts to choose from; of a run with more, so many, evenly spread."""

AS_TYPED = "the prompt is the text as typed; p takes one of the run"
"""Said where a text after `:` is not looked up among the run's prompts."""

LONGEST = 200
"""Characters of a prompt in the list to choose from."""


class RunPane(Pane):
    """A pane of an open run, at one site of it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "neurons", "Neurons", id="run.neurons"),
        Binding("t", "trace", "Trace", id="run.trace"),
        Binding("o", "overlap", "Overlap", id="run.overlap"),
        Binding("a", "analyses", "Analyses", id="run.analyses"),
        Binding("w", "walk", "Token walk", id="run.walk"),
        Binding("x", "lab", "Lab", id="run.lab"),
        Binding("Q", "sql", "SQL", id="run.sql"),
    ]

    def __init__(self, crumb: str, session: Session, site: str | None = None) -> None:
        super().__init__(crumb, session)
        self.site = site or session.default_site

    @property
    def hint(self) -> str:
        return f"{self.session.name} {self.glyphs.dot} {self.site}"

    @property
    def site_option(self) -> tuple[str, ...]:
        """What a command is told of this pane's site: nothing of the run's default one."""
        return () if self.site == self.session.default_site else ("--site", self.site)

    def address(self, layer: int, neuron: int, site: str | None = None) -> Address:
        """How a neuron is written here: with its site in front when it is not the run's default one."""
        from nfinspect_store.addresses import Address

        site = site or self.site
        return Address(layer, neuron, None if site == self.session.default_site else site)

    def address_in_model(self, address: Address) -> str:
        """How a command of the model is told of a neuron of the run: with its site, as the model's default site need
        not be the run's.
        """
        from nfinspect_store.addresses import Address

        return str(Address(address.layer, address.neuron, address.site or self.session.default_site))

    @property
    def marks(self) -> Collection[tuple[int, int]]:
        """Marked neurons of this run or its model at this site, in the order of marking."""
        return self.hub.marks.members(self.session, self.site)

    @property
    def set_names(self) -> Sequence[str]:
        return self.hub.marks.names(self.session)

    def members_of(self, text: str) -> Collection[tuple[int, int]]:
        return frozenset(self.hub.marks.members(self.session, self.site, self.hub.marks.set_of(self.session, text)))

    def is_marked(self, row: Any) -> bool:
        """Whether the neuron of a row is marked."""
        return (row.layer, row.neuron) in self.marks

    def mark_row(self, table: PagedTable, *neurons: tuple[int, int]) -> None:
        """Mark the neurons of the row under the cursor, or unmark them, and go on to the next row."""
        self.toggle_marks(*neurons)
        table.action_cursor(1)
        table.refresh()

    def toggle_marks(self, *neurons: tuple[int, int]) -> None:
        marked, there = self.hub.marks, frozenset(self.marks)
        marked.put(self.session, self.with_site(n for n in neurons if n in there), added=False)
        marked.put(self.session, self.with_site(n for n in neurons if n not in there), added=True)
        self.hub.say(f"{len(self.marks):,} marked; O lists them" if self.marks else "", "dim")

    def with_site(self, neurons: Iterable[tuple[int, int]]) -> tuple[Address, ...]:
        """The addresses of neurons of this pane's site, as sets hold them."""
        from nfinspect_store.addresses import Address

        return tuple(Address(layer, neuron, self.site) for layer, neuron in neurons)

    def open_neuron(
        self,
        layer: int,
        neuron: int,
        *,
        query: NeuronQuery | None = None,
        row: int | None = None,
        around: tuple[tuple[int, int], ...] = (),
        site: str | None = None,
    ) -> None:
        """To a neuron's pane. It steps through `query` from `row` on, or through the neurons `around`."""
        from nfinspect.tui.steps import Steps

        address = self.address(layer, neuron, site)
        steps = Steps(query, around, row)
        self.hub.into(place("neuron", self.session, address, steps), self.session.name)

    def open_neurons(self, *, cls: str | None = None, layer: int | None = None) -> None:
        self.hub.into(place("neurons", self.session, self.site, cls=cls, layer=layer), self.session.name)

    def offer_prompts(self, then: Callable[[str], None], here: str) -> None:
        """Let the user choose a prompt of the run; `then` gets its text. here: the text that is chosen now."""

        def offer(prompts: tuple[PromptText, ...]) -> None:
            if not prompts:
                self.hub.say("this run has no text of its prompts: i types one", "warn")
            elif self.hub.pane is self:
                offered = {f"{one.prompt_idx} {one.concept}: {one.text[:LONGEST]}": one.text for one in prompts}
                chosen = next((name for name, text in offered.items() if text == here), None)
                some = f" ({len(prompts):,} of {self.session.prompts:,})" if len(prompts) < self.session.prompts else ""
                self.pick(f"prompt{some}", list(offered), chosen, lambda name: then(offered[name]), width=76)

        self.load("texts", partial(self.session.texts, MOST_PROMPTS), offer, busy="reading the prompts")

    def action_neurons(self) -> None:
        self.hub.beside(place("neurons", self.session, self.site, cls=None, layer=None), self.session.name)

    def action_trace(self) -> None:
        self.hub.beside(place("trace", self.session, self.site), self.session.name)

    def action_overlap(self) -> None:
        self.hub.beside(place("overlap", self.session, self.site), self.session.name)

    def action_analyses(self) -> None:
        self.hub.beside(place("analyses", self.session, self.site), self.session.name)

    def action_walk(self) -> None:
        self.hub.beside(place("walk", self.session, self.site), self.session.name)

    @property
    def lab_begins_with(self) -> dict[str, Any]:
        """What of this pane the lab begins with: a prompt, a neuron."""
        return {}

    def action_lab(self) -> None:
        self.hub.beside(place("lab", self.session, self.site, **self.lab_begins_with), self.session.name)

    def action_sql(self) -> None:
        self.hub.beside(place("sql", self.session), self.session.name)

    def next_site(self) -> bool:
        """To the run's next site, if it has another."""
        sites = self.session.sites
        if len(sites) < 2:
            self.hub.say(f"this run has only one site: {self.site}", "dim")
            return False
        self.site = sites[(sites.index(self.site) + 1) % len(sites)]
        return True

    def action_marked(self) -> None:
        """The marked neurons, with their notes and their ranks in every concept's trace."""
        if not self.marks:
            self.hub.say("mark neurons with Space first", "warn")
            return
        self.hub.into(place("marked", self.session, self.site), self.session.name)

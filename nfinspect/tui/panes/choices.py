"""The choices that a trace and an overlap share: baseline, tokens, rank and how many neurons, changed in place."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType

from nfinspect.tui.cells import Cell
from nfinspect.tui.panes.run_pane import RunPane
from nfinspect.tui.requests import TraceRequest
from nfinspect_store.types import RANK_ORDER, RANKS, RAW_ORDER

if TYPE_CHECKING:
    from nfinspect.analysis.overlap import Overlap
    from nfinspect.analysis.trace import Trace
    from nfinspect.tui.session import Session

TOPS = (5, 10, 20, 50, 100, 200)
TOKENS = ("last", "generated", "all")
NO_BASELINE = "(none: raw values)"


def notes_of(*found: Trace | Overlap | None) -> list[list[Cell | str]]:
    """The notes for the user, a line each, on screen as long as what they are about."""
    notes = dict.fromkeys(note for one in found if one is not None for note in one.notes)
    return [[Cell(note, "warn")] for note in notes]


class TracedPane(RunPane):
    """A pane that asks for traces. `changed` is called when a choice was made."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("b", "baseline", "Baseline", id="trace.baseline"),
        Binding("T", "tokens", "Tokens", id="trace.tokens"),
        Binding("r", "rank", "Rank", id="trace.rank"),
        Binding("plus,equals_sign", "top(1)", "More neurons", key_display="+", show=False, id="trace.more"),
        Binding("minus", "top(-1)", "Fewer neurons", key_display="-", show=False, id="trace.fewer"),
        Binding("S", "site", "Site", show=False, id="trace.site"),
    ]

    request: TraceRequest

    def first_request(self, session: Session, concept: str | None = None) -> TraceRequest:
        """What to begin with: the choices made last in this run, with the concept under the cursor if there is one;
        at first a concept that is no baseline.
        """
        last = self.hub.traced.get(session.name)
        if last is not None:
            concept = concept if concept in session.concepts else last.concept
            return replace(
                last, site=self.site, concept=concept, baseline=None if concept == last.baseline else last.baseline
            )
        baseline = "baseline" if "baseline" in session.concepts else None
        others = [c for c in session.concepts if c != baseline] or list(session.concepts) or [""]
        concept = concept if concept in session.concepts else others[0]
        if concept == baseline:
            baseline = None
        return TraceRequest(self.site, str(concept), baseline, "generated" if session.has_generated else "all")

    @property
    def traced_with(self) -> tuple[str, ...]:
        """The options of `trace` and `overlap` for these choices."""
        r = self.request
        return (
            *(("--baseline", r.baseline) if r.baseline else ("--no-baseline",)),
            *(("--tokens", r.tokens) if r.tokens else ()),
            *("--top", str(r.top), "--rank", r.rank),
            *self.site_option,
        )

    def changed(self) -> None:
        raise NotImplementedError

    def change(self, **changes: Any) -> None:
        self.request = replace(self.request, **changes)
        self.hub.traced[self.session.name] = self.request
        self.changed()

    def choices(self) -> list[Cell | str]:
        """The choices as one line, each after its key."""
        r = self.request
        order = RANK_ORDER[r.rank] if r.baseline else RAW_ORDER
        if self.app.size.width < 100:
            order = order.partition(",")[0]  # the help says what settles ties
        return [
            Cell("  b", "bold"),
            Cell(f" vs {r.baseline}", "accent") if r.baseline else Cell(" no baseline", "warn"),
            Cell("  T", "bold"),
            Cell(f" {r.tokens}", "accent"),
            " token" if r.tokens == "last" else " tokens",
            Cell("  r", "bold"),
            " by ",
            Cell(order, "accent"),
            Cell("  +/-", "bold"),
            " top ",
            Cell(str(r.top), "accent"),
        ]

    def action_baseline(self) -> None:
        options = [NO_BASELINE, *self.session.concepts]
        self.pick("baseline", options, self.request.baseline or NO_BASELINE, self._baseline)

    def _baseline(self, name: str) -> None:
        raw = name == NO_BASELINE  # effect and AUROC need a baseline
        self.change(baseline=None if raw else name, rank="difference" if raw else self.request.rank)

    def action_tokens(self) -> None:
        order = TOKENS if self.session.has_generated else ("last", "all")
        here = order.index(self.request.tokens) if self.request.tokens in order else 0
        self.change(tokens=order[(here + 1) % len(order)])

    def action_rank(self) -> None:
        if self.request.baseline is None:
            self.hub.say("effect and AUROC need a baseline: b chooses one", "warn")
            return
        self.change(rank=RANKS[(RANKS.index(self.request.rank) + 1) % len(RANKS)])

    def action_top(self, step: int) -> None:
        here = TOPS.index(self.request.top) if self.request.top in TOPS else 1
        if not 0 <= here + step < len(TOPS):
            self.hub.say(f"{TOPS[here]} are the {'most' if step > 0 else 'fewest'}", "dim")
            return
        self.change(top=TOPS[here + step])

    def action_site(self) -> None:
        if self.next_site():
            self.change(site=self.site)
            self.hub.update_trail()

"""Which tokens one neuron's output weights promote and suppress."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from nfinspect.present.numbers import number, signed
from nfinspect.tui.bar_drawings import logit_bars
from nfinspect.tui.columns.analyses import logit_columns
from nfinspect.tui.listing import Arranged, Listing
from nfinspect.tui.panes.analysis import AnalysisPane, Drawing, Found
from nfinspect.tui.panes.exporting import Export, json_export
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.tui.session import Session
    from nfinspect_store.addresses import Address

TOP = 50
"""Tokens at either end."""


@dataclass(frozen=True)
class Effects:
    """The document of `nfinspect logits`."""

    document: Mapping[str, Any]

    @property
    def pairs(self) -> tuple[tuple[Any, Any], ...]:
        """Promoted and suppressed tokens side by side."""
        return tuple(zip_longest(self.document["promoted"], self.document["suppressed"]))

    def to_json(self) -> dict[str, object]:
        return dict(self.document)


class LogitsPane(AnalysisPane):
    """Made for one neuron, and kept as long as the app runs."""

    command_name = "logits"
    help_text = (
        "effect: what one unit of the neuron's value adds to the logit of the token by the direct path (its output "
        "weights through the final norm and the unembedding), less the mean over the vocabulary. Nothing of what later "
        "layers make of it. Enter goes to the neuron; R edits the command, such as where the model is."
    )

    def __init__(self, session: Session, address: Address) -> None:
        site = address.site or session.default_site
        self._address = address
        super().__init__(session, site, job=f"logits {address}")
        self.crumb = f"logits {address}"

    def columns(self) -> list[Column]:
        return logit_columns(self.glyphs)

    def options(self) -> tuple[str, ...]:
        return (str(self._address), "--top", str(TOP))

    def finder(self) -> Callable[[], Found]:
        printed = self.hub.board.printed.get(self.command.runner.key)
        return partial(_find, printed, self._address, self.command.asked(), self.rows.arranger())

    def listing(self) -> Listing:
        return Listing(rows=lambda analysis: analysis.pairs)

    def nothing(self) -> str:
        return "This needs the model's weights."

    def facts(self, analysis: Effects) -> str:
        d = analysis.document
        return (
            f"L{d['layer']}/N{d['neuron']} of {d['model']}: std of the effect over {d['vocabulary']:,} tokens "
            f"{number(d['std'], self.glyphs)}"
        )

    def drawings(self, analysis: Effects) -> Sequence[Drawing]:
        return (Drawing("bars", logit_bars, follows=True),)

    def neurons_of(self, row: Any) -> tuple[tuple[int, int], ...]:
        return ((self._address.layer, self._address.neuron),)

    def is_marked(self, row: Any) -> bool:
        return False

    def open_row(self) -> None:
        self.open_neuron(self._address.layer, self._address.neuron)

    def action_copy(self) -> None:
        if self.analysis is not None:
            d = self.analysis.document
            self.hub.copy(
                "\n".join(f"{signed(e['effect'], digits=5)}\t{e['token']}" for e in (*d["promoted"], *d["suppressed"]))
            )
        else:
            super().action_copy()

    def export(self) -> Export | None:
        return json_export(f"{self.session.name}-logits-{self._address}.json", self.analysis)


def _find(
    printed: str | None, address: Address, command: Callable[[], tuple[str, ...]], arrange: Callable[[Any], Arranged]
) -> Found:
    """In a worker. printed: what the command has."""
    if printed is None:
        return Found((), 0, None, command())
    effects = _effects(printed, address)
    return Found((), 0, effects, command(), arrange(effects))


def _effects(printed: str, address: Address) -> Effects:
    from nfinspect_store.errors import StoreError

    try:
        document = json.loads(printed)
        found = (document["layer"], document["neuron"], document["promoted"], document["suppressed"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError("expected the command's JSON document, found none: leave --json in it") from error
    if found[:2] != (address.layer, address.neuron):
        raise StoreError(f"the command was about L{found[0]}/N{found[1]}, not {address}")
    return Effects(document)

"""What the model loses when sets of neurons are cut out, beside random sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from nfinspect.present.numbers import counted, number
from nfinspect.tui.bar_drawings import ablation_bars
from nfinspect.tui.columns.analyses import ablation_columns, set_value
from nfinspect.tui.listing import Listing
from nfinspect.tui.panes.analysis import AnalysisPane, Drawing
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect_store.results import Result


@dataclass(frozen=True)
class Ablated:
    """A kept table of ablations, and the neurons of each set that stand at this run's sites."""

    document: Mapping[str, Any]
    neurons: Mapping[str, tuple[tuple[int, int], ...]]

    def to_json(self) -> dict[str, object]:
        return dict(self.document)


class AblationPane(AnalysisPane):
    """Rows are sets; Enter goes to the first neuron of a set, J and K along all of them."""

    command_name = "ablate"
    help_text = (
        "dNLL: by how much the negative log-likelihood grows without the set, in nats per predicted token (positive: "
        "the model is worse off); its 95 % interval is a bootstrap over documents. perpl.: perplexity without the set. "
        "controls: mean dNLL of random sets of the same size and count per layer. z: how many of their standard "
        "deviations the set lies above them. p: share of controls that cost as much or more, the set itself counted. "
        "r cuts out the marked neurons, or the dead ones where none is marked, on the run's own text; R edits the "
        "command: --class, --trace, --mode mean, --text FILE. Enter goes to the set's neurons, Space marks all of them."
    )

    def columns(self) -> list[Column]:
        return ablation_columns(self.glyphs)

    def listing(self) -> Listing:
        return Listing(
            rows=lambda analysis: analysis.document["sets"],
            value=set_value,
            text=lambda row: str(row["name"]),
            named=(),
            empty="no set",
        )

    def fits(self) -> Callable[[Result], bool]:
        return lambda result: True

    def adopt(self, result: Result) -> None:
        """There is nothing to choose."""

    def reader(self) -> Callable[[Result], Ablated]:
        return partial(_read, self.session.default_site, self.site)

    def facts(self, analysis: Ablated) -> str:
        d = analysis.document
        what = "0" if d["sets"][0]["mode"] == "zero" else "their mean"
        return (
            f"{d['text']}: perplexity {number(d['baseline']['perplexity'], self.glyphs, 5)} over "
            f"{counted(d['tokens'], 'token')}, windows of {d['context']}; values set to {what}"
        )

    def note(self, analysis: Ablated) -> str:
        return "; ".join(analysis.document["notes"])

    def neurons_of(self, row: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
        return self.analysis.neurons.get(row["name"], ()) if self.analysis is not None else ()

    def drawings(self, analysis: Ablated) -> Sequence[Drawing]:
        return (Drawing("bars", ablation_bars, follows=True),)


def _read(default_site: str, site: str, result: Result) -> Ablated:
    """In a worker: the table, and the neurons of each set that stand at `site`."""
    from nfinspect_store.addresses import parse_address

    neurons = {}
    for name, addresses in result.settings.get("sets", {}).items():
        read = [parse_address(address) for address in addresses]
        neurons[name] = tuple((a.layer, a.neuron) for a in read if (a.site or default_site) == site)
    return Ablated({**result.document, "sets": tuple(result.document["sets"])}, neurons)

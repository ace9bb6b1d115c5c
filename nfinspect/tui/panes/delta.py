"""Neurons that change with every token, and Mamba's step size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType

from nfinspect.tui.cells import Cell
from nfinspect.tui.columns.analyses import LAG, channel_columns, delta_columns
from nfinspect.tui.drawings import delta_layers, delta_mamba, delta_ratio, delta_step
from nfinspect.tui.engine import Session
from nfinspect.tui.listing import Listing
from nfinspect.tui.panes.analysis import AnalysisPane, Drawing
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.analysis.delta import Delta
    from nfinspect_store.results import Result

SENSITIVE, ALL, CHANNELS = "delta-sensitive", "all neurons", "channels of Mamba's step"


class DeltaPane(AnalysisPane):
    """One of three lists: the delta-sensitive neurons, every neuron of the site, or the channels of Mamba's step."""

    command_name = "delta"
    help_text = (
        "step: step sensitivity, mean |change from one token to the next| in units of the neuron's std. ratio: von "
        "Neumann ratio, mean squared change over variance (0: frozen, 2: white noise, it keeps nothing of the token "
        "before). sensitive: both reach the limits of the command (2 and 0.2). Both leave position 0 out and never go "
        "across prompts. lag N: mean |change| / std so many tokens after one was replaced (delta --substitute, needs "
        "the model). Mamba's step size is how much of a token each channel lets into its state: its mean, its "
        "coefficient of variation, its correlation with the token's surprisal."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("d", "list", "List", id="delta.list"),
    ]

    def __init__(self, session: Session, site: str | None = None) -> None:
        self._list = SENSITIVE
        super().__init__(session, site)

    def columns(self) -> list[Column]:
        found = self.analysis
        if self._list == CHANNELS:
            return channel_columns(self.glyphs)
        return delta_columns(found.substitution.lags if found and found.substitution else (), self.glyphs)

    def reader(self) -> Callable[[Result], Delta]:
        return partial(_read, self.session)

    def listing(self) -> Listing:
        found = self.analysis
        lags = found.substitution.lags if found is not None and found.substitution is not None else ()
        return Listing(
            rows={
                SENSITIVE: lambda analysis: analysis.delta_sensitive,
                ALL: lambda analysis: analysis.neurons,
                CHANNELS: lambda analysis: analysis.mamba_delta,
            }[self._list],
            value=partial(_value, lags),
            place=lambda row: (row.layer, getattr(row, "channel", None) or getattr(row, "neuron", 0)),
            named=("layer", "channel") if self._list == CHANNELS else ("layer", "neuron"),
            order=("von_neumann_ratio", True),
            empty="no neuron is delta-sensitive",
        )

    def choices(self) -> list[Cell | str]:
        return [Cell("d ", "bold"), Cell(self._list, "accent")]

    def facts(self, analysis: Delta) -> str:
        a = analysis
        if not a.neurons:
            return "statistics only: there is Mamba's own step size, and nothing on its neurons"
        limits = f"ratio >= {a.min_ratio:g}, step >= {a.min_step:g}"
        mamba = f"; step size of {len(a.mamba_delta):,} channels" if a.mamba_delta else ""
        found = f"{sum(layer.delta_sensitive for layer in a.layers):,} delta-sensitive of {len(a.neurons):,} neurons"
        return f"{found} ({limits}); {a.pairs:,} steps{mamba}"

    def note(self, analysis: Delta) -> str:
        return "; ".join(analysis.notes) if analysis.neurons else ""

    def neurons_of(self, row: Any) -> tuple[tuple[int, int], ...]:
        """A channel of Mamba is the neuron of its number; a head of Mamba-2 is none."""
        if not hasattr(row, "channel"):
            return super().neurons_of(row)
        channels = sum(1 for other in self.analysis.mamba_delta if other.layer == row.layer) if self.analysis else 0
        alike = any(x.layer == row.layer and x.neurons == channels for x in self.session.layers if x.site == "mixer")
        return ((row.layer, row.channel),) if alike and self.site == "mixer" else ()

    def drawings(self, analysis: Delta) -> Sequence[Drawing]:
        of_neurons = (Drawing("ratio", delta_ratio), Drawing("step", delta_step), Drawing("layers", delta_layers))
        mamba = (Drawing("Mamba's step size", delta_mamba),) if analysis.mamba_delta else ()
        return (*(of_neurons if analysis.neurons else ()), *mamba)

    def action_list(self) -> None:
        lists = (SENSITIVE, ALL, CHANNELS) if self.analysis and self.analysis.mamba_delta else (SENSITIVE, ALL)
        place = lists.index(self._list) if self._list in lists else 0
        before, self._list = self._list, lists[(place + 1) % len(lists)]
        if CHANNELS in (before, self._list):  # other columns
            self.rows.reset(("mean", True) if self._list == CHANNELS else None)
        self.draw_about()
        self.reorder()


def _read(session: Session, result: Result) -> Delta:
    """In a worker."""
    from nfinspect.analysis.delta import Delta
    from nfinspect.analysis.substitution import Substitution

    found = Delta.from_json(result.document)
    for other in session.results("substitution"):
        if other.settings.get("site") == found.site and other.settings.get("layers") == result.settings["layers"]:
            return found.with_substitution(Substitution.from_parts(other.document, other.table("neurons")))
    return found


def _value(lags: Sequence[int], row: Any, key: str) -> Any:
    if key.startswith(LAG):
        return row.substitution_sensitivity[lags.index(int(key.removeprefix(LAG)))]
    return getattr(row, key, None)

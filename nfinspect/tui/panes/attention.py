"""Neurons whose values go with what the model attends to, or with its loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType

from nfinspect.analysis.provenance import read_from
from nfinspect.present.numbers import counted
from nfinspect.tui.cells import Cell
from nfinspect.tui.columns.analyses import attention_columns
from nfinspect.tui.drawings import attention_diversity, attention_map, attention_scores, attention_sink
from nfinspect.tui.engine import Session
from nfinspect.tui.listing import Listing
from nfinspect.tui.panes.analysis import AnalysisPane, Drawing
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.analysis.attention_scores import AttentionScores
    from nfinspect_store.results import Result

SHORT = {"attention_weighted": "weighted", "gradient_guided": "gradient", "rollout": "rollout"}


class AttentionPane(AnalysisPane):
    """The method is chosen in place; each has a result of its own."""

    command_name = "attention"
    help_text = (
        "weighted: the neuron's mean over positions weighted by how much attention they receive, minus its plain mean. "
        "rollout: the same with what the last token attends to through all later layers. gradient: mean over prompts "
        "of the sum of |value x gradient of the NLL by it|. #: the neuron's place by |score|; mean: of its values. "
        "Position 0, where idle heads look, is left out of the scores and shown apart. In Mamba the attention is the "
        "hidden one of its scan. The map is of the layer of the neuron under the cursor, the mean over heads, for the "
        "longest prompt. r reads the run's own prompts; R edits the command, as to --prompts FILE."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "method('attention_weighted')", "Weighted", id="attention.weighted"),
        Binding("2", "method('gradient_guided')", "Gradient", id="attention.gradient"),
        Binding("3", "method('rollout')", "Rollout", id="attention.rollout"),
    ]

    def __init__(self, session: Session, site: str | None = None) -> None:
        self._method = "attention_weighted"
        super().__init__(session, site)

    def columns(self) -> list[Column]:
        return attention_columns(self._method == "gradient_guided", self.glyphs)

    def listing(self) -> Listing:
        return Listing(rows=lambda analysis: analysis.neurons(analysis.scores.num_rows), order=("rank", False))

    def fits(self) -> Callable[[Result], bool]:
        """Its layers, too, are the run's: a model of the same name may be another one."""
        sizes = {layer.layer: layer.neurons for layer in self.session.layers if layer.site == self.site}
        site, method = self.site, self._method
        return lambda result: (
            result.document["site"] == site
            and result.settings["method"] == method
            and all(sizes.get(layer["layer"]) == layer["neurons"] for layer in result.document["layers"])
        )

    def adopt(self, result: Result) -> None:
        site = str(result.document["site"])
        self.site = site if site in self.session.sites else self.site
        self._method = str(result.settings["method"])

    def reader(self) -> Callable[[Result], AttentionScores]:
        return _read

    def options(self) -> tuple[str, ...]:
        return ("--method", self._method)

    def choices(self) -> list[Cell | str]:
        pieces: list[Cell | str] = []
        for key, (method, word) in enumerate(SHORT.items(), start=1):
            here = method == self._method
            pieces += [Cell(f"{key} ", "bold"), Cell(f"[{word}] " if here else f"{word} ", "accent" if here else "dim")]
        return pieces

    def facts(self, analysis: AttentionScores) -> str:
        a = analysis
        return f"{a.method}: mean over {counted(a.samples, 'prompt')}{self._source()}, {a.tokens:,} tokens"

    def note(self, analysis: AttentionScores) -> str:
        return "; ".join(analysis.notes)

    def _source(self) -> str:
        result = self._found.result if self._found is not None else None
        return f" of {read_from(result)}" if result is not None else ""

    def drawings(self, analysis: AttentionScores) -> Sequence[Drawing]:
        scores = Drawing("scores", attention_scores)
        if not analysis.attention_map.num_rows:
            return (scores,)
        return (
            scores,
            Drawing("map", attention_map, follows=True),
            Drawing("sink", attention_sink),
            Drawing("diversity", attention_diversity),
        )

    def action_method(self, method: str) -> None:
        self._method, self._place = method, 0
        self.changed()


def _read(result: Result) -> AttentionScores:
    """In a worker."""
    from nfinspect.analysis.attention_scores import AttentionScores

    return AttentionScores.from_json(result.document, result.table)

"""Neurons that fire on a few tokens, bigrams or trigrams only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType

from nfinspect.analysis.ngram_words import NGRAM_WORDS
from nfinspect.present.numbers import counted
from nfinspect.tui.cells import Cell
from nfinspect.tui.columns.analyses import ngram_columns
from nfinspect.tui.drawings import ngram_buckets, ngram_covered, ngram_detectors
from nfinspect.tui.engine import Session
from nfinspect.tui.listing import Listing
from nfinspect.tui.panes.analysis import AnalysisPane, Drawing
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.analysis.ngrams import NgramAnalysis
    from nfinspect_store.results import Result


class NgramsPane(AnalysisPane):
    """n is chosen in place; each n has a result of its own."""

    command_name = "ngrams"
    help_text = (
        "A neuron that is active at a token is triggered by the n-gram that ends there. k: the fewest n-grams that "
        "hold 95 % of its activations. A detector has a small k (5 tokens, 50 bigrams or trigrams) and covers n-grams: "
        "it fires on at least 95 % of their occurrences, and they hold at least 95 % of its activations. covers: that "
        "share. fired: its activations. suppr.: what it adds to the logits of the last tokens of its n-grams, per unit "
        "of its value (negative: it suppresses them; a dash: the model was not there to ask). After Voita et al. 2023."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("1", "n(1)", "Tokens", id="ngrams.tokens"),
        Binding("2", "n(2)", "Bigrams", id="ngrams.bigrams"),
        Binding("3", "n(3)", "Trigrams", id="ngrams.trigrams"),
    ]

    def __init__(self, session: Session, site: str | None = None) -> None:
        self._n = 1
        super().__init__(session, site)

    def columns(self) -> list[Column]:
        return ngram_columns(self.glyphs)

    def listing(self) -> Listing:
        return Listing(
            rows=lambda analysis: analysis.detectors,
            text=lambda row: "\n".join("".join(ngram.tokens) for ngram in row.ngrams),
            order=("layer", False),
            empty="no neuron is a detector",
        )

    def fits(self) -> Callable[[Result], bool]:
        of_site, n = super().fits(), self._n
        return lambda result: of_site(result) and result.settings.get("n") == n

    def adopt(self, result: Result) -> None:
        super().adopt(result)
        self._n = result.settings["n"]

    def reader(self) -> Callable[[Result], NgramAnalysis]:
        return _read

    def options(self) -> tuple[str, ...]:
        return ("--n", str(self._n))

    def choices(self) -> list[Cell | str]:
        pieces: list[Cell | str] = []
        for n, word in NGRAM_WORDS.items():
            pieces += [Cell(f"{n} ", "bold"), Cell(f"[{word}s] " if n == self._n else f"{word}s ", self._tone(n))]
        return pieces

    def _tone(self, n: int) -> str:
        return "accent" if n == self._n else "dim"

    def facts(self, analysis: NgramAnalysis) -> str:
        a = analysis
        detectors = counted(len(a.detectors), f"{NGRAM_WORDS[a.n]} detector")
        neurons = sum(layer.neurons for layer in a.layers)
        places = f"{a.positions:,} places, {a.distinct:,} different {NGRAM_WORDS[a.n]}s"
        return f"{detectors} among {neurons:,} neurons; {places}"

    def note(self, analysis: NgramAnalysis) -> str:
        return "; ".join(analysis.notes)

    def drawings(self, analysis: Any) -> Sequence[Drawing]:
        return (
            Drawing("by k", ngram_buckets),
            Drawing("detectors", ngram_detectors),
            Drawing("covered", ngram_covered),
        )

    def action_n(self, n: int) -> None:
        self._n, self._place = n, 0
        self.changed()


def _read(result: Result) -> NgramAnalysis:
    from nfinspect.analysis.ngrams import NgramAnalysis

    return NgramAnalysis.from_json(result.document)

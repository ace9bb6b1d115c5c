"""What the token walk asks of a run. Like the session's, its methods may be called from any worker and may block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow.compute as pc

from nfinspect.analysis.numbers import number
from nfinspect.analysis.prompt_text import TextPart, part_of, read_part
from nfinspect.analysis.token_neurons import (
    AtToken,
    SiteFigures,
    TokenRank,
    at_token,
    read_below,
    site_figures,
    unusual_tokens,
)
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nfinspect_store.addresses import Address
    from nfinspect_store.reader import RunFile
    from nfinspect_store.results import Result

FIND = """
SELECT prompt_idx FROM prompts WHERE contains(lower(text), lower($text)) ORDER BY prompt_idx LIMIT 1
"""

PLACE = "SELECT prompt_idx, position FROM tokens WHERE token_idx = $token"

OWN_TOKENS = """
SELECT count(*) FROM (FROM tokens WHERE prompt_idx = $idx UNION ALL BY NAME FROM unrecorded WHERE prompt_idx = $idx)
WHERE NOT generated
"""


@dataclass(frozen=True)
class Question:
    """Which list of the neurons at a token is wanted. histograms: with their own percentiles."""

    token_idx: int
    site: str
    rank: TokenRank
    layer: int | None
    histograms: bool

    def lists_as(self, other: Question | None) -> bool:
        """Whether the same neurons are listed, with or without percentiles."""
        return other is not None and replace(other, histograms=self.histograms) == self

    def statement(self, most: int) -> str:
        """SQL that lists the same neurons, where they are ranked by value; else empty."""
        if self.rank != "value":
            return ""
        site = self.site.replace("'", "''")
        layer = "" if self.layer is None else f" AND layer = {self.layer}"
        return (
            f"SELECT layer, neuron, value FROM activations WHERE token_idx = {self.token_idx} AND site = '{site}'"
            f"{layer} ORDER BY abs(value) DESC, layer, neuron LIMIT {most}"
        )


@dataclass(frozen=True)
class WalkPrompt:
    """A prompt. size: its tokens, those included that are not recorded."""

    prompt_idx: int
    concept: str
    size: int


@dataclass(frozen=True)
class Opened:
    """A prompt, the place of the token to begin with, and the part that it is in, by number."""

    prompt: WalkPrompt
    place: int
    parts: Mapping[int, TextPart]


@dataclass(frozen=True)
class Colouring:
    """What tokens are coloured by: the neuron or the layer, or their surprisal."""

    by: Literal["neuron", "layer", "surprisal", "nothing"]
    site: str = ""
    layer: int = 0
    neuron: Address | None = None


@dataclass(frozen=True)
class Strengths:
    """Of the tokens of a part, in order; None where nothing is known. full: the neuron's largest |value| in the run."""

    values: tuple[float | None, ...]
    full: float = 0.0


@dataclass(frozen=True)
class _Neuron:
    """The neuron that tokens are coloured by: its values on every token, or on those known. full: as in Strengths."""

    address: Address
    values: Mapping[int, float] | NDArray[np.float32]
    full: float


class TokenWalk:
    """One run's texts token by token. What is read again and again is kept: figures of a site, one neuron's values."""

    def __init__(self, run: RunFile, results: Callable[[str], Sequence[Result]]) -> None:
        self._run = run
        self._results = results
        self._lock = threading.Lock()
        self._figures: dict[str, SiteFigures] = {}
        self._neuron: _Neuron | None = None
        self._surprisal: Mapping[str, NDArray[Any]] | None = None

    # texts

    def beginning(self, prompt_idx: int) -> Opened:
        """Raises RequestError if the run has no such prompt."""
        return self._opened(self._prompt(prompt_idx), 0)

    def find(self, wanted: str) -> Opened:
        """The prompt of this number, or the first whose text contains `wanted`, whatever the case. Raises
        RequestError.
        """
        if wanted.isdecimal():
            return self.beginning(int(wanted))
        rows = self._run.sql(FIND, {"text": wanted}).fetchall()
        if not rows:
            raise RequestError(
                f"expected a prompt's number (0-{self._run.prompts - 1}) or a part of its text, found {wanted!r} in no "
                "prompt of this run"
            )
        return self.beginning(int(rows[0][0]))

    def at_token(self, token_idx: int) -> Opened:
        """The prompt of a recorded token, at this token. Raises RequestError."""
        rows = self._run.sql(PLACE, {"token": token_idx}).fetchall()
        if not rows:
            raise RequestError(f"no token {token_idx} in this run: it holds tokens 0-{self._run.tokens - 1}")
        prompt_idx, position = (int(value) for value in rows[0])
        prompt, recorded = self._prompt(prompt_idx), self._run.prompt(prompt_idx)
        every = prompt.size == recorded.tokens
        return self._opened(prompt, token_idx - recorded.first_token if every else position)

    def _prompt(self, prompt_idx: int) -> WalkPrompt:
        return WalkPrompt(prompt_idx, self._run.prompt(prompt_idx).concept, self._run.prompt_size(prompt_idx))

    def _opened(self, prompt: WalkPrompt, place: int) -> Opened:
        number = part_of(place)
        parts = {number: self.part(prompt.prompt_idx, number)}
        if place < parts[number].start:
            parts[number - 1] = self.part(prompt.prompt_idx, number - 1)
        return Opened(prompt, place, parts)

    def part(self, prompt_idx: int, number: int) -> TextPart:
        return read_part(self._run, prompt_idx, number)

    # neurons at a token

    def at(
        self, site: str, token_idx: int, rank: TokenRank, top: int, layer: int | None = None, *, histograms: bool
    ) -> AtToken:
        """The strongest neurons. histograms: with percentiles of all, which takes reading them the first time. Raises
        RequestError where the rank needs what the run does not hold.
        """
        figures = self._of_site(site)
        if figures.norms is None and (rank == "contribution" or site == "resid"):
            figures = self._with_norms(figures)
        if figures.below is None and (histograms or rank == "percentile"):
            figures = replace(figures, below=read_below(self._run, figures.layers))
            with self._lock:
                self._figures[site] = replace(self._figures[site], below=figures.below)
        return at_token(self._run, figures, token_idx, rank, top, layer)

    def _of_site(self, site: str) -> SiteFigures:
        with self._lock:
            if site not in self._figures:
                self._figures[site] = site_figures(self._run, site)
            return self._figures[site]

    def _with_norms(self, figures: SiteFigures) -> SiteFigures:
        """Raises RequestError if they are neither saved nor known without the model."""
        site, neurons = figures.layers[0].site, int(figures.starts[-1])
        if site == "resid":
            norms = np.ones(neurons, np.float32)
        else:
            table = self._saved("the lengths of the neurons' output weights").table("norms")
            rows = table.filter(pc.equal(table.column("site"), site)).sort_by(
                [("layer", "ascending"), ("neuron", "ascending")]
            )
            if rows.num_rows != neurons:
                raise RequestError(
                    f"expected the lengths of {neurons} output weights at {site}, found {rows.num_rows}: "
                    "nfinspect walk says why"
                )
            norms = rows.column("norm").to_numpy()
        figures = replace(figures, norms=norms)
        with self._lock:
            self._figures[site] = replace(self._figures[site], norms=norms)
        return figures

    def _saved(self, what: str) -> Result:
        """What `nfinspect walk` has saved. what: that is needed of it. Raises RequestError if there is nothing."""
        saved = self._results("walk")
        if not saved:
            raise RequestError(
                f"expected {what}, found none: no capture records them; m (nfinspect walk) has the model give them"
            )
        return saved[0]

    # how tokens are coloured

    def strengths(self, colouring: Colouring, part: TextPart) -> Strengths:
        """Of every token of a part. Raises RequestError or StoreError where the run does not hold what it takes."""
        match colouring.by:
            case "neuron":
                assert colouring.neuron is not None
                return self._of_neuron(colouring.neuron, part)
            case "layer":
                return self._of_layer(colouring, part)
            case "surprisal":
                return self._of_surprisal(part)
        return Strengths((None,) * len(part.rows.token))

    def _of_neuron(self, address: Address, part: TextPart) -> Strengths:
        kept = self._neuron
        if kept is None or kept.address != address:
            kept = self._neuron = self._read_neuron(address)  # not under the lock: other questions need not wait
        places = part.rows.token_idx.tolist()
        if isinstance(kept.values, Mapping):
            return Strengths(tuple(kept.values.get(i) for i in places), kept.full)
        known = (number(kept.values[i]) if i >= 0 else None for i in places)  # NaN: not routed to the neuron's expert
        return Strengths(tuple(known), kept.full)

    def _read_neuron(self, address: Address) -> _Neuron:
        layer, neuron = self._run.resolve(address)
        figures = self._of_site(layer.site)
        at = figures.span(layer.layer).start + neuron
        full = float(max(abs(figures.minimum[at]), abs(figures.maximum[at])))
        if self._run.has_values:
            return _Neuron(address, self._run.neuron(layer.layer, neuron, layer.site), full)
        examples = self._run.examples(layer.site, layer.layer, neuron)
        return _Neuron(address, {one.token_idx: one.value for one in examples}, full)

    def _of_layer(self, colouring: Colouring, part: TextPart) -> Strengths:
        indices = part.rows.token_idx
        recorded = indices[indices >= 0]
        if not len(recorded):
            return Strengths((None,) * len(indices))
        start, stop = int(recorded[0]), int(recorded[-1]) + 1
        found = unusual_tokens(self._run, self._of_site(colouring.site), colouring.layer, start, stop)
        values = [float(found[i - start]) if i >= 0 else np.nan for i in indices.tolist()]
        return Strengths(tuple(None if np.isnan(value) else value for value in values))

    def _of_surprisal(self, part: TextPart) -> Strengths:
        if self._surprisal is None:
            table = self._saved("the tokens' surprisals").table("surprisal")
            self._surprisal = {name: table.column(name).to_numpy() for name in ("prompt_idx", "place", "surprisal")}
        found = self._surprisal
        here = (found["prompt_idx"] == part.prompt_idx) & (found["place"] >= part.start) & (found["place"] < part.stop)
        values: list[float | None] = [None] * len(part.rows.token)
        for place, nats in zip(found["place"][here].tolist(), found["surprisal"][here].tolist(), strict=True):
            values[place - part.start] = nats
        return Strengths(tuple(values))

    # the logit lens

    def lens(self, prompt_idx: int) -> Mapping[str, Any]:
        """The document of the newest saved logit lens of the prompt, at each of its tokens. Raises RequestError if
        there is none.
        """
        prompt = self._run.prompt(prompt_idx)
        saved = [one for one in self._results("lens") if one.settings.get("prompt") == prompt.text]
        for result in saved:
            if result.document.get("prompt_tokens"):
                own = int(self._run.sql(OWN_TOKENS, {"idx": prompt_idx}).fetchall()[0][0])
                found = len(result.document["prompt_tokens"])
                if found == own:
                    return result.document
        why = "a saved one has other tokens than the run" if saved else "none is saved"
        raise RequestError(f"expected a logit lens of prompt {prompt_idx}, found that {why}: r in :lens computes one")

"""Neurons that detect tokens, bigrams or trigrams, and what each layer adds (methods §5).

    tokens ─► ngram_ids: a number for the n-gram that ends at each token
                 │
    one layer, some neurons at a time ─► triggers: K_n and V_n of each neuron ─► ngram_layers: what is new

Voita, Ferrando & Nalmpantis 2023, arXiv 2309.04827, §4. How strongly a detector suppresses its own triggers needs the
model's unembedding and is added by nfinspect.experiments.suppression.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from nfinspect.analysis.chosen import chosen_layers
from nfinspect.analysis.enough import few_ngram_tokens
from nfinspect.analysis.firing import fired_chunks
from nfinspect.analysis.ngram_ids import NgramIndex, read_ngrams, token_texts
from nfinspect.analysis.ngram_layers import LayerCover, LayerNgrams
from nfinspect.analysis.ticks import Tick, silent
from nfinspect.analysis.triggers import FEWEST_SEEN, MOST, NEAREST, PERCENT, Triggers, find_triggers, nearness
from nfinspect.json_values import Document
from nfinspect_store.routes import refuse_absent
from nfinspect_store.tables import RunTables
from nfinspect_store.token_text import whole_text
from nfinspect_store.types import Layer


@dataclass(frozen=True)
class CoveredNgram(Document):
    """An n-gram on which a detector fires nearly always. occurrences: how often it was counted; activations: how often
    the neuron fired there.

    tokens: the text of each, a piece of a character as `<E4 B8>`; text: that of all together, with whole characters.
    """

    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    activations: int
    occurrences: int
    text: str


@dataclass(frozen=True)
class Detector(Document):
    """A neuron whose activations fall on a few n-grams. coverage: share of the activations on `ngrams`, 0-1.

    suppression: mean direct effect of its output on the logits of the n-grams' last tokens, negative where it
    suppresses them; None if it was not computed, which takes the model.
    """

    site: str
    layer: int
    neuron: int
    k: int
    activations: int
    coverage: float
    suppression: float | None
    ngrams: tuple[CoveredNgram, ...]

    @property
    def address(self) -> str:
        """`L5/N123`; the site is in `site`."""
        return f"L{self.layer}/N{self.neuron}"


@dataclass(frozen=True)
class NearDetector(Document):
    """A neuron that is nearest to a detector where none is one: its K_n, activations, and coverage, 0-1."""

    site: str
    layer: int
    neuron: int
    k: int
    activations: int
    coverage: float


@dataclass(frozen=True)
class NgramAnalysis(Document):
    """The detectors of a site, in order of layer and neuron, and its layers.

    positions: tokens at which an n-gram was counted; distinct: different n-grams. suppression_model: the model whose
    unembedding the suppressions were computed with, None if they were not. nearest: where there is no detector, those
    that are nearest to one.
    """

    n: int
    site: str
    positions: int
    distinct: int
    suppression_model: str | None
    detectors: tuple[Detector, ...]
    layers: tuple[LayerNgrams, ...]
    nearest: tuple[NearDetector, ...] = ()

    JSON = ("n", "site", "positions", "distinct", "suppression_model", "detectors", "nearest", "layers", "notes")

    @property
    def notes(self) -> tuple[str, ...]:
        """For the user: on how few tokens the detectors rest, and what is nearest to one where there is none."""
        return tuple(filter(None, [few_ngram_tokens(self.positions, FEWEST_SEEN), self._missed]))

    @property
    def _missed(self) -> str:
        if self.detectors:
            return ""
        near = "; ".join(
            f"L{one.layer}/N{one.neuron} with k = {one.k:,} and {100 * one.coverage:.0f} %" for one in self.nearest
        )
        takes = f"a detector has k <= {MOST[self.n]} and {PERCENT} % of its activations on n-grams that it covers"
        fired = any(layer.active for layer in self.layers)
        return f"{takes}; the nearest: {near}" if near else takes if fired else f"{takes}, and no neuron fired"

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """From the document of a saved result."""
        detectors = tuple(
            Detector(**{**found, "ngrams": tuple(_covered(ngram) for ngram in found["ngrams"])})
            for found in document["detectors"]
        )
        layers = tuple(LayerNgrams(**layer) for layer in document["layers"])
        nearest = tuple(NearDetector(**one) for one in document.get("nearest", ()))  # earlier ones have none
        facts = {name: value for name, value in document.items() if name != "notes"}
        return cls(**{**facts, "detectors": detectors, "layers": layers, "nearest": nearest})


def ngrams(
    run: RunTables,
    n: int = 1,
    site: str | None = None,
    layers: Sequence[int] | None = None,
    tick: Tick = silent,
) -> NgramAnalysis:
    """The neurons of a site that detect tokens (n = 1), bigrams or trigrams. layers: all of them if not given.

    Memory is that of one chunk of neurons: no table of neurons by n-grams is built. tick: neurons done, of all. Raises
    RequestError for an unknown site, layer or n, and where no prompt is long enough; StoreError for a run without
    values.
    """
    chosen = chosen_layers(run, site, layers)
    if run.has_values:
        refuse_absent(chosen)
    index = read_ngrams(run, n)
    total = sum(layer.neurons for layer in chosen)
    found: list[tuple[Layer, int, Triggers]] = []
    nearest: list[tuple[Layer, int, Triggers]] = []
    summaries: list[LayerNgrams] = []
    cover = LayerCover()
    done = 0
    for layer in chosen:
        k = np.zeros(layer.neurons, np.int64)
        detectors: list[Triggers] = []
        for chunk in fired_chunks(run, layer):
            near: list[Triggers] | None = None if found else []
            k[chunk.first : chunk.first + len(chunk.fired)], here = find_triggers(chunk.fired, index, near)
            nearest += [(layer, chunk.first + one.neuron, one) for one in near or ()]
            nearest = sorted(nearest, key=lambda one: nearness(one[2], n))[:NEAREST]  # ties in order
            detectors += here
            found += [(layer, chunk.first + one.neuron, one) for one in here]
            done += len(chunk.fired)
            tick(done, total)
        summaries.append(cover.add(layer, k, detectors))
    return NgramAnalysis(
        n=n,
        site=chosen[0].site,
        positions=index.positions,
        distinct=index.distinct,
        suppression_model=None,
        detectors=_detectors(run, index, found),
        layers=tuple(summaries),
        nearest=()
        if found
        else tuple(
            NearDetector(layer.site, layer.layer, neuron, one.k, one.activations, one.coverage)
            for layer, neuron, one in nearest
        ),
    )


def _detectors(run: RunTables, index: NgramIndex, found: Sequence[tuple[Layer, int, Triggers]]) -> tuple[Detector, ...]:
    texts = token_texts(run, {i for *_, triggers in found for i in index.token_ids[triggers.covered].ravel().tolist()})

    def covered(number: int, activations: int) -> CoveredNgram:
        ids = index.token_ids[number].tolist()
        tokens, raw = zip(*(texts[i] for i in ids), strict=True)
        text = whole_text(tokens, raw).text
        return CoveredNgram(tuple(ids), tokens, activations, int(index.seen[number]), text)

    return tuple(
        Detector(
            site=layer.site,
            layer=layer.layer,
            neuron=neuron,
            k=triggers.k,
            activations=triggers.activations,
            coverage=triggers.coverage,
            suppression=None,
            ngrams=tuple(map(covered, triggers.covered.tolist(), triggers.counts.tolist())),
        )
        for layer, neuron, triggers in found
    )


def _covered(ngram: Mapping[str, Any]) -> CoveredNgram:
    return CoveredNgram(**{**ngram, "token_ids": tuple(ngram["token_ids"]), "tokens": tuple(ngram["tokens"])})

"""One neuron: its statistics, its histogram, the text that sets it off, and its mean for each concept."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.classes import HealthOptions
from nfinspect.analysis.distribution import percentiles
from nfinspect.analysis.firing import firing_threshold
from nfinspect.analysis.neurons import NeuronRow, neuron_row
from nfinspect.analysis.numbers import number
from nfinspect.json_values import Document
from nfinspect_store.addresses import Address
from nfinspect_store.histogram import EDGES
from nfinspect_store.tables import RunTables
from nfinspect_store.token_text import WholeText, whole_text
from nfinspect_store.types import Example, Layer, Precision, TokenRows

LINEAR_BINS = 60
WINDOW = 12
"""Tokens shown on either side of an example's own."""

CHARACTER = 3
"""Tokens that a character can extend beyond the one where it begins or ends: UTF-8 has four bytes at most."""

READ_CONCEPTS = """
SELECT concept, n, mean, if(fired < 0, NULL, fired / n), maximum
FROM concept_statistics WHERE layer_id = $layer AND neuron = $neuron AND n > 0
"""

READ_SPANS = "SELECT concept, first_token, tokens FROM prompts WHERE tokens > 0 ORDER BY first_token"

READ_PROMPT_CONCEPTS = "SELECT prompt_idx, concept FROM prompts WHERE list_contains($prompts, prompt_idx)"

COUNT_PROMPTS = "SELECT concept, count(*) FROM prompts GROUP BY concept"


@dataclass(frozen=True)
class NeuronHistogram(Document):
    """counts[i] values are between edges[i] and edges[i+1].

    linear: equal bins from the lowest to the highest stored value; else the signed-log bins from the first to the last
    that is not empty, the outer edges being the lowest and the highest value.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    linear: bool


@dataclass(frozen=True)
class WindowToken(Document):
    """A token near an example's, with this neuron's value on it (None if values were not kept, or the token was not
    recorded, which then has no token_idx either, or it was not routed to the neuron's expert).

    token: its own text, a piece of a character as `<E4 B8>`. start, stop: the characters of the example's text that are
    wholly or partly the token's; tokens that share a character overlap.
    """

    token_idx: int | None
    position: int
    token: str
    generated: bool
    value: float | None
    start: int
    stop: int


@dataclass(frozen=True)
class ExampleText(Document):
    """An example with its text: up to WINDOW tokens of its prompt on either side. window[at] is the example's
    token.
    """

    token_idx: int
    prompt_idx: int
    concept: str
    position: int
    token: str
    value: float
    text: str
    window: tuple[WindowToken, ...]
    at: int

    def pieces(self, near: range | None = None) -> list[str]:
        """The text cut into one piece for each token of the window: whole characters, a shared one going to the
        example's own token first (nfinspect_store.token_text). near: '' for tokens outside it.
        """
        found = WholeText(self.text, tuple((t.start, t.stop) for t in self.window)).pieces(self.at)
        return found if near is None else [text if i in near else "" for i, text in enumerate(found)]


@dataclass(frozen=True)
class ConceptMean(Document):
    """The neuron over all tokens of a concept's prompts; firing_rate is None where it is not known, prompts for a
    neuron of an expert: how many have a token that was routed to it is not stored.
    """

    concept: str
    prompts: int | None
    tokens: int
    mean: float | None
    firing_rate: float | None
    max: float | None


@dataclass(frozen=True)
class NeuronDetail:
    """Everything about one neuron; examples in order of rank, concepts in order of first appearance.

    median: of the values; if they were not kept, from the histogram, exact to its bin. precision: how the values are
    stored, None if they were not kept; worst_error: how far any of them may be off. notes: on the run's tokens. gates:
    by token_idx of the examples, whether the gate's pre-activation is above 0 there; empty where that is not known.
    expert: of a mixture of experts the one that the neuron is of; all figures are then of the tokens routed to it.
    """

    row: NeuronRow
    histogram: NeuronHistogram
    top_examples: tuple[ExampleText, ...]
    min_examples: tuple[ExampleText, ...]
    random_examples: tuple[ExampleText, ...]
    concepts: tuple[ConceptMean, ...]
    median: float | None = None
    precision: Precision | None = None
    worst_error: float | None = None
    notes: tuple[str, ...] = ()
    gates: Mapping[int, bool] = field(default_factory=dict)
    expert: int | None = None

    @property
    def about_values(self) -> str:
        """How far single values may be off; empty where they are exact."""
        return f"values are {self.precision}, at most {self.worst_error:.3g} off" if self.worst_error else ""

    def to_json(self) -> dict[str, object]:
        return {
            **self.row.to_json(),
            **({} if self.expert is None else {"expert": self.expert}),
            "median": self.median,
            "histogram": self.histogram.to_json(),
            "top_examples": [example.to_json() for example in self.top_examples],
            "min_examples": [example.to_json() for example in self.min_examples],
            "random_examples": [example.to_json() for example in self.random_examples],
            "concepts": [concept.to_json() for concept in self.concepts],
            "precision": self.precision,
            "worst_error": self.worst_error,
            "notes": list(self.notes),
        }


def neuron_detail(
    run: RunTables, address: Address | str, window: int = WINDOW, options: HealthOptions | None = None
) -> NeuronDetail:
    """One neuron of a run. window: tokens on either side of an example's; options: the thresholds of its class. Raises
    RequestError when there is no such neuron.
    """
    layer, neuron = run.resolve(address)
    values = run.neuron(layer.layer, neuron, layer.site) if run.has_values else None
    row = neuron_row(run, layer, neuron)
    examples = run.examples(layer.site, layer.layer, neuron, values)
    texts = example_texts(run, examples, values, window)
    told = _concepts_told(run, layer, neuron)
    # A run with values stores no statistics by concept but those of experts, and firing that depends on the layer's
    # scale is never stored.
    fired = None
    if values is not None and (not told or layer.fires == "scale" or layer.experts):
        fired = fired_on(run, layer, neuron, values)
    if values is not None and fired is not None and (not told or layer.fires == "scale"):
        told = _told_by_values(run, layer, values, fired)
    held = None if values is None else there(layer, values)
    return NeuronDetail(
        row=row if options in (None, HealthOptions()) else neuron_row(run, layer, neuron, options),
        histogram=_signed_log(run, layer, neuron, row) if held is None or not len(held) else _linear(held),
        top_examples=tuple(text for example, text in zip(examples, texts, strict=True) if example.kind == "top"),
        min_examples=tuple(text for example, text in zip(examples, texts, strict=True) if example.kind == "min"),
        random_examples=tuple(text for example, text in zip(examples, texts, strict=True) if example.kind == "random"),
        concepts=_concept_means(run, layer, told),
        median=_median(run, layer, neuron, row, held),
        precision=run.precision if run.has_values else None,
        worst_error=run.worst_error.get(layer.site, 0.0) if run.has_values else None,
        notes=run.figure_notes,
        gates={}
        if fired is None or layer.fires != "gate"
        else {e.token_idx: bool(fired[e.token_idx]) for e in examples},
        expert=neuron // layer.width if layer.experts else None,
    )


def _median(
    run: RunTables, layer: Layer, neuron: int, row: NeuronRow, values: NDArray[np.float32] | None
) -> float | None:
    if values is not None:
        return number(np.median(values.astype(np.float64))) if len(values) else None
    if row.min is None or row.max is None:
        return None
    return number(percentiles(run.histogram(layer.site, layer.layer, neuron), row.min, row.max, [50])[0])


def _linear(values: NDArray[np.float32]) -> NeuronHistogram:
    """LINEAR_BINS equal bins from the lowest to the highest value; one bin for a constant neuron."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return NeuronHistogram((low, high), (len(values),), linear=True)
    counts, edges = np.histogram(values.astype(np.float64), LINEAR_BINS, (low, high))
    return NeuronHistogram(tuple(edges.tolist()), tuple(counts.tolist()), linear=True)


def _signed_log(run: RunTables, layer: Layer, neuron: int, row: NeuronRow) -> NeuronHistogram:
    counts = run.histogram(layer.site, layer.layer, neuron)
    held = np.flatnonzero(counts)
    if not len(held) or row.min is None or row.max is None:
        return NeuronHistogram((), (), linear=False)
    first, last = int(held[0]), int(held[-1])
    edges = np.clip(EDGES[first : last + 2], row.min, row.max)
    return NeuronHistogram(tuple(edges.tolist()), tuple(counts[first : last + 1].tolist()), linear=False)


def example_texts(
    run: RunTables, examples: Sequence[Example], values: NDArray[np.float32] | None, window: int = WINDOW
) -> tuple[ExampleText, ...]:
    """The examples with their text. values: the neuron on every token of the run, float32[tokens], or
    None; window: tokens on either side.
    """
    if not examples:
        return ()
    rows = run.tokens_near(sorted({example.token_idx for example in examples}), window + CHARACTER)
    place = {int(token_idx): i for i, token_idx in enumerate(rows.token_idx)}
    prompts = {"prompts": sorted({int(prompt_idx) for prompt_idx in rows.prompt_idx})}
    concepts = dict(run.cursor().execute(READ_PROMPT_CONCEPTS, prompts).fetchall())
    texts = []
    for example in examples:
        at = place[example.token_idx]
        prompt_idx = int(rows.prompt_idx[at])
        away = np.abs(rows.position - rows.position[at])
        near = np.flatnonzero((rows.prompt_idx == prompt_idx) & (away <= window + CHARACTER)).tolist()
        read = whole_text([rows.token[i] for i in near], [rows.raw[i] for i in near])
        middle = near.index(at)
        kept = range(max(0, middle - window), min(len(near), middle + window + 1))
        begin = read.spans[kept.start][0]
        tokens = tuple(
            _window_token(rows, near[k], values, read.spans[k][0] - begin, read.spans[k][1] - begin) for k in kept
        )
        texts.append(
            ExampleText(
                token_idx=example.token_idx,
                prompt_idx=prompt_idx,
                concept=concepts[prompt_idx],
                position=int(rows.position[at]),
                token=rows.token[at],
                value=float(example.value),
                text=read.text[begin : read.spans[kept.stop - 1][1]],
                window=tokens,
                at=middle - kept.start,
            )
        )
    return tuple(texts)


def _window_token(rows: TokenRows, i: int, values: NDArray[np.float32] | None, start: int, stop: int) -> WindowToken:
    token_idx = int(rows.token_idx[i])
    recorded = token_idx >= 0
    return WindowToken(
        token_idx=token_idx if recorded else None,
        position=int(rows.position[i]),
        token=rows.token[i],
        generated=bool(rows.generated[i]),
        value=None if values is None or not recorded or np.isnan(values[token_idx]) else float(values[token_idx]),
        start=start,
        stop=stop,
    )


Told = list[tuple[str, int, float, float, float]]
"""For each concept: its tokens, the mean, the share of them on which the neuron fires, and the highest value."""


def _concepts_told(run: RunTables, layer: Layer, neuron: int) -> Told:
    """What the run stores of them; nothing in a run with values."""
    return run.cursor().execute(READ_CONCEPTS, {"layer": layer.layer_id, "neuron": neuron}).fetchall()


def _concept_means(run: RunTables, layer: Layer, told: Told) -> tuple[ConceptMean, ...]:
    prompts = {} if layer.experts else dict(run.cursor().execute(COUNT_PROMPTS).fetchall())
    found = {
        concept: ConceptMean(concept, prompts.get(concept), int(n), number(mean), number(rate), number(highest))
        for concept, n, mean, rate, highest in told
    }
    return tuple(found[concept] for concept in run.concepts if concept in found)


def _told_by_values(run: RunTables, layer: Layer, values: NDArray[np.float32], fired: NDArray[np.bool_]) -> Told:
    places: dict[str, list[NDArray[np.int64]]] = {}
    for concept, start, size in run.cursor().execute(READ_SPANS).fetchall():
        places.setdefault(concept, []).append(np.arange(start, start + size))
    told = []
    for concept, spans in places.items():
        chosen = np.concatenate(spans)
        if layer.experts:
            chosen = chosen[~np.isnan(values[chosen])]
            if not len(chosen):
                continue
        mean = float(values[chosen].mean(dtype=np.float64))
        told.append((concept, len(chosen), mean, float(fired[chosen].mean()), float(values[chosen].max())))
    return told


def fired_on(run: RunTables, layer: Layer, neuron: int, values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """On which tokens the neuron fires (methods §1): bool[tokens]; on none that was not routed to its expert."""
    threshold = firing_threshold(run, layer)
    if threshold is not None:
        return np.abs(values) >= threshold
    if layer.fires != "gate":
        return values > 0
    fired = np.zeros(len(values), np.bool_)
    if layer.experts:
        for one in run.blocks(layer, neurons=[neuron], fired=True, routed=True):
            assert one.fired is not None
            fired[one.index] = one.fired[0]
        return fired
    for rows in run.gates(layer, range(neuron, neuron + 1)):
        fired[rows.first : rows.first + rows.fired.shape[1]] = rows.fired
    return fired


def there(layer: Layer, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of a neuron's values on every token those that there are: a neuron of an expert has none on the other tokens."""
    return values[~np.isnan(values)] if layer.experts else values

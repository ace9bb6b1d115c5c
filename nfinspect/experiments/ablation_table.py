"""What sets of neurons contribute: a text's perplexity without them, compared with random sets (methods §9)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nfinspect.analysis.enough import few_units
from nfinspect.analysis.neuron_sets import NeuronSet
from nfinspect.analysis.ticks import Tick, silent
from nfinspect.experiments.ablation import LayerAblation, ablated
from nfinspect.experiments.addresses import resolve_addresses
from nfinspect.experiments.bootstrap import DRAWS, bootstrap_interval
from nfinspect.experiments.controls import FEWEST, Controls, compare_with_controls, control_sets, crowded_layer
from nfinspect.experiments.documents import Corpus
from nfinspect.experiments.perplexity import Scorer, chosen_context, mean_nll, perplexity
from nfinspect.experiments.run_model import require_plain
from nfinspect.json_values import Document
from nfinspect.models import LayerSite, LoadedModel
from nfinspect_store.errors import RequestError
from nfinspect_store.tables import RunTables

Mode = Literal["zero", "mean"]


@dataclass(frozen=True)
class AblatedSet(Document):
    """One set. nll and delta_nll in nats per token, ci95 of delta_nll; perplexity None if too large for a float."""

    name: str
    neurons: int
    mode: Mode
    nll: float
    perplexity: float | None
    delta_nll: float
    ci95: tuple[float | None, float | None]
    control: Controls


@dataclass(frozen=True)
class AblationTable:
    """Several sets on one text. tokens: how many were predicted; units: how many documents or windows (`resampled`) the
    bootstrap drew from.

    begin: the token ids before the text in every window, which are not predicted. notes: what the user should be told.
    model_of_run: whether the model is that of the run whose neurons were cut out, None without a run.
    """

    model: str
    text: str
    tokens: int
    begin: tuple[int, ...]
    context: int
    stride: int
    seed: int
    resampled: Literal["documents", "windows"]
    units: int
    baseline_nll: float
    sets: tuple[AblatedSet, ...]
    notes: tuple[str, ...]
    model_of_run: bool | None = None

    def to_json(self) -> dict[str, object]:
        return {
            "model": self.model,
            "model_of_run": self.model_of_run,
            "text": self.text,
            "tokens": self.tokens,
            "begin": list(self.begin),
            "context": self.context,
            "stride": self.stride,
            "seed": self.seed,
            "bootstrap": {"resampled": self.resampled, "units": self.units, "draws": DRAWS},
            "baseline": {"nll": self.baseline_nll, "perplexity": perplexity(self.baseline_nll)},
            "sets": [one.to_json() for one in self.sets],
            "notes": list(self.notes),
        }


def ablate(
    loaded: LoadedModel,
    corpus: Corpus,
    sets: Sequence[NeuronSet],
    *,
    mode: Mode = "zero",
    run: RunTables | None = None,
    controls: int = FEWEST,
    context: int | None = None,
    stride: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    tick: Tick = silent,
) -> AblationTable:
    """The perplexity of a text without each set, and without random sets of the same size in every layer.

    mode: `zero` sets values to 0, `mean` to their mean over `run`. controls: random sets for each set, >= 20, or 0.
    context, stride: of the sliding windows (chosen_context). tick: called with the forward passes done, and of how
    many. Without sets the result is the perplexity of the text alone.

    Raises RequestError for two sets of one name, a neuron that the model does not have, too few controls, mode `mean`
    without a run of this model, captured without edits, that holds the sets' layers; UnknownSite, SilentHook.
    """
    check_controls(controls)
    places = [resolve_addresses(loaded, one.addresses, experts=True) for one in check_sets(sets)]
    means = _means(run, loaded, places) if mode == "mean" else {}
    context, stride = chosen_context(loaded, context, stride, corpus.begin)
    scorer = Scorer(loaded, corpus.token_ids, context, stride, batch_size, corpus.begin)
    drawn, notes = [], list(dict.fromkeys((*corpus.notes, *(said for one in sets for said in one.notes))))
    for one, where in zip(sets, places, strict=True):
        crowded = crowded_layer(where) if controls else None
        drawn.append([] if crowded else control_sets(where, controls, seed))
        if crowded:
            notes.append(
                f"{one.name} has no controls: it holds {len(where[crowded]):,} of the {crowded.neurons:,} neurons of "
                f"layer {crowded.layer}, and fewer are left{' in an expert' if crowded.experts else ''} than it takes"
            )
    total = scorer.passes * (1 + sum(1 + len(these) for these in drawn))
    done = 0

    def without(neurons: Mapping[LayerSite, Sequence[int] | NDArray[np.int64]]) -> NDArray[np.float64]:
        nonlocal done
        layers = []
        for site, chosen in neurons.items():
            index = np.asarray(chosen, np.int64)
            layers.append(LayerAblation(site, index, means[site][index] if mode == "mean" else None))
        with ablated(loaded, layers):
            nll = scorer.nll(tick, done, total)
        done += scorer.passes
        return nll

    whole = without({})
    unit, resampled = _units(corpus, scorer)
    units = len(np.unique(unit))
    if sets and (few := few_units(units, resampled)):
        notes.append(few)
    rows = []
    for one, where, these in zip(sets, places, drawn, strict=True):
        cut = without(where)
        delta = mean_nll(cut - whole)
        rows.append(
            AblatedSet(
                name=one.name,
                neurons=sum(len(neurons) for neurons in where.values()),
                mode=mode,
                nll=mean_nll(cut),
                perplexity=perplexity(mean_nll(cut)),
                delta_nll=delta,
                ci95=bootstrap_interval(cut - whole, unit, seed),
                control=compare_with_controls(delta, [mean_nll(without(control) - whole) for control in these]),
            )
        )
    return AblationTable(
        model=loaded.name,
        text=corpus.name,
        tokens=len(scorer.target),
        begin=corpus.begin,
        context=context,
        stride=stride,
        seed=seed,
        resampled=resampled,
        units=units,
        baseline_nll=mean_nll(whole),
        sets=tuple(rows),
        notes=tuple(notes),
    )


def check_controls(controls: int) -> int:
    """`controls`, if it is 0, or FEWEST or more. Raises RequestError."""
    if controls != 0 and controls < FEWEST:
        raise RequestError(f"expected --controls of {FEWEST} or more, or 0 for none, found {controls}")
    return controls


def check_sets(sets: Sequence[NeuronSet]) -> Sequence[NeuronSet]:
    """`sets`, if their names differ. Raises RequestError."""
    names = [one.name for one in sets]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RequestError(f"two sets are called {twice!r}: give each set once, or rename one of two files")
    return sets


def _means(
    run: RunTables | None, loaded: LoadedModel, places: Sequence[Mapping[LayerSite, Sequence[int]]]
) -> dict[LayerSite, NDArray[np.float32]]:
    """The mean of every neuron of the sets' layers over a run: float32[neurons] each."""
    if run is None:
        raise RequestError("--mode mean needs --from RUN: the run whose means replace the values")
    require_plain(run, "--mode mean")
    means: dict[LayerSite, NDArray[np.float32]] = {}
    for site in dict.fromkeys(site for where in places for site in where):
        if site.experts:
            raise RequestError(
                f"expected --mode zero for neurons of experts, as in layer {site.layer} of {loaded.name}, found mean: "
                "what is routed to them in the text need not be what was in the run"
            )
        layer = run.resolve_layer(site.layer, site.site)
        if layer.neurons != site.neurons:
            raise RequestError(
                f"layer {site.layer} of the run has {layer.neurons:,} neurons at {site.site}, that of {loaded.name} "
                f"has {site.neurons:,}: it is another model"
            )
        means[site] = run.statistics(site.site, layer=site.layer).mean.astype(np.float32)
    return means


def _units(corpus: Corpus, scorer: Scorer) -> tuple[NDArray[np.int64], Literal["documents", "windows"]]:
    """What the bootstrap draws: each predicted token's document, or its window if there is only one document."""
    if corpus.document is not None:
        document = corpus.document[scorer.target]
        if len(np.unique(document)) > 1:
            return document, "documents"
    return scorer.window, "windows"

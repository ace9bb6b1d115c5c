"""A run for Python users: arrays, relations, and the analyses as methods."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfinspect_store.addresses import Address
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile

if TYPE_CHECKING:
    from nfinspect.analyses.similar import Similar
    from nfinspect.analysis.classes import HealthOptions, ThresholdScale
    from nfinspect.analysis.delta import Delta
    from nfinspect.analysis.health import NetworkReport
    from nfinspect.analysis.neuron import NeuronDetail
    from nfinspect.analysis.neurons import NeuronPage
    from nfinspect.analysis.ngrams import NgramAnalysis
    from nfinspect.analysis.overlap import Overlap
    from nfinspect.analysis.positions import PositionAnalysis
    from nfinspect.analysis.trace import Trace


class Run(RunFile):
    """One run, read-only. See RunFile for the arrays: activations, neuron, statistics, prompt_means …"""

    def health(
        self,
        site: str | None = None,
        *,
        threshold_missing: float = 0.01,
        threshold_weak: float = 0.1,
        threshold_scale: "ThresholdScale" = "layer",
        skip_first: bool = False,
        threshold_activation_rate: float = 0.01,
    ) -> "NetworkReport":
        """Layer health and the network report (docs/methods.md, 2).

        threshold_missing, threshold_weak: on E|a|, in layer scales or absolute, as threshold_scale says. skip_first:
        leave out the tokens at position 0. threshold_activation_rate: 0-1; below it a layer has an issue. Raises
        RequestError for invalid thresholds or an unknown site.
        """
        from nfinspect.analysis.classes import HealthOptions
        from nfinspect.analysis.health import network_report

        options = HealthOptions(
            threshold_missing, threshold_weak, threshold_scale, skip_first, threshold_activation_rate
        )
        return network_report(self, site, options)

    def neurons(
        self,
        site: str | None = None,
        cls: str | None = None,
        layer: int | None = None,
        sort: str = "max",
        descending: bool = True,
        filter: str | None = None,  # noqa: A002
        limit: int | None = 50,
        offset: int = 0,
        options: "HealthOptions | None" = None,
    ) -> "NeuronPage":
        """A page of neurons; with limit=None all of them.

        cls: a health class, such as "dead"; sort: a column of the table `neurons`; filter: such as "max>4 and
        sporadic". options: the thresholds of the classes. Raises RequestError for an unknown class, layer, column …
        """
        from nfinspect.analysis.neurons import list_neurons

        return list_neurons(self, site, cls, layer, sort, descending, filter, limit, offset, options)

    def neuron_detail(self, address: Address | str) -> "NeuronDetail":
        """One neuron with its histogram, examples and concept means: `run.neuron_detail("L5/N123")`."""
        from nfinspect.analysis.neuron import neuron_detail

        return neuron_detail(self, address)

    def trace(
        self,
        concept: str,
        baseline: str | None = None,
        tokens: str | None = None,
        top: int = 10,
        rank: str = "difference",
        site: str | None = None,
    ) -> "Trace":
        """Neurons ranked by concept against baseline (docs/methods.md, 3).

        baseline: a concept, the one called `baseline` if not given, "" for none; tokens: last, generated or all; top:
        neurons listed; rank: difference, effect or auroc. Raises RequestError for an unknown concept, choice or site.
        """
        from nfinspect.analysis.trace import trace

        return trace(self, concept, baseline, tokens, top, rank, site)

    def overlap(
        self,
        concepts: Sequence[str],
        baseline: str | None = None,
        tokens: str | None = None,
        top: int = 10,
        rank: str = "difference",
        site: str | None = None,
    ) -> "Overlap":
        """What the traces of two or more concepts share (docs/methods.md, 4). The rest is as in `trace`."""
        from nfinspect.analysis.overlap import overlap

        return overlap(self, concepts, baseline, tokens, top, rank, site)

    def ngrams(self, n: int = 1, site: str | None = None, layers: Sequence[int] | None = None) -> "NgramAnalysis":
        """Neurons that detect tokens (n = 1), bigrams or trigrams (docs/methods.md, 5). layers: all if not given."""
        from nfinspect.analysis.ngrams import ngrams

        return ngrams(self, n, site, layers)

    def positions(
        self,
        length: int | None = None,
        site: str | None = None,
        layers: Sequence[int] | None = None,
        *,
        allow_few: bool = False,
    ) -> "PositionAnalysis":
        """Positional neurons and their profiles (docs/methods.md, 6).

        length: tokens; every sequence at least that long is read, cut to it; else those of the greatest length.
        allow_few: list neurons even if fewer than 100 sequences were read. Raises RequestError if none is that long.
        """
        from nfinspect.analysis.positions import positions

        return positions(self, length, site, layers, allow_few=allow_few)

    def delta(
        self,
        site: str | None = None,
        layers: Sequence[int] | None = None,
        sort: str = "step_sensitivity",
        min_ratio: float = 2.0,
        min_step: float = 0.2,
    ) -> "Delta":
        """How neurons change from token to token; Mamba's Δ (docs/methods.md, 7).

        sort: step_sensitivity or von_neumann_ratio; min_ratio, min_step: at least these make a neuron delta-sensitive.
        """
        from nfinspect.analysis.delta import delta

        return delta(self, site, layers, sort, min_ratio, min_step)

    def similar(
        self,
        neuron: Address | str,
        site: str | None = None,
        layers: Sequence[int] | None = None,
        *,
        weights: bool = False,
        model: str | None = None,
    ) -> "Similar":
        """Neurons like one, by the correlation of their values over the run's tokens (docs/methods.md, 17).

        neuron: "L5/N123"; site, layers: where others are sought, the neuron's own site and all layers if not given.
        weights: also by the cosines of their weights, for which the run's model is loaded; model: where it is. Raises
        RequestError for an unknown neuron, site or layer and for a neuron that never varies, StoreError for a run
        without values, and ModelError if the model cannot be loaded.
        """
        from nfinspect.analyses.similar import similar

        if not weights:
            return similar(self, neuron, site, layers)
        from nfinspect.experiments.run_model import run_model
        from nfinspect.experiments.weight_cosines import cosines_in_run

        loaded = run_model(self, model, "similar weights")
        return similar(self, neuron, site, layers, weights=cosines_in_run(loaded, self, neuron, site, layers))

    def analyse(self, name: str, site: str | None = None, layers: Sequence[int] | None = None, **options: Any) -> Any:
        """Any analysis of a run, by the name of its command; computed, not saved.

        site, layers: the default site and all its layers if not given. options: those of `nfinspect NAME -h`, with _
        for -. Returns what nfinspect.analyses.NAME defines. Raises RequestError for an unknown name or option, and what
        the analysis raises.
        """
        from nfinspect.analyses import names, spec, specs
        from nfinspect.results import computing, with_defaults

        if name not in names():
            of_run = (one.name for one in specs() if one.compute is not None)
            raise RequestError(f"no analysis {name!r}: choose from {', '.join(of_run)}")
        one = spec(name)
        try:
            every, (compute, _) = with_defaults(one, options), computing(one)
        except TypeError as error:
            raise RequestError(str(error)) from error
        return compute(self, site=one.site if site is None else site, layers=layers, **every)


def open_run(path: str | Path) -> Run:
    """A finished run file. Raises RunNotFound, NotARun, RunBusy, SchemaTooNew, SchemaTooOld."""
    return Run.open(path)

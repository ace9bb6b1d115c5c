"""A run as Python users hold it: arrays, relations, and the analyses as methods."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfinspect_store.addresses import Address
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile

if TYPE_CHECKING:
    from nfinspect.analyses.positions import PositionAnalysis
    from nfinspect.analysis.delta import Delta
    from nfinspect.analysis.health import NetworkReport
    from nfinspect.analysis.neuron import NeuronDetail
    from nfinspect.analysis.neurons import NeuronPage
    from nfinspect.analysis.ngrams import NgramAnalysis
    from nfinspect.analysis.overlap import Overlap
    from nfinspect.analysis.trace import Trace


class Run(RunFile):
    """One run, read-only. See RunFile for the arrays: activations, neuron, statistics, prompt_means …"""

    def health(self, site: str | None = None, **options: Any) -> "NetworkReport":
        """Layer health and the network report. options: the fields of nfinspect.analysis.classes.HealthOptions."""
        from nfinspect.analysis.classes import HealthOptions
        from nfinspect.analysis.health import network_report

        return network_report(self, site, HealthOptions(**options))

    def neurons(self, site: str | None = None, **options: Any) -> "NeuronPage":
        """A page of neurons. options: those of nfinspect.analysis.neurons.list_neurons."""
        from nfinspect.analysis.neurons import list_neurons

        return list_neurons(self, site, **options)

    def neuron_detail(self, address: Address | str) -> "NeuronDetail":
        """One neuron with its histogram, examples and concept means: `run.neuron_detail("L5/N123")`."""
        from nfinspect.analysis.neuron import neuron_detail

        return neuron_detail(self, address)

    def trace(self, concept: str, **options: Any) -> "Trace":
        """Neurons ranked by concept against baseline. options: those of nfinspect.analysis.trace.trace."""
        from nfinspect.analysis.trace import trace

        return trace(self, concept, **options)

    def overlap(self, concepts: list[str], **options: Any) -> "Overlap":
        """What the concepts' traces share. options: those of nfinspect.analysis.overlap.overlap."""
        from nfinspect.analysis.overlap import overlap

        return overlap(self, concepts, **options)

    def ngrams(self, n: int = 1, **options: Any) -> "NgramAnalysis":
        """Neurons that detect tokens (n = 1), bigrams or trigrams. options: of nfinspect.analysis.ngrams.ngrams."""
        from nfinspect.analysis.ngrams import ngrams

        return ngrams(self, n, **options)

    def positions(self, length: int | None = None, **options: Any) -> "PositionAnalysis":
        """Positional neurons and their profiles. options: those of nfinspect.analyses.positions.positions."""
        from nfinspect.analyses.positions import positions

        return positions(self, length, **options)

    def analyse(self, name: str, site: str | None = None, layers: Sequence[int] | None = None, **options: Any) -> Any:
        """Any analysis of a run by the name of its command, computed and not kept.

        site, layers: the usual site and all its layers if not given. options: those of `nfinspect NAME -h`, with _ for
        -. Returns what nfinspect.analyses.NAME says. Raises RequestError for an unknown name or option, and what the
        analysis raises.
        """
        from nfinspect.analyses import names, spec
        from nfinspect.results import computing, with_defaults

        if name not in names():
            raise RequestError(f"no analysis {name!r}: choose of {', '.join(names())}")
        one = spec(name)
        try:
            every, (compute, _) = with_defaults(one, options), computing(one)
        except TypeError as error:
            raise RequestError(str(error)) from error
        return compute(self, site=one.site if site is None else site, layers=layers, **every)

    def delta(self, site: str | None = None, **options: Any) -> "Delta":
        """How neurons change from token to token; Mamba's Δ. options: those of nfinspect.analysis.delta.delta."""
        from nfinspect.analysis.delta import delta

        return delta(self, site, **options)


def open_run(path: str | Path) -> Run:
    """A finished run file. Raises RunNotFound, NotARun, RunBusy, SchemaTooNew."""
    return Run.open(path)

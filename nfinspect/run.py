"""A run as Python users hold it: arrays, relations, and the analyses as methods."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfinspect_store.addresses import Address
from nfinspect_store.reader import RunFile

if TYPE_CHECKING:
    from nfinspect.analysis.health import NetworkReport
    from nfinspect.analysis.neuron import NeuronDetail
    from nfinspect.analysis.neurons import NeuronPage
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


def open_run(path: str | Path) -> Run:
    """A finished run file. Raises RunNotFound, NotARun, RunBusy, SchemaTooNew."""
    return Run.open(path)

"""Inspect the neurons of language models, in the terminal and from Python.

    import nfinspect as nf
    run = nf.capture(model, tokenizer, {"tulip": ["Tulips are"], "baseline": ["The chair is"]}, generate=8)
    run.health(), run.trace("tulip"), run.activations("mlp", 3), run.sql("SELECT * FROM neurons")

Nothing heavy is imported until a name is used: `import nfinspect` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nfinspect.version import VERSION

__version__ = VERSION

LAZY = {
    "FiringMonitor": "training.monitor",
    "NetworkFiringReport": "training.reports",
    "NeuralFiringAnalyzer": "training.analyzer",
    "NeuralLayerAnalysis": "training.reports",
    "Run": "run",
    "SubtextAnalyzer": "subtext",
    "capture": "api",
    "check_firing_health": "training.analyzer",
    "generate": "generating",
    "merge": "api",
    "open_run": "run",
    "record": "api",
}
"""Each public name, and the module of nfinspect that defines it."""

__all__ = [
    "FiringMonitor",
    "NetworkFiringReport",
    "NeuralFiringAnalyzer",
    "NeuralLayerAnalysis",
    "Run",
    "SubtextAnalyzer",
    "__version__",
    "capture",
    "check_firing_health",
    "generate",
    "merge",
    "open_run",
    "record",
]

if TYPE_CHECKING:
    from nfinspect.api import capture, merge, record
    from nfinspect.generating import generate
    from nfinspect.run import Run, open_run
    from nfinspect.subtext import SubtextAnalyzer
    from nfinspect.training.analyzer import NeuralFiringAnalyzer, check_firing_health
    from nfinspect.training.monitor import FiringMonitor
    from nfinspect.training.reports import NetworkFiringReport, NeuralLayerAnalysis


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"nfinspect.{LAZY[name]}"), name)

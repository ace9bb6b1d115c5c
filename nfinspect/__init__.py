"""Inspect the neurons of language models, in the terminal and from Python.

    import nfinspect as nf
    run = nf.capture(model, tokenizer, {"tulip": ["Tulips are"], "baseline": ["The chair is"]}, generate=8)
    run.health(), run.trace("tulip"), run.activations("mlp", 3), run.sql("SELECT * FROM neurons")

Nothing heavy is imported until a name is used: `import nfinspect` costs no torch.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

__all__ = ["Run", "__version__", "capture", "open_run", "record"]

if TYPE_CHECKING:
    from nfinspect.api import capture, record
    from nfinspect.run import Run, open_run


def __getattr__(name: str) -> Any:
    if name in ("Run", "open_run"):
        from nfinspect import run

        return getattr(run, name)
    if name in __all__:
        from nfinspect import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

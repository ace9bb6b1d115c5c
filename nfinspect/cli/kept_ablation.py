"""Ablations and their saved results: the one way to make one, for the command, the app and the report."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nfinspect.analyses.ablate import SPEC
from nfinspect.analysis.keeping import keep_or_find
from nfinspect.analysis.ticks import Tick
from nfinspect.cli.progress import CommandLine
from nfinspect.experiments.run_model import difference_from_run
from nfinspect.model_files import lasting_name, weights_stamp

if TYPE_CHECKING:
    from nfinspect.analysis.keeping import Made
    from nfinspect.analysis.neuron_sets import NeuronSet
    from nfinspect.experiments.documents import Corpus
    from nfinspect.models import LoadedModel
    from nfinspect_store.reader import RunFile
    from nfinspect_store.results import Result

RUN_TOKENS = 8192
"""About how many tokens of a run perplexity is measured on [own]."""


@dataclass(frozen=True)
class How:
    """What values become, next to how many random sets; the options of the same names."""

    mode: Literal["zero", "mean"] = "zero"
    controls: int = 20
    seed: int = 0
    batch_size: int | None = None


@dataclass(frozen=True)
class Text:
    """What the model reads, in windows of `context` tokens `stride` apart."""

    corpus: "Corpus"
    context: int | None
    stride: int | None


def kept_ablation(
    folder: Path,
    run: "RunFile | None",
    sets: "Sequence[NeuronSet]",
    how: How,
    of_text: dict[str, Any],
    load: "Callable[[], LoadedModel]",
    read: "Callable[[LoadedModel], Text]",
    *,
    recompute: bool,
) -> "Result":
    """The saved ablation of these sets on a text, or a new one, which is saved.

    run: where the sets and the means are from. of_text: the settings that say which text it is. A model with another
    name than the run's may differ from it, and the document says so; one with the run's own name may not.
    """
    settings = {**of_text, **asdict(how), "sets": {one.name: [str(a) for a in one.addresses] for one in sets}}

    def compute(tick: Tick) -> "Made":
        from nfinspect.experiments.ablation_table import ablate

        loaded = load()
        own, notes = difference_from_run(run, loaded) if run is not None else (None, ())
        text = read(loaded)
        found = ablate(
            loaded, text.corpus, sets, run=run, context=text.context, stride=text.stride, tick=tick, **asdict(how)
        )
        return replace(found, model_of_run=own, notes=(*found.notes, *notes)).to_json(), {}

    run_id = run.info.run_id if run is not None else None
    # The app and reports do not show a result without sets.
    kind, in_format = (SPEC.result_kind, SPEC.format) if sets else ("perplexity", None)
    return keep_or_find(
        folder,
        kind,
        settings,
        run_id,
        compute,
        lambda result: result,
        recompute=recompute,
        what=SPEC.what({}),
        reporter=CommandLine(),
        in_format=in_format,
    )[0]


def ablation_of_run(
    run: "RunFile",
    model: str,
    sets: "Sequence[NeuronSet]",
    how: How,
    load: "Callable[[], LoadedModel]",
    tokens: int = RUN_TOKENS,
    *,
    dtype: str = "auto",
    recompute: bool = False,
) -> "Result":
    """The same on about `tokens` tokens of the run's own windows. model, dtype: what `load` loads."""
    from nfinspect.experiments.run_text import windows
    from nfinspect_store.results import run_results

    text = windows(run, run.name, tokens)
    of_text = {
        "model": lasting_name(model),
        "weights": weights_stamp(model),
        "of_run": run.name,
        "sha256": text.corpus.sha256,
        "dtype": dtype,
    }

    def read(loaded: "LoadedModel") -> Text:
        return Text(text.corpus, text.length, text.length)

    return kept_ablation(run_results(run.path), run, sets, how, of_text, load, read, recompute=recompute)

"""What a model's perplexity is without sets of its neurons."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.hub_text import text_path
from nfinspect.cli.options import (
    bos_option,
    full_name,
    json_option,
    model_options,
    opened,
    site_option,
    store_option,
)
from nfinspect.cli.progress import recompute_option
from nfinspect.cli.through_backend import backend_option
from nfinspect.experiments.run_model import loaded_model, own_dtype, require_plain
from nfinspect.model_files import lasting_name, weights_stamp
from nfinspect_store.catalog import store_path
from nfinspect_store.errors import RequestError
from nfinspect_store.paths import read_text

if TYPE_CHECKING:
    from nfinspect.analysis.neuron_sets import NeuronSet
    from nfinspect.models import Bos, LoadedModel
    from nfinspect_store.reader import RunFile


@click.command()
@click.argument("model", metavar="MODEL")
@click.option("--text", metavar="FILE",
              help="Text to predict, or hf:NAME[:CONFIG[:SPLIT]]; RUN's windows if only --from is given.")  # fmt: skip
@click.option("--neurons", metavar="FILE|@SET", multiple=True,
              help="A set: a file with one address per line, or @NAME of the store. Repeatable.")  # fmt: skip
@click.option("--from", "source", metavar="RUN", help="The run that --class, --trace and --mode mean refer to.")
@click.option("--class", "kinds", metavar="C", multiple=True,
              help="A set: the run's neurons of a class or kind, such as dead+positional. Repeatable.")  # fmt: skip
@click.option("--share", metavar="S", type=click.FloatRange(min=0, max=1, min_open=True),
              help="Of kinds that an analysis found: only the strongest S of all neurons, such as 0.15.")  # fmt: skip
@click.option("--trace", "concepts", metavar="CONCEPT", multiple=True,
              help="A set: the neurons of the concept's trace. Repeatable.")  # fmt: skip
@click.option("--baseline", metavar="B", help="Baseline of the traces; the concept called baseline if not given.")
@click.option("--top", metavar="K", type=click.IntRange(min=1), default=10, show_default=True,
              help="Neurons in each trace.")  # fmt: skip
@click.option("--mode", type=click.Choice(["zero", "mean"]), default="zero", show_default=True,
              help="What values become: 0, or the neuron's mean over the run.")  # fmt: skip
@click.option("--controls", metavar="R", type=click.IntRange(min=0), default=20, show_default=True,
              help="Random sets with as many neurons in each layer, 20 or more; 0 for none.")  # fmt: skip
@click.option("--context", metavar="N", type=click.IntRange(min=2),
              help="Tokens in a window; the model's context, up to 1024, if not given.")  # fmt: skip
@click.option("--stride", metavar="N", type=click.IntRange(min=1),
              help="Tokens from one window to the next; half of --context if not given.")  # fmt: skip
@click.option("--max-tokens", metavar="N", type=click.IntRange(min=2),
              help="At most N tokens of --text, or about N tokens of RUN.")  # fmt: skip
@click.option("--batch-size", type=click.IntRange(min=1), help="Windows in a forward pass; as many as fit by default.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@bos_option
@site_option
@model_options
@recompute_option
@store_option
@json_option
@backend_option()
def ablate(
    model: str,
    text: str | None,
    neurons: tuple[str, ...],
    source: str | None,
    kinds: tuple[str, ...],
    share: float | None,
    concepts: tuple[str, ...],
    baseline: str | None,
    top: int,
    mode: str,
    controls: int,
    context: int | None,
    stride: int | None,
    max_tokens: int | None,
    batch_size: int | None,
    seed: int,
    bos: "Bos",
    site: str | None,
    revision: str | None,
    dtype: str,
    device: str,
    allow_pickle: bool,
    recompute: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Measure MODEL's perplexity without sets of its neurons, compared with random sets.

    Without any set it prints the perplexity of the whole model.
    """
    from nfinspect.analyses.ablate import SPEC, Ablation
    from nfinspect.analyses.neuron_kinds import set_of_kinds
    from nfinspect.analysis.neuron_sets import set_from_file, set_of_trace
    from nfinspect.cli.analysis import lines
    from nfinspect.cli.kept_ablation import RUN_TOKENS, How, Text, ablation_of_run, kept_ablation
    from nfinspect.experiments.ablation_table import check_controls, check_sets
    from nfinspect.experiments.documents import text_hash, tokenised
    from nfinspect.experiments.run_text import TooFewSequences
    from nfinspect.models import Texts
    from nfinspect_store.results import model_results, run_results

    if source is None and (named := [one for one in neurons if one.startswith("@")]):
        raise RequestError(f"{named[0]} is a set of a store: give --from RUN, whose model's neurons are meant")
    if source is None and (text is None or kinds or concepts or mode == "mean"):
        if text is None:
            raise RequestError("expected a text: give --text FILE, or --from RUN for the run's windows")
        raise RequestError("--class, --trace and --mode mean take neurons or means from a run: give --from RUN")
    if text is None and (context is not None or stride is not None or bos != "auto"):
        raise RequestError(
            "--context, --stride and --bos go with --text: the run's windows are read as they were captured"
        )
    _check_share(share, kinds)
    check_controls(controls)
    model = full_name(model, revision)
    file = None if text is None else text_path(text)
    content = "" if file is None else read_text(file, "a text", RequestError)
    with ExitStack() as stack:
        run = stack.enter_context(opened(store, source)) if source is not None else None
        if run is not None and mode == "mean":
            require_plain(run, "--mode mean")
        makers: list[Callable[[], NeuronSet]] = [
            partial(_named_set, run, one)
            if run is not None and one.startswith("@")
            else partial(set_from_file, Path(one))
            for one in neurons
        ]
        if run is not None:
            makers += [partial(set_of_kinds, run, kind, site, share) for kind in kinds]
            makers += [partial(set_of_trace, run, concept, baseline, top, site) for concept in concepts]
        sets = check_sets(_there(makers))
        how = How("mean" if mode == "mean" else "zero", controls, seed, batch_size)

        def load() -> "LoadedModel":
            wanted = own_dtype(run) if run is not None and text is None and dtype == "auto" else dtype
            return loaded_model(model, revision=revision, dtype=wanted, device=device, allow_pickle=allow_pickle)

        if run is not None and file is None:
            tokens = max_tokens or RUN_TOKENS
            try:
                result = ablation_of_run(run, model, sets, how, load, tokens, dtype=dtype, recompute=recompute)
            except TooFewSequences as error:
                raise TooFewSequences(f"{error}; or give another text with --text FILE") from error
        else:
            assert file is not None  # refused above
            name = file.name
            of_text = {
                "model": lasting_name(model),
                "weights": weights_stamp(model),
                "text": name,
                "sha256": text_hash(content),
                "context": context,
                "stride": stride,
                "max_tokens": max_tokens,
                "bos": bos,
                "dtype": dtype,
            }

            def read(loaded: "LoadedModel") -> Text:
                return Text(tokenised(content, name, Texts(loaded.tokenizer, bos), max_tokens), context, stride)

            folder = run_results(run.path) if run is not None else model_results(store_path(store), lasting_name(model))
            result = kept_ablation(folder, run, sets, how, of_text, load, read, recompute=recompute)
    for said in result.document["notes"]:
        output.note(said)
    if as_json:
        output.document(result.document)
    else:
        output.lines(lines(SPEC, Ablation(result.document)))


def _check_share(share: float | None, kinds: Sequence[str]) -> None:
    """Raises RequestError for a share where no set has a strength to take it by."""
    from nfinspect.analyses.neuron_kinds import KEPT_KINDS, check_kinds

    if share is None:
        return
    if not math.isfinite(share):  # click lets NaN pass
        raise RequestError(f"expected a --share above 0 and up to 1, found {share}")
    if not any(part in KEPT_KINDS for kind in kinds for part in check_kinds(kind)):
        raise RequestError(
            f"--share takes the strongest neurons of --class {', '.join(KEPT_KINDS)}: give one of these; health "
            "classes have no strength"
        )


def _named_set(run: "RunFile", name: str) -> "NeuronSet":
    from nfinspect.analysis.neuron_sets import NeuronSet
    from nfinspect.cli.marks import neurons_of

    return NeuronSet.of(name, neurons_of(run, name))


def _there(makers: "Sequence[Callable[[], NeuronSet]]") -> "list[NeuronSet]":
    """The sets that have neurons; empty ones are reported and left out. Raises RequestError where all are empty."""
    from nfinspect.analysis.neuron_sets import EmptySet

    sets, empty = [], []
    for make in makers:
        try:
            sets.append(make())
        except EmptySet as error:
            empty.append(error)
    if empty and not sets:
        raise RequestError("; ".join(map(str, empty)))
    for reason in empty:
        output.note(f"{reason}; the set is left out")
    return sets

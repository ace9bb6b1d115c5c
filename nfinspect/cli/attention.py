"""Attention neurons of a model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nfinspect import output
from nfinspect.analyses import spec
from nfinspect.analysis.attention_methods import METHODS, TOP
from nfinspect.analysis.ticks import Tick
from nfinspect.cli.analysis import lines
from nfinspect.cli.capture import layer_list, prompt_column_options, prompt_file
from nfinspect.cli.file_digest import file_stamp
from nfinspect.cli.hub_text import text_path
from nfinspect.cli.options import (
    bos_option,
    chat_option,
    full_name,
    json_option,
    layers_option,
    model_options,
    opened,
    store_option,
)
from nfinspect.cli.progress import CommandLine, recompute_option
from nfinspect.cli.through_backend import backend_option
from nfinspect.experiments.run_model import loaded_model, own_dtype, run_model, without_edits
from nfinspect.model_files import lasting_name, weights_stamp
from nfinspect.present.numbers import percent
from nfinspect.present.tables import Column, table
from nfinspect_store.catalog import store_path
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nfinspect.analysis.attention_methods import Method
    from nfinspect.analysis.attention_scores import AttentionScores
    from nfinspect.analysis.keeping import Made
    from nfinspect.capturing.prompts import PromptIds
    from nfinspect.capturing.request import CaptureRequest
    from nfinspect.models import Bos, LoadedModel
    from nfinspect_store.reader import RunFile

RUN_TOKENS = 2048
"""About how many tokens of a run attention is read on [own]."""


@click.command()
@click.argument("model", metavar="MODEL")
@click.option(
    "--prompts",
    metavar="[CONCEPT=]FILE",
    multiple=True,
    help='{"prompts": […]} JSON, JSONL of {"text", "concept"}, CSV, Parquet, or text, one prompt per line. Repeatable.',
)
@prompt_column_options
@click.option(
    "--text",
    metavar="FILE",
    multiple=True,
    help="A corpus, or hf:NAME[:CONFIG[:SPLIT]], cut into windows of --max-length tokens.",
)
@click.option("--from", "source", metavar="RUN",
              help="Read RUN's own prompts, with MODEL as its model; the result is saved with the run.")  # fmt: skip
@click.option("--max-tokens", metavar="N", type=click.IntRange(min=1),
              help="At most N tokens of --text, or about N tokens of RUN.")  # fmt: skip
@click.option("--method", type=click.Choice(METHODS), default="attention_weighted", show_default=True,
              help="Weight values by attention, by the loss's gradient, or by the last token's rollout.")  # fmt: skip
@click.option("--top", metavar="K", type=click.IntRange(min=0), default=TOP, show_default=True, help="Neurons shown.")
@click.option("--heads", is_flag=True, help="Also each head's share of attention on position 0, and its evenness.")
@layers_option
@click.option("--site", help="Where neurons are read; mlp (mixer for Mamba) if not given.")
@click.option("--max-length", metavar="N", type=click.IntRange(min=2), help="Cut prompts to their first N tokens.")
@bos_option
@chat_option
@model_options
@recompute_option
@store_option
@json_option
@backend_option()
def attention(
    model: str,
    prompts: tuple[str, ...],
    text: tuple[str, ...],
    source: str | None,
    max_tokens: int | None,
    method: str,
    top: int,
    heads: bool,
    layers: str | None,
    site: str | None,
    max_length: int | None,
    text_column: str | None,
    concept_column: str | None,
    bos: "Bos",
    chat: bool,
    revision: str | None,
    dtype: str,
    device: str,
    allow_pickle: bool,
    recompute: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Score neurons by how their values go with the model's attention, or with its loss.

    MODEL is a hub name or a local directory.
    """
    if not prompts and not text and source is None:
        raise RequestError("expected prompts or a text: give --prompts FILE, --text FILE or --from RUN")
    model = full_name(model, revision)
    chosen, wanted = METHODS[METHODS.index(method)], layer_list(layers)
    if source is not None:
        if prompts or text or max_length is not None or text_column or concept_column or chat or bos != "auto":
            raise RequestError(
                "--from RUN reads the run's own prompts as they were captured: leave out --prompts, --text, "
                "--text-column, --concept-column, --max-length, --bos and --chat"
            )
        options = {"revision": revision, "dtype": dtype, "device": device, "allow_pickle": allow_pickle}
        with opened(store, source) as file:

            def load() -> "LoadedModel":
                eager = method != "gradient_guided"
                return run_model(file, model, "attention", tells_edits=False, **options, eager_attention=eager)

            own = RunModel(model, own_dtype(file) if dtype == "auto" else dtype, load)
            found = attention_of_run(file, own, chosen, site, wanted, max_tokens or RUN_TOKENS, recompute=recompute)
    else:
        from nfinspect.capturing.request import CaptureRequest

        request = CaptureRequest(
            model=model,
            revision=revision,
            store=store_path(store),
            prompts=tuple(prompt_file(value) for value in prompts),
            text=tuple(text_path(value) for value in text),
            layers=wanted,
            text_column=text_column,
            concept_column=concept_column,
            bos=bos,
            chat=chat,
            context=max_length,
            max_tokens=max_tokens,
            dtype=dtype,
            device=device,
            allow_pickle=allow_pickle,
        )
        found = _of_files(request, chosen, site, recompute)
    for note in found.notes:
        output.note(note)
    by_head = found.heads.to_pylist() if heads else []
    if heads and not by_head:
        output.note(f"{method} reads no attention: there are no heads to tell of")
    if as_json:
        output.document({**found.to_json(top), **({"heads": by_head} if heads else {})})
        return
    output.lines(lines(spec("attention"), found, top))
    if by_head:
        columns = [Column("layer"), Column("head"), Column("on position 0"), Column("evenness")]
        rows = [(f"L{x['layer']}", x["head"], percent(x["sink"]), x["entropy"]) for x in by_head]
        output.lines(["", *table(columns, rows)])


@dataclass(frozen=True)
class RunModel:
    """A model to use as a run's: its name and precision, and what loads it, or raises for other weights."""

    name: str
    dtype: str
    load: "Callable[[], LoadedModel]"


def attention_of_run(
    file: "RunFile",
    model: RunModel,
    method: "Method",
    site: str | None = None,
    layers: "Sequence[int] | None" = None,
    tokens: int = RUN_TOKENS,
    *,
    recompute: bool = False,
) -> "AttentionScores":
    """The saved analysis of a run's own prompts by this model, or a new one, which is saved with the run."""
    from nfinspect.analysis.chosen import chosen_layers
    from nfinspect_store.results import run_results

    chosen = chosen_layers(file, site, layers)
    place, numbers = chosen[0].site, [layer.layer for layer in chosen]
    if any(layer.experts for layer in chosen):
        others = [name for name in file.sites if not any(layer.experts for layer in file.site_layers(name))]
        instead = f"choose --site {' or '.join(others)}" if others else "capture with --sites mlp,attn"
        raise RequestError(
            f"expected neurons with a value on every token, found a mixture of experts at {place} of {file.name}: "
            f"{instead}; attention MODEL --prompts FILE reads other neurons and the heads without a run"
        )

    def compute(tick: Tick) -> "Made":
        from nfinspect.experiments.attention import attention as analyse
        from nfinspect.experiments.run_text import spread_prompts
        from nfinspect.models import TokenTexts

        prompts, loaded = spread_prompts(file, tokens), model.load()
        found = analyse(loaded, prompts, method, place, numbers, TokenTexts(loaded.tokenizer), tick)
        whole = "the scores are of whole prompts and of every value, as the model gives them, and not only of the run's"
        of_run = (*without_edits(file), *(f"{whole}: {note}" for note in file.where_notes))
        found = replace(found, notes=(*found.notes, *of_run))
        return found.to_json(), found.tables()

    # Another model, or other files of that name, have a result of their own: the run's is never returned for it.
    named = {"model": lasting_name(model.name), "weights": weights_stamp(model.name), "dtype": model.dtype}
    settings = {"method": method, "of_run": file.name, **named, "tokens": tokens, "site": place, "layers": numbers}
    folder, run_id, what = run_results(file.path), file.info.run_id, f"attention neurons, {method}"
    return _kept(folder, settings, run_id, compute, recompute=recompute, what=what)


def _kept(
    folder: Path,
    settings: "Mapping[str, Any]",
    run_id: str | None,
    compute: "Callable[[Tick], Made]",
    *,
    recompute: bool,
    what: str,
) -> "AttentionScores":
    from nfinspect.analysis.keeping import keep_or_find

    one = spec("attention")
    found: AttentionScores = keep_or_find(
        folder,
        one.name,
        settings,
        run_id,
        compute,
        one.read,
        recompute=recompute,
        what=what,
        reporter=CommandLine(),
        in_format=one.format,
    )[1]
    return found


def _of_files(request: "CaptureRequest", method: "Method", site: str | None, recompute: bool) -> "AttentionScores":
    """The analysis of prompts from files, saved with the model's results."""
    from nfinspect_store.results import model_results

    settings: dict[str, Any] = {
        "model": lasting_name(request.model),
        "weights": weights_stamp(request.model),
        "method": method,
        "prompts": [[str(file.path.resolve()), file_stamp(file.path)] for file in request.prompts],
        "text": [[str(path.resolve()), file_stamp(path)] for path in request.text],
        "max_tokens": request.max_tokens if request.text else None,
        "max_length": request.context,
        "site": site,
        "layers": request.layers,
        "columns": [request.text_column, request.concept_column],
        "bos": request.bos,
        "chat": request.chat,
        "dtype": request.dtype,
        "device": request.device,
    }

    def compute(tick: Tick) -> "Made":
        found = _made(request, method, site, tick)
        return found.to_json(), found.tables()

    recompute = recompute or any(not stamp for _, stamp in (*settings["prompts"], *settings["text"]))
    folder, what = model_results(request.store, lasting_name(request.model)), "attention neurons"
    return _kept(folder, settings, None, compute, recompute=recompute, what=what)


def _made(request: "CaptureRequest", method: "Method", site: str | None, tick: Tick) -> "AttentionScores":
    """Load the model, read the prompts, score."""
    from nfinspect.capturing.plan import fitting, load_prompts, notes_on, read_files
    from nfinspect.experiments.attention import attention as analyse
    from nfinspect.models import TokenTexts

    files = read_files(request)  # a bad file is refused before the model is loaded
    loaded = loaded_model(
        request.model,
        revision=request.revision,
        dtype=request.dtype,
        device=request.device,
        allow_pickle=request.allow_pickle,
        eager_attention=method != "gradient_guided",
    )
    prompts = fitting(cut(load_prompts(request, loaded, files), loaded, request.context), request, loaded)
    found = analyse(
        loaded,
        [prompt.token_ids for prompt in prompts],
        method,
        site,
        request.layers,
        TokenTexts(loaded.tokenizer),
        tick,
    )
    return replace(found, notes=(*found.notes, *notes_on(prompts, request, loaded)))


def cut(prompts: "list[PromptIds]", loaded: "LoadedModel", max_length: int | None) -> "list[PromptIds]":
    """Prompts of at most `max_length` tokens. Raises RequestError for one that the model cannot read whole."""
    kept = [prompt if max_length is None else replace(prompt, token_ids=prompt.token_ids[:max_length], roles=None)
            for prompt in prompts]  # fmt: skip
    limit = loaded.max_context
    for prompt in kept:
        if limit is not None and len(prompt.token_ids) > limit:
            raise RequestError(
                f"{prompt.origin} has {len(prompt.token_ids):,} tokens, more than the model's context of {limit:,}: "
                f"shorten it, or pass --max-length {limit}"
            )
    return kept

"""Attention neurons of a model."""

from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.analysis.attention_scores import METHODS, TOP
from nfinspect.cli.capture import layer_list, prompt_column_options, prompt_file
from nfinspect.cli.hub_text import text_path
from nfinspect.cli.long_work import Made, Tick, again_option, kept_or_made
from nfinspect.cli.options import bos_option, chat_option, full_name, json_option, model_options, store_option
from nfinspect.cli.run_model import loaded_model
from nfinspect.cli.stamps import file_stamp, model_stamp
from nfinspect.cli.tables import Column, figure, percent, table, wrapped
from nfinspect_store.catalog import store_path
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.analysis.attention_scores import AttentionScores
    from nfinspect.capturing.prompts import PromptIds
    from nfinspect.capturing.request import CaptureRequest
    from nfinspect.models import Bos, LoadedModel


@click.command()
@click.argument("model", metavar="MODEL")
@click.option(
    "--prompts",
    metavar="[CONCEPT=]FILE",
    multiple=True,
    help='Prompts: {"prompts": […]} JSON, JSONL of {"text", "concept"}, CSV, Parquet, or text, one a line. Repeatable.',
)
@prompt_column_options
@click.option(
    "--text",
    metavar="FILE",
    multiple=True,
    help="A corpus, cut into windows of --max-length tokens; or hf:NAME[:CONFIG[:SPLIT]].",
)
@click.option("--max-tokens", metavar="N", type=click.IntRange(min=1), help="Tokens of --text at most.")
@click.option("--method", type=click.Choice(METHODS), default="attention_weighted", show_default=True,
              help="Values where attention goes, loss by value, or values where the last token looks.")  # fmt: skip
@click.option("--top", metavar="K", type=click.IntRange(min=0), default=TOP, show_default=True, help="Neurons shown.")
@click.option("--layers", metavar="LIST", help="Such as 0-3,11; all if not given.")
@click.option("--site", help="Where neurons are read; mlp (mixer for Mamba) if not given.")
@click.option("--max-length", metavar="N", type=click.IntRange(min=2), help="Cut prompts to their first N tokens.")
@bos_option
@chat_option
@model_options
@again_option
@store_option
@json_option
def attention(
    model: str,
    prompts: tuple[str, ...],
    text: tuple[str, ...],
    max_tokens: int | None,
    method: str,
    top: int,
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
    again: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Neurons whose values go with what the model attends to, or with its loss.

    MODEL is a hub name or a local directory.
    """
    from nfinspect.analysis.attention_scores import AttentionScores
    from nfinspect.capturing.request import CaptureRequest
    from nfinspect_store.results import model_results

    if not prompts and not text:
        raise RequestError("expected something to read: give --prompts FILE or --text FILE")
    directory = store_path(store)
    model = full_name(model, revision)
    request = CaptureRequest(
        model=model,
        revision=revision,
        store=directory,
        prompts=tuple(prompt_file(value) for value in prompts),
        text=tuple(text_path(value) for value in text),
        layers=layer_list(layers),
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
    settings = {
        "model": model,
        "revision": revision,
        "model_stamp": model_stamp(model),
        "method": method,
        "prompts": [[str(file.path), file_stamp(file.path)] for file in request.prompts],
        "text": [[str(path), file_stamp(path)] for path in request.text],
        "max_tokens": max_tokens if text else None,
        "max_length": max_length,
        "site": site,
        "layers": request.layers,
        "columns": [text_column, concept_column],
        "bos": bos,
        "chat": chat,
        "dtype": dtype,
        "device": device,
    }

    def make(tick: Tick) -> Made:
        found = _made(request, method, site, max_length, tick)
        return found.to_json(), found.tables()

    folder = model_results(directory, model)
    kept = kept_or_made(folder, "attention", settings, None, make, again=again, what="attention neurons")
    found = AttentionScores.from_json(kept.document, kept.table)
    for note in found.notes:
        output.note(note)
    if as_json:
        output.document(found.to_json(top))
    else:
        output.lines(attention_lines(found, top))


def _made(
    request: "CaptureRequest", method: str, site: str | None, max_length: int | None, tick: Tick
) -> "AttentionScores":
    """Load the model, read the prompts, score."""
    from dataclasses import replace

    from nfinspect.analysis.attention_scores import METHODS
    from nfinspect.capturing.plan import fitting, load_prompts, notes_on
    from nfinspect.capturing.prompt_files import check_readable
    from nfinspect.experiments.attention import attention as analyse
    from nfinspect.models import TokenTexts

    for path in (*(file.path for file in request.prompts), *request.text):
        check_readable(path)  # before a model is loaded for nothing
    loaded = loaded_model(
        request.model,
        revision=request.revision,
        dtype=request.dtype,
        device=request.device,
        allow_pickle=request.allow_pickle,
        eager_attention=method != "gradient_guided",
    )
    prompts = fitting(cut(load_prompts(request, loaded), loaded, max_length), request, loaded)
    found = analyse(
        loaded,
        [prompt.token_ids for prompt in prompts],
        METHODS[METHODS.index(method)],
        site,
        request.layers,
        TokenTexts(loaded.tokenizer),
        tick,
    )
    return replace(found, notes=(*found.notes, *notes_on(prompts, request, loaded)))


def cut(prompts: "list[PromptIds]", loaded: "LoadedModel", max_length: int | None) -> "list[PromptIds]":
    """Prompts of at most `max_length` tokens. Raises RequestError for one that the model cannot read whole."""
    from dataclasses import replace

    kept = [prompt if max_length is None else replace(prompt, token_ids=prompt.token_ids[:max_length], roles=None)
            for prompt in prompts]  # fmt: skip
    limit = loaded.max_context
    for prompt in kept:
        if limit is not None and len(prompt.token_ids) > limit:
            raise RequestError(
                f"{prompt.origin} has {len(prompt.token_ids)} tokens, more than the model's context of {limit}: "
                f"shorten it, or pass --max-length {limit}"
            )
    return kept


def attention_lines(found: "AttentionScores", top: int) -> list[str]:
    """The analysis for people, with the first `top` neurons."""
    title = (
        f"{found.method} at {found.site}, mean over {found.samples} prompts ({found.tokens} tokens); position 0 is "
        "left out of the scores"
    )
    columns = [
        Column("layer"),
        Column("neurons", spare=2),
        Column("lowest"),
        Column("median", spare=1),
        Column("highest"),
    ]
    values = [
        (layer.layer, layer.neurons, layer.scores.min, layer.scores.percentiles["50"], layer.scores.max)
        for layer in found.layers
    ]
    rows: list[tuple[object, ...]] = list(values)
    if any(layer.heads is not None for layer in found.layers):
        columns += [Column("heads", spare=3), Column("on position 0"), Column("evenness"), Column("diversity")]
        rows = [
            (*row, layer.heads, percent(layer.sink), figure(layer.entropy, 3), figure(layer.diversity, 3))
            for row, layer in zip(values, found.layers, strict=True)
        ]
    lines = [*wrapped(title), *table(columns, rows)]
    neurons = found.neurons(top)
    if not neurons:
        return lines
    columns = [
        Column("#"),
        Column("neuron", text=True),
        Column("score"),
        Column("mean value"),
        Column("at position 0"),
    ]
    gradients = found.method == "gradient_guided"
    if gradients:
        columns.append(Column("score at 0", spare=1))
    listed: list[tuple[object, ...]] = []
    for neuron in neurons:
        row = (neuron.rank, neuron.address, neuron.score, neuron.mean_activation, neuron.first_activation)
        listed.append((*row, figure(neuron.first_score)) if gradients else row)
    return [*lines, "", *table(columns, listed)]

"""One text through the stages of a model: tokenization, embedding, attention, deep layers, output.

One forward pass reads all stages; their health is computed as in the health analysis of a run (methods §2).
"""

from collections.abc import Collection, Sequence
from contextlib import ExitStack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect.analysis.array_health import array_health
from nfinspect.analysis.classes import HealthOptions
from nfinspect.analysis.enough import few_tokens
from nfinspect.analysis.health import NetworkReport, report_of_layers
from nfinspect.experiments.text_report import NextTokens, Stage, TextFiring, TextToken
from nfinspect.models import (
    Bos,
    LayerSite,
    LoadedModel,
    SiteReader,
    Texts,
    TokenTexts,
    UnknownSite,
    UnsupportedModel,
    already_begun,
    blocks,
    default_site,
    find_sites,
    forward_batch,
    require_causal,
)
from nfinspect.models.structure import width_in
from nfinspect_store.errors import RequestError
from nfinspect_store.types import MLP_SITES, Layer

PROBABILITY_ROWS = 256
"""Tokens whose probabilities are computed at a time: 51 MB for a vocabulary of 50,000."""

Read = list[tuple[LayerSite, NDArray[np.float32], NDArray[np.bool_] | None]]


def text_stages(
    loaded: LoadedModel,
    text: str,
    options: HealthOptions | None = None,
    top: int = 5,
    *,
    bos: Bos = "auto",
    chat: bool = False,
) -> TextFiring:
    """The firing analysis of one text, stage by stage, and the `top` most likely next tokens.

    Every token counts, except position 0 with `options.skip_first`. bos, chat: how the text is tokenised (Texts); a
    chat ends with what begins the model's answer. Raises RequestError for a text without a token (with skip_first, of
    one token) or longer than the model's context, CannotTokenize, UnknownToken, NonFiniteActivations, UnsupportedModel.
    """
    options = options or HealthOptions()
    require_causal(loaded.model, "the analysis of a text")
    rule = Texts(loaded.tokenizer, bos, chat=chat)
    ids, begins = _token_ids(loaded, rule, text)
    if options.skip_first and len(ids) < 2:
        raise RequestError("expected a text of two tokens or more, as position 0 is left out; found one")
    logits, read = _pass(loaded, ids)
    by_site: dict[str, Read] = {}
    for one in read:
        by_site.setdefault(one[0].site, []).append(one)
    reports = {site: _report(values, options) for site, values in by_site.items()}
    surprisals, following = _predictions(loaded, ids, logits, top)
    texts = TokenTexts(loaded.tokenizer)(ids)
    tokens = [
        TextToken(i, token_id, token, surprisal)
        for i, (token_id, token, surprisal) in enumerate(zip(ids, texts, surprisals, strict=True))
    ]
    return TextFiring(
        text=text,
        model=loaded.name,
        simulated=False,
        tokens=tuple(tokens),
        next_tokens=following,
        stages=tuple(_stages(loaded, reports, len(ids))),
        notes=(
            *loaded.notes,
            *((already_begun(rule.begin_text, ["this one"], 1),) if begins else ()),
            *_notes(len(ids) - options.skip_first, reports, options),
        ),
    )


def _token_ids(loaded: LoadedModel, rule: Texts, text: str) -> tuple[list[int], bool]:
    """The text's tokens, and whether it already began with what would have been added before it."""
    read = rule.text(text, answer=True)
    ids = list(read.token_ids)
    limit = loaded.max_context
    if not ids:
        raise RequestError("expected a text of one token or more, found none")
    if limit is not None and len(ids) > limit:
        raise RequestError(
            f"expected a text of at most {limit:,} tokens, the model's context, found {len(ids):,}: nfinspect capture "
            "--text FILE reads longer ones"
        )
    return ids, read.begins


def _pass(loaded: LoadedModel, ids: list[int]) -> tuple[Tensor, Read]:
    """The logits [tokens, vocabulary] of a text, and the values at every stage's sites, in the order of the model."""
    model = loaded.model
    read: Read = []

    def take(site: LayerSite, values: Tensor, fired: Tensor | None) -> None:
        gate = None if fired is None else fired[0].cpu().numpy()
        # A copy: the model may go on to change the hidden states in place.
        read.append((site, values[0].float().cpu().numpy().copy(), gate))

    batch = forward_batch(model, [ids], pad_id=loaded.pad_id)
    entry, head = _entry(loaded), _head(loaded)
    # check=False: the first and last stages are module inputs, without a projection to check them with.
    readers = [
        SiteReader(model, [entry], take, check=False),
        SiteReader(model, _sites(loaded), take),
        SiteReader(model, [head] if head else [], take, check=False),
    ]
    with ExitStack() as stack, torch.inference_mode():
        for reader in readers:
            stack.enter_context(reader)
            reader.begin(1, len(ids))
        logits = model(**batch.inputs()).logits[0]
        for reader in readers:  # in the order of the model, so that the first layer with a non-finite value is named
            reader.end()
    return logits, read


def _sites(loaded: LoadedModel) -> list[LayerSite]:
    """The sites that can be read in the model: attn, the default site (mlp or mixer), shared, resid."""
    wanted = []
    for site in dict.fromkeys(("attn", default_site(loaded.model), "shared", "resid")):
        try:
            find_sites(loaded.model, [site])
        except (UnknownSite, UnsupportedModel):
            continue
        wanted.append(site)
    return find_sites(loaded.model, wanted)


def _entry(loaded: LoadedModel) -> LayerSite:
    """The input of the first block."""
    prefix, _ = blocks(loaded.model)
    hidden = find_sites(loaded.model, ["resid"], [0])[0].neurons
    return LayerSite("embedding", 0, f"{prefix}.0", hidden, "", "scale")


def _head(loaded: LoadedModel) -> LayerSite | None:
    """The input of the vocabulary projection; None for a model without one."""
    head = loaded.model.get_output_embeddings()  # type: ignore[no-untyped-call]
    name = next((name for name, module in loaded.model.named_modules() if module is head), None)
    if head is None or name is None:
        return None
    width = width_in(head)  # not of its weight, which is packed in a quantised model
    return None if width is None else LayerSite("output", 0, name, width, "", "scale")


def _report(values: Read, options: HealthOptions) -> NetworkReport:
    start = 1 if options.skip_first else 0
    layers = []
    for site, held, fired in values:
        layer = Layer(0, site.site, site.layer, site.module, site.neurons, site.activation, site.fires)
        layers.append(array_health(layer, held[start:], None if fired is None else fired[start:], options).health)
    return report_of_layers(layers)


def _stages(loaded: LoadedModel, reports: dict[str, NetworkReport], tokens: int) -> list[Stage]:
    def of(*sites: str) -> tuple[NetworkReport, ...]:
        return tuple(reports[site] for site in sites if site in reports)

    mixing = "attn" if "attn" in reports else "mixer"
    mixed = (
        "what each layer's attention has gathered" if mixing == "attn" else "each layer's mixer, in place of attention"
    )
    return [
        Stage("tokenization", f"{tokens:,} tokens; no neurons here", ()),
        Stage("embedding", "what enters the first block", of("embedding")),
        Stage("attention", mixed, of(mixing)),
        Stage("processing", "the deep layers: their neurons, and their blocks' outputs", of(*MLP_SITES, "resid")),
        Stage("output", "what enters the vocabulary projection", of("output")),
    ]


def _notes(tokens: int, sites: Collection[str], options: HealthOptions) -> list[str]:
    notes = [
        "firing: share of (token, neuron) pairs that fire, mlp neurons with a value above 0 (a gate, if they have "
        "one), mixers with a gate above 0, all others with at least "
        f"{options.threshold_weak:g} of their layer's mean |value|"
    ]
    if "mixer" in sites:
        notes.append("this model has no attention: the stage of that name reads its mixers")
    if few := few_tokens(tokens):
        notes.append(f"{few}; nfinspect capture on more text tells them apart")
    if not options.skip_first:
        notes.append("position 0 counts; its values are often far larger than all others (--skip-first leaves it out)")
    return notes


def _predictions(
    loaded: LoadedModel, ids: list[int], logits: Tensor, top: int
) -> tuple[Sequence[float | None], NextTokens]:
    """The surprisal of each token (None for the first), and the most likely next tokens."""
    surprisals: list[float | None] = [None]
    for start in range(0, len(ids) - 1, PROBABILITY_ROWS):
        targets = torch.tensor(ids[start + 1 : start + 1 + PROBABILITY_ROWS], device=logits.device)
        rows = torch.log_softmax(logits[start : start + len(targets)].float(), dim=-1)
        surprisals += (-rows.gather(-1, targets[:, None])[:, 0]).tolist()
    last = torch.log_softmax(logits[-1].double(), dim=-1).cpu().numpy()
    probabilities = np.exp(last)
    entropy = float(-(probabilities * np.where(probabilities > 0, last, 0.0)).sum())
    order = [int(i) for i in np.argsort(-probabilities, kind="stable")[:top]]
    known = len(loaded.tokenizer)
    texts = TokenTexts(loaded.tokenizer)
    likeliest = tuple((i, texts.alone(i) if i < known else None, float(probabilities[i])) for i in order)
    return surprisals, NextTokens(entropy, likeliest)

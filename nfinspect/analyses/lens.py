"""The logit lens: how the result of nfinspect.experiments.lens is printed, shown and drawn. Rows are layers.

The command is `logits MODEL --lens TEXT` (nfinspect.cli.logits).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

from nfinspect.analyses.analysis_spec import AnalysisSpec, Drawing, Field, RowSet, Table, no_neurons
from nfinspect.analyses.fields import LAYER, Told
from nfinspect.present.numbers import counted, percent, quoted
from nfinspect.present.plots import LayerBars, Plot, Shading
from nfinspect_store.results import Result

SHOWN = 60
"""How many of a prompt's last characters are shown before its answer."""

Layer = Mapping[str, Any]
"""A layer of the document; without positions if they were not asked for."""


@dataclass(frozen=True)
class Lens(Told):
    """The document of `nfinspect logits --lens`."""

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, each with its positions; these are empty if the lens was at the prompt's end alone."""
        return tuple({"positions": [], **layer} for layer in self.document["layers"])

    @property
    def answer(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.document["answer"]
        return found

    @property
    def tokens(self) -> Sequence[str | None]:
        """The prompt's tokens; empty if there are no positions."""
        found: Sequence[str | None] = self.document.get("prompt_tokens", [])
        return found


def _read(result: Result) -> Lens:
    found = Lens(result.document)
    if any(len(layer["positions"]) != len(found.tokens) for layer in found.layers):
        raise ValueError("positions and tokens differ")
    return found


# texts and lists

RANK = Field("rank", "of the model's answer, from 1", "rank", width=6, ascending=True, tone="bold",
             value=itemgetter("answer_rank"))  # fmt: skip
PROBABILITY = Field("probability", "of the model's answer", "probab.", "percent", width=7,
                    value=lambda row: math.exp(row["answer_log_prob"]))  # fmt: skip
LOG_PROBABILITY = Field("answer_log_prob", "of the model's answer, nats", "log p", "fixed", digits=2)
ENTROPY = Field("entropy", "of the layer's prediction, nats", "entropy", "fixed", width=7, spare=1)
LIKELIEST = Field("top", "the tokens that are likeliest to follow", "likeliest tokens", "tokens", width=20, sorts=False,
                  flex=True)  # fmt: skip
TOKEN = 13
"""Cells for a token with its probability."""


def _after(place: int, title: str, spare: int = 0) -> Field:
    """What a layer finds likeliest after one token of the prompt."""
    meaning = f"the token that is likeliest to follow token {place}"
    return Field(f"after {place}", meaning, title, "tokens", width=TOKEN, spare=spare, sorts=False,
                 value=lambda layer: layer["positions"][place : place + 1])  # fmt: skip


def _at_each(found: Lens | None) -> Sequence[Field]:
    tokens = found.tokens if found is not None else ()
    return (LAYER, *(_after(place, f"{place} {quoted(token)}") for place, token in enumerate(tokens)))


def _in_layer(layer: Layer, spare: int) -> Field:
    """What one layer finds likeliest after each token of the prompt; rows are (place, token)."""
    return Field("token", "", f"layer {layer['layer']}", "tokens", spare=spare,
                 value=lambda row: [layer["positions"][row[0]]])  # fmt: skip


def _printed(found: Lens) -> Sequence[Table]:
    d, layers = found.document, found.layers
    answer = f"{quoted(found.answer['token'])} ({percent(found.answer['probability'])})"
    title = f"After {d['tokens']} tokens {d['model']} answers {answer}; its rank and log-probability by layer"
    tables = [Table((LAYER, RANK, LOG_PROBABILITY, ENTROPY, LIKELIEST), layers, title)]
    if found.tokens:
        # If not all layers fit, the last ones are shown.
        after = Field("token", "token of the prompt", "after", "texts", value=lambda row: [row[1]])
        fields = [after, *(_in_layer(layer, len(layers) - i) for i, layer in enumerate(layers))]
        title = "The likeliest token after each of the prompt's, by layer"
        tables.append(Table(fields, list(enumerate(found.tokens)), title))
    return tables


def _sentence(found: Lens, kept: Result | None) -> str:
    d, prompt = found.document, str(found.document["prompt"])
    said = prompt if len(prompt) <= SHOWN else f"...{prompt[-SHOWN:]}"
    answer = f"{quoted(found.answer['token'])} {percent(found.answer['probability'])}"
    return f'"{said}": {answer} after {counted(d["tokens"], "token")}'


def _searched(row: Layer) -> str:
    return "\n".join(token["token"] or "" for token in (*row["top"], *row["positions"]))


# how it is drawn


def _numbers(found: Lens) -> tuple[int, ...]:
    return tuple(layer["layer"] for layer in found.layers)


def _probability(found: Lens, row: object) -> Plot:
    shares = tuple(100 * math.exp(layer["answer_log_prob"]) for layer in found.layers)
    what = f"probability that each layer gives to the model's answer {quoted(found.answer['token'])}, %"
    return LayerBars(what, _numbers(found), {"": shares})


def _entropy(found: Lens, row: object) -> Plot:
    what = "entropy of what each layer would answer, nats (0: it is sure)"
    return LayerBars(what, _numbers(found), {"": tuple(layer["entropy"] for layer in found.layers)})


def _map(found: Lens, row: Layer | None) -> Plot:
    """Layers by tokens, the last layer above."""
    layers = found.layers[::-1]
    return Shading(
        "probability of each layer's likeliest token after each token",
        tuple(f"L{layer['layer']}" for layer in layers),
        tuple(tuple(token["probability"] for token in layer["positions"]) for layer in layers),
        layers.index(row) if row in layers else None,
    )


SPEC = AnalysisSpec(
    name="lens",
    needs="model",
    sited=False,
    answers="what each layer would answer to a prompt",
    explains=(
        "Each layer's output at a token goes through the model's final norm and head, as if no layers came after it: "
        "the rows show what the model would answer if it stopped after that layer. rank and probability are those of "
        "the token that the whole model answers; entropy, in nats, falls as a layer gets sure. d shows the likeliest "
        "token after every token of the prompt (h and l move along them). p takes a prompt of the run, i one that you "
        "type; R edits the command, where quotes keep spaces at the end of a prompt. Enter goes to the layer's "
        "neurons. After nostalgebraist 2020."
    ),
    what=lambda options: "logit lens",
    read=_read,
    printed=_printed,
    lists=(
        RowSet(lambda found: (LAYER, RANK, PROBABILITY, ENTROPY, LIKELIEST), lambda found: found.layers,
               ("layer", False), "no layer", name="last token", searched=_searched, named=("layer",),
               neurons=no_neurons),
        RowSet(_at_each, lambda found: found.layers, ("layer", False), "no layer", name="each token",
               there=lambda found: bool(found.tokens), searched=_searched, named=("layer",), neurons=no_neurons),
    ),
    sentence=_sentence,
    kept=lambda result: (
        f"{result.document['prompt'][-SHOWN:]!r}: {result.document['answer']['token']!r} after "
        f"{result.document['tokens']:,} tokens"
    ),
    drawings=(
        Drawing("probability", _probability),
        Drawing("entropy", _entropy),
        Drawing("map", _map, follows=True, there=lambda found: bool(found.tokens)),
    ),
)  # fmt: skip

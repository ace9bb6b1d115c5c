"""What neurons and layers say in tokens: output weights and the logit lens."""

from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.capture import quiet_transformers
from nfinspect.cli.options import json_option, model_options
from nfinspect.cli.tables import Column, figure, percent, table, wrapped
from nfinspect_store.addresses import parse_address
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.experiments.lens import LogitLens
    from nfinspect.experiments.logits import NeuronLogits


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("address", metavar="[L5/N123]", required=False)
@click.option("--lens", metavar="TEXT", help="Instead of a neuron: what each layer would answer to this prompt.")
@click.option("--top", metavar="K", type=click.IntRange(min=1), help="Tokens shown; 10 of a neuron, 5 of a layer.")
@model_options
@json_option
def logits(
    model: str,
    address: str | None,
    lens: str | None,
    top: int | None,
    dtype: str,
    device: str,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Tokens that a neuron's output weights promote and suppress, or a prompt seen through the logit lens."""
    if (address is None) == (lens is None):
        raise RequestError("expected one thing to look at: a neuron such as L5/N123, or --lens TEXT")
    if address is not None:
        parse_address(address)  # a mistyped one is said before the model is loaded
    from nfinspect.models import load_model

    quiet_transformers()
    loaded = load_model(model, dtype=dtype, device=device, allow_pickle=allow_pickle)
    if address is not None:
        from nfinspect.experiments.logits import neuron_logits

        neuron = neuron_logits(loaded, address, top or 10)
        document, lines = neuron.to_json(), neuron_lines(neuron)
    else:
        from nfinspect.experiments.lens import logit_lens

        seen = logit_lens(loaded, lens or "", top or 5)
        document, lines = seen.to_json(), lens_lines(seen)
    if as_json:
        output.document(document)
    else:
        output.lines(lines)


def neuron_lines(found: "NeuronLogits") -> list[str]:
    """What a neuron promotes and suppresses, for people."""
    columns = [
        Column("promoted", text=True),
        Column("effect"),
        Column("suppressed", text=True),
        Column("effect"),
    ]
    rows = [
        (_quoted(up.token), _signed(up.effect), _quoted(down.token), _signed(down.effect))
        for up, down in zip(found.promoted, found.suppressed, strict=True)
    ]
    title = (
        f"{found.address} at {found.site} of {found.model}: what one unit of its value adds to the logits, directly; "
        f"standard deviation over {found.vocabulary} tokens {figure(found.std, 3)}"
    )
    return [*wrapped(title), *table(columns, rows)]


def lens_lines(found: "LogitLens") -> list[str]:
    """The layers' answers, for people."""
    columns = [
        Column("layer"),
        Column("rank"),
        Column("log p"),
        Column("entropy", spare=1),
        Column("likeliest tokens", text=True),
    ]
    rows = [
        (
            layer.layer,
            layer.answer_rank,
            f"{layer.answer_log_prob:.2f}",
            f"{layer.entropy:.2f}",
            "  ".join(f"{_quoted(token.token)} {percent(token.probability, 0)}" for token in layer.top),
        )
        for layer in found.layers
    ]
    answer = f"{_quoted(found.answer.token)} ({percent(found.answer.probability)})"
    title = f"After {found.tokens} tokens {found.model} answers {answer}; its rank and log-probability by layer"
    return [*wrapped(title), *table(columns, rows)]


def _quoted(token: str | None) -> str:
    """A token with its spaces to be seen; a dash for an id that the tokenizer has no token for."""
    return "-" if token is None else f"'{token}'"


def _signed(effect: float) -> str:
    return f"{effect:+.4g}"

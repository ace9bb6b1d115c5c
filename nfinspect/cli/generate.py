"""What a model writes after a prompt, and what it writes with neurons edited."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.analysis.ticks import Tick
from nfinspect.backend.hosting import hosted
from nfinspect.cli.edits import edit_options
from nfinspect.cli.options import bos_option, chat_option, full_name, json_option, model_options, store_option
from nfinspect.cli.progress import progress
from nfinspect.cli.through_backend import backend_option
from nfinspect.experiments.run_model import loaded_model
from nfinspect.present.numbers import changed_values, counted, number, percent, quoted, signed
from nfinspect.present.tables import Column, table
from nfinspect_store.catalog import store_path
from nfinspect_store.errors import RequestError
from nfinspect_store.paths import read_text

if TYPE_CHECKING:
    from nfinspect.capturing.following import FollowedToken
    from nfinspect.edits import Asked
    from nfinspect.experiments.generation_lab import Comparison, Generation, Side, WrittenSide
    from nfinspect.models import Bos

LONG = 40
"""Characters without a space after which text is shown although a word goes on."""

MOST_LISTED = 3
"""Strongest neurons listed for people, of all layers; the JSON has those of each."""

HEADINGS = {"original": "without edits", "edited": "with edits"}


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("prompt", metavar="[PROMPT]", required=False)
@click.option("--prompt-file", metavar="FILE", help="Read the prompt from a file.")
@click.option("--new-tokens", metavar="N", type=click.IntRange(min=1), default=40, show_default=True,
              help="Most tokens written; fewer if the model ends its text.")  # fmt: skip
@click.option("--temperature", type=click.FloatRange(min=0, max=1e6), default=0.0, show_default=True,
              help="0 is greedy.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Of the draws, the same with and without edits, and of the controls.")  # fmt: skip
@click.option("--top", metavar="K", type=click.IntRange(0, 100), default=3, show_default=True,
              help="Strongest neurons of each layer at each token; 0 for none.")  # fmt: skip
@edit_options
@click.option("--controls", metavar="R", type=click.IntRange(min=0), default=20, show_default=True,
              help="Random edits of the same size to compare with, 20 or more; 0 for none.")  # fmt: skip
@bos_option
@chat_option
@model_options
@store_option
@json_option
@backend_option()
def generate(
    model: str,
    prompt: str | None,
    prompt_file: str | None,
    new_tokens: int,
    temperature: float,
    seed: int,
    top: int,
    edits: "tuple[Asked, ...]",
    start: int,
    controls: int,
    bos: "Bos",
    chat: bool,
    revision: str | None,
    dtype: str,
    device: str,
    allow_pickle: bool,
    store: str | None,
    as_json: bool,
) -> None:
    """Write on after a prompt, with and without edits of neurons.

    The text is shown as it is written. With edits both texts come from the same draws.
    """
    if (prompt is None) == (prompt_file is None):
        given = "neither" if prompt is None else "both"
        raise RequestError(f"expected either a prompt or --prompt-file FILE, found {given}")
    if temperature != temperature:  # click lets NaN pass
        raise RequestError("expected a --temperature of 0 or more, found nan")
    from nfinspect.experiments.ablation_table import check_controls

    check_controls(controls)
    text = prompt if prompt is not None else read_text(Path(prompt_file or ""), "a prompt", RequestError).rstrip("\n")
    loaded = loaded_model(
        full_name(model, revision), revision=revision, dtype=dtype, device=device, allow_pickle=allow_pickle
    )
    from nfinspect.experiments.generation_lab import Sampling, continuation, generation
    from nfinspect.experiments.resolved_edits import resolved_edits

    changes = resolved_edits(loaded, edits, store_path(store))
    shown = None if as_json else _Shown(text, lambda ids, whole: continuation(loaded, ids, whole), both=bool(changes))
    job = hosted()

    def tell(side: "Side", token: "FollowedToken") -> None:
        if shown is not None:
            shown.add(side, token)
        if job is not None:
            job.token(token, side)

    with ExitStack() as stack:
        ticks: list[Tick] = []

        def tick(done: int, total: int) -> None:
            if not ticks:
                if shown is not None:
                    shown.end()
                ticks.append(stack.enter_context(progress("controls")))
            ticks[0](done, total)

        found = generation(
            loaded,
            text,
            changes,
            sampling=Sampling(new_tokens, temperature, seed),
            start=start,
            controls=controls,
            top=top,
            bos=bos,
            chat=chat,
            tell=tell,
            tick=tick,
        )
    if shown is not None:
        shown.end()
    for note in found.notes:
        output.note(note)
    if as_json:
        output.document(found.to_json())
    else:
        output.lines(summary_lines(found))


class _Shown:
    """The texts, as they are written, word by word: a character may take several tokens, and a mark another's place."""

    def __init__(self, prompt: str, continuation: Callable[[list[int], list[int]], str], *, both: bool) -> None:
        """continuation: the text after the prompt, of the prompt's ids and all ids. both: there are two sides, which
        get headings.
        """
        self._prompt = prompt
        self._continuation = continuation
        self._both = both
        self._side: Side | None = None
        self._read: list[int] = []  # the prompt's tokens
        self._ids: list[int] = []  # and what was written after them
        self._done = 0

    def add(self, side: "Side", token: "FollowedToken") -> None:
        if side != self._side:
            self.end()
            self._side, self._read, self._ids, self._done = side, [], [], 0
            if self._both:
                output.line(HEADINGS[side])
            output.part(self._prompt)
        self._ids.append(token.token_id)
        if token.generated:
            text = self._continuation(self._read, self._ids)
            self._show(text, _ready(text, self._done))
        else:
            self._read.append(token.token_id)

    def end(self) -> None:
        """The side's text is whole."""
        if self._side is not None:
            text = self._continuation(self._read, self._ids)
            self._show(text, len(text))
            output.part("\n\n")
            self._side = None

    def _show(self, text: str, until: int) -> None:
        if until > self._done:
            output.part(text[self._done : until])
            self._done = until


def _ready(text: str, done: int) -> int:
    """How much of a text no further token will change: up to its last word."""
    last = max(text.rfind(" "), text.rfind("\n"))
    if last <= done and len(text) - done > LONG:
        return len(text) - LONG // 2
    return last


def summary_lines(found: "Generation") -> list[str]:
    """Everything but the texts, for people."""
    lines = _next_lines(found)
    if found.comparison is not None:
        lines += ["", *_comparison_lines(found, found.comparison)]
    for side in (found.original, found.edited):
        if side is not None:
            heading = [HEADINGS["original" if side is found.original else "edited"]] if found.edited else []
            lines += ["", *heading, *_token_lines(side)]
    return lines


def _next_lines(found: "Generation") -> list[str]:
    edited = found.edited is not None
    columns = [Column("next token", text=True), Column("without" if edited else "p"), *([Column("with")] * edited)]
    rows = [(quoted(one.token), percent(one.original), *([percent(one.edited)] * edited)) for one in found.next]
    return table(columns, rows)


def _comparison_lines(found: "Generation", comparison: "Comparison") -> list[str]:
    place = comparison.first_difference
    lines = ["both texts are the same" if place is None else f"the texts differ from token {place} on"]
    lines.append(changed_values(comparison.changed_values))
    if comparison.delta_nll is not None:
        of = counted(found.prompt_tokens - 1, "token")
        lines.append(f"ΔNLL {signed(comparison.delta_nll)} nats per token on {of} of the prompt")
    control = comparison.control
    if control.count:
        lines.append(
            f"{counted(control.count, 'random edit')} of this size: mean {signed(control.mean_delta_nll)}, "
            f"sd {number(control.sd)}, z {signed(control.z)}, p {number(control.p_value)}"
        )
    return lines


def _token_lines(side: "WrittenSide") -> list[str]:
    columns = [Column("", whole=True), Column("token", text=True), Column("surprisal"), Column("strongest", text=True)]
    rows = []
    for token in side.tokens:
        strongest = sorted(token.strongest, key=lambda one: -abs(one[2]))[:MOST_LISTED]
        listed = "  ".join(f"L{layer}/N{neuron} {number(value)}" for layer, neuron, value in strongest)
        rows.append((token.position, quoted(token.text), number(token.surprisal), listed))
    return table(columns, rows)

"""What the token walk says: of a prompt, of the token under the cursor, of the layers there, of the colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nfinspect.present.numbers import PLAIN, Signs, number, quoted
from nfinspect.tui.cells import Cell, visible_in
from nfinspect.tui.glyphs import Glyphs, level

if TYPE_CHECKING:
    from nfinspect.analysis.prompt_text import TextPart
    from nfinspect.analysis.token_neurons import AtToken, TokenNeuron
    from nfinspect.tui.walking import Colouring, WalkPrompt

Pieces = list[Cell | str]
Name = Callable[[int, int], str]

RANKED = {"value": "|value|", "z": "|z|", "percentile": "own percentile", "contribution": "|a| * |w_out|"}
"""What neurons are ranked by."""

FAR = 0.1
"""Percent from either end beyond which only that is said: a histogram is no finer."""


def own_percentile(value: float | None, signs: Signs = PLAIN) -> str:
    """`p97.2`; beyond the ends `>p99.9` and `<p0.1`."""
    if value is None:
        return signs.none
    if FAR <= value <= 100 - FAR:
        return f"p{value:.1f}"
    return ">p99.9" if value > 50 else "<p0.1"


HELP = (
    "h l go from token to token, b e from word to word, J K from prompt to prompt; p goes to a prompt by its "
    "number or by a part of its text. What the model wrote follows the double line. The margin shows the strongest "
    "step of each line, so that it is seen without colour.\n"
    "c colours the tokens: by how unusual the layer is there (the root mean square of its neurons' z, about 1 on "
    "average), by a neuron (C takes the one in the list; steps at 10, 25, 50 and 80 % of its largest |value| in "
    "the run), by surprisal, or not at all. L chooses the layer, and lists its neurons alone.\n"
    "r ranks the neurons by |value|; by |z|, in standard deviations from the neuron's mean over the run; by how "
    "far the value is from the middle of the neuron's own values over the run (own p: the percentile, from its "
    "histogram); or by contribution, |a| times the length of the neuron's output weights. Enter opens the neuron. "
    "d shows what each layer would answer after the token instead, where a logit lens of the prompt is saved. "
    "m reads the model once, in a command of its own, for surprisal and contributions; they are saved with the run."
)

BOUNDS = {"neuron": (0.1, 0.25, 0.5, 0.8), "layer": (1.5, 2.0, 3.0, 5.0), "surprisal": (2.0, 4.0, 7.0, 10.0)}
"""From where on each of the four steps of a colour: shares of the neuron's largest |value| in the run, root mean
squares of z, nats [own] (methods §15).
"""


def step_of(value: float, by: str, full: float) -> int:
    """0 to 4. full: a neuron's largest |value| in the run."""
    size = abs(value)
    if by == "neuron":
        size = size / full if full else 0.0
    return sum(size >= bound for bound in BOUNDS[by])


def name_of(colouring: Colouring) -> str:
    """What tokens are coloured by."""
    match colouring.by:
        case "neuron":
            return str(colouring.neuron)
        case "layer":
            return f"L{colouring.layer} unusual"
    return colouring.by


def head(prompt: WalkPrompt, prompts: int, place: int, part: TextPart | None, g: Glyphs) -> str:
    """Where the cursor is. prompts: of the run."""
    said = [f"prompt {prompt.prompt_idx} of {prompts:,}", visible_in(prompt.concept, g)]
    said.append(f"token {place + 1:,} of {prompt.size:,}")
    if part is not None:
        i = place - part.start
        if role := part.rows.role[i]:
            said.append(visible_in(role, g))
        if part.rows.generated[i]:
            said.append("written by the model")
        if part.rows.token_idx[i] < 0:
            said.append("not recorded")
    return f" {g.dot} ".join(said)


def of_token(part: TextPart, place: int) -> Pieces:
    """The characters that a token has a part of, its id, and its own bytes where it is only a part."""
    i = place - part.start
    whole = part.whole.token(i)
    pieces: Pieces = [Cell(quoted(whole), "bold"), f" id {part.rows.token_id[i]}"]
    if part.rows.token[i] != whole:
        pieces.append(Cell(f" {quoted(part.rows.token[i])}", "dim"))
    return pieces


def of_colour(colouring: Colouring, value: float | None, full: float, unknown: str, g: Glyphs) -> Pieces:
    """The figure behind the token's colour. unknown: what is said if there is none."""
    if colouring.by == "nothing":
        return [Cell("not coloured: c, C", "dim")]
    if value is None:
        return [Cell(f"{name_of(colouring)}: {unknown}", "dim")]
    told = number(value, g)
    if colouring.by == "neuron" and full:
        told += f", {100 * abs(value) / full:.0f}% of its largest"
    if colouring.by == "surprisal":
        told += " nats"
    return [f"{name_of(colouring)} ", Cell(told, "bold")]


def of_layers(at: AtToken, width: int, g: Glyphs) -> Pieces:
    """A strip with a cell a layer, as high and as toned as the layer is unusual, in `width` cells; neighbours share a
    cell where there are more layers. Below, the most unusual one.
    """
    if at.examples:
        return [Cell("not every value was kept:", "warn"), "\n", "neurons with it among their examples"]
    known = [layer for layer in at.layers if layer.unusual is not None]
    if not known:
        return [Cell("layers: no neuron varies", "dim")]
    names = (f"L{at.layers[0].layer} ", f" L{at.layers[-1].layer}")
    each = -(-len(at.layers) // max(4, width - len(names[0]) - len(names[1])))
    strip: Pieces = [Cell(names[0], "dim")]
    for start in range(0, len(at.layers), each):
        most = max(one.unusual or 0.0 for one in at.layers[start : start + each])
        step = step_of(most, "layer", 0.0)
        strip.append(Cell(level(most / BOUNDS["layer"][-1], g), f"heat{step}" if step else ""))
    top = max(known, key=lambda one: one.unusual or 0.0)
    most_unusual = Cell(number(top.unusual, g, 3), "bold")
    return [*strip, Cell(names[1], "dim"), "\n", f"most unusual L{top.layer} ", most_unusual]


def legend(colouring: Colouring, listed: str, g: Glyphs) -> Pieces:
    """The steps of the colours with their levels in the margin, and what is listed."""
    pieces: Pieces = [Cell("c ", "bold")]
    if colouring.by == "nothing":
        pieces.append("not coloured")
    else:
        pieces.append(f"{name_of(colouring)} ")
        for step, bound in enumerate(BOUNDS[colouring.by], 1):
            word = f"{100 * bound:.0f}%" if colouring.by == "neuron" else f"{bound:g}"
            pieces.append(Cell(f"{g.levels[2 * step]}>={word} ", f"heat{step}"))
    return [*pieces, Cell(" r ", "bold"), listed]


def copied(run: str, part: TextPart, place: int, neurons: Sequence[TokenNeuron], name: Name) -> str:
    """A line for the token, and one for each neuron: address (by `name`), value, z, own percentile, contribution."""
    where = f"{run} prompt {part.prompt_idx} token {place} {quoted(part.whole.token(place - part.start))}"
    rows = [
        (
            name(row.layer, row.neuron),
            number(row.value),
            number(row.z),
            own_percentile(row.percentile),
            number(row.contribution),
        )
        for row in neurons
    ]
    return "\n".join([where, *map("\t".join, rows)])

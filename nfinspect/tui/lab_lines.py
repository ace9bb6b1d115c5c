"""How the lab draws a generation: both texts, the likely next tokens, and what the edits cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from textual.content import Content

from nfinspect.present.numbers import changed_values, counted, number, percent, quoted, signed
from nfinspect.tui.cells import Cell, content, fit, lines
from nfinspect.tui.glyphs import Glyphs, bar

if TYPE_CHECKING:
    from nfinspect.backend.protocol import Token

HEADINGS = {"original": "without edits", "edited": "with edits"}
SHOWN = 10
"""Next tokens that are drawn: the likeliest of either side."""

WORD = 18
"""Cells of a next token."""


def verdict(document: Mapping[str, Any], glyphs: Glyphs) -> list[list[Cell | str]]:
    """What the edits changed, a line each."""
    compared = document["comparison"]
    notes: list[list[Cell | str]] = [[Cell(note, "warn")] for note in document["notes"]]
    if compared is None:
        return [["no edits: c adds one"], *notes]
    rows: list[list[Cell | str]] = []
    place = compared["first_difference"]
    if place is None:
        rows.append([Cell("both texts are the same", "bold")])
    else:
        one, other = (_token_at(document[side]["tokens"], place) for side in HEADINGS)
        rows.append([Cell(f"the texts differ from token {place} on: ", "bold"), Cell(f"{one} / {other}")])
    if (count := compared["changed_values"]) or place is None:
        rows.append([Cell(changed_values(count), "" if count else "warn")])
    if compared["delta_nll"] is not None:
        delta = "change of NLL" if glyphs.plain else "ΔNLL"
        of = counted(document["prompt_tokens"] - 1, "token")
        rows.append(
            [Cell(f"{delta} {signed(compared['delta_nll'])}", "bold"), f" nats per token on {of} of the prompt"]
        )
    control = compared["control"]
    if control["count"]:
        drawn = counted(control["count"], "random edit")
        rows.append([
            f"{drawn} of this size: mean {signed(control['mean_delta_nll'])}, sd {number(control['sd'])}, "
            f"z {signed(control['z'])}, p {number(control['p_value'])}"
        ])  # fmt: skip
    return [*rows, *notes]


def _token_at(tokens: list[Mapping[str, Any]], place: int) -> str:
    return quoted(str(tokens[place]["token"])) if place < len(tokens) else "the end"


def whole_text(document: Mapping[str, Any], side: str) -> Content:
    """A finished text after its heading; the first token that differs is marked."""
    found = document[side]
    start, stop = difference(document, side)
    text = found["text"]
    return _text(side, document["prompt"], text, start, stop)


def difference(document: Mapping[str, Any], side: str) -> tuple[int, int]:
    """Where in a side's written text its first token stands that the other has not, as characters; (0, 0) if there is
    none.
    """
    compared = document["comparison"]
    place = None if compared is None else compared["first_difference"]
    tokens, text = document[side]["tokens"], document[side]["text"]
    if place is None or place >= len(tokens):
        return 0, 0
    before = "".join(token["token"] or "" for token in tokens[document["prompt_tokens"] : place])
    here = tokens[place]["token"] or ""
    if text.startswith(before + here):
        return len(before), len(before) + len(here)
    # A character of several tokens: the first character that the texts do not share.
    texts = [document[one]["text"] for one in HEADINGS]
    shared = next((i for i, (a, b) in enumerate(zip(*texts, strict=False)) if a != b), min(map(len, texts)))
    return shared, min(len(text), shared + 1)


def growing_text(side: str, prompt: str, tokens: Iterable[Token]) -> Content:
    """A text that is being written."""
    text = "".join(token.text for token in tokens if token.side == side and token.generated)
    return _text(side, prompt, text, 0, 0)


def _text(side: str, prompt: str, text: str, start: int, stop: int) -> Content:
    said: list[Cell | str] = [Cell(HEADINGS[side], "title")]
    for line in prompt.split("\n"):  # a line break in a cell would be drawn as a character
        said += ["\n", Cell(line, "dim")]
    return content(*said, text[:start], Cell(text[start:stop], "hit"), text[stop:])


def next_tokens(document: Mapping[str, Any], width: int, glyphs: Glyphs) -> Content:
    """The likely tokens after the prompt with bars, in the order of the side without edits."""
    edited = document["edited"] is not None
    rows = document["next"]
    strongest = sorted(range(len(rows)), key=lambda i: -max(rows[i]["original"], rows[i]["edited"] or 0.0))[:SHOWN]
    sides = ("original", "edited") if edited else ("original",)
    most = max(rows[i][side] for i in strongest for side in sides)
    each = max(12, min(48, (width - WORD) // len(sides)))
    heading = fit("next token", WORD, glyphs) + "".join(fit(HEADINGS[side], each, glyphs) for side in sides)
    drawn: list[list[Cell | str]] = [[Cell(heading.rstrip(), "title")]]
    for i in sorted(strongest):
        row: list[Cell | str] = [fit(quoted(str(rows[i]["token"])), WORD - 1, glyphs), " "]
        for side in sides:
            value = rows[i][side]
            full = bar(value / most, each - 9, glyphs).ljust(each - 8)
            row += [f"{percent(value):>7} ", Cell(full, "accent" if side == "edited" else "")]
        drawn.append(row)
    return lines(drawn)

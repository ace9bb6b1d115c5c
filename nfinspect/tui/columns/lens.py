"""The columns of the logit lens: rows are the layers of its document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rich.cells import cell_len

from nfinspect.present.numbers import fixed, percent
from nfinspect.tui.cells import Cell, fit, visible_in
from nfinspect.tui.glyphs import Glyphs
from nfinspect.tui.widgets.paged_table import Column

TOKEN = 13
"""Cells for a token with its probability."""


def layer_columns(g: Glyphs) -> list[Column]:
    """How the model's answer stands in each layer, and what the layer itself finds likeliest."""

    def likeliest(row: Mapping[str, Any], width: int) -> Cell:
        return Cell("  ".join(f"{_quoted(token, g)} {_whole(token)}" for token in row["top"]))

    return [
        _layer(),
        Column("rank", 6, lambda r, w: Cell(f"{r['answer_rank']:,}", "bold"), "right", key="rank"),
        Column("probab.", 7, lambda r, w: Cell(percent(math.exp(r["answer_log_prob"]), g)), "right", key="probability"),
        Column("entropy", 7, lambda r, w: Cell(fixed(r["entropy"], g)), "right", key="entropy"),
        Column("likeliest tokens", 20, likeliest, flex=True),
    ]


def position_columns(tokens: Sequence[str | None], g: Glyphs) -> list[Column]:
    """A column for each token of the prompt: what the layer finds likeliest after it."""

    def after(place: int, row: Mapping[str, Any], width: int) -> Cell:
        token = row["positions"][place]
        text = _quoted(token, g)
        share = _whole(token)
        if cell_len(text) > (room := width - len(share) - 1):
            text = fit(text, room, g)
        return Cell(f"{text} {share}", "bold" if token["probability"] >= 0.5 else "")

    titles = [g.none if token is None else f'{place} "{token}"' for place, token in enumerate(tokens)]
    return [_layer(), *(Column(title, TOKEN, partial(after, place)) for place, title in enumerate(titles))]


def _layer() -> Column:
    return Column("layer", 6, lambda r, w: Cell(f"L{r['layer']}", "bold"), key="layer")


def _quoted(token: Mapping[str, Any], g: Glyphs) -> str:
    return g.none if token["token"] is None else f'"{visible_in(token["token"], g)}"'


def _whole(token: Mapping[str, Any]) -> str:
    return percent(token["probability"], places=0)

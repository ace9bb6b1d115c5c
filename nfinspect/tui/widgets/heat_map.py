"""Concepts against concepts: each cell a filling as dense as the overlap, with the number beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nfinspect.tui.cells import Cell, fit
from nfinspect.tui.glyphs import Glyphs, shade


def heat_map(
    names: Sequence[str],
    shared: Mapping[tuple[str, str], int],
    top: int,
    width: int,
    glyphs: Glyphs,
    chosen: tuple[str, str] | None = None,
) -> list[list[Cell | str]]:
    """Rows of cells.

    `shared` holds each pair once; the diagonal is the whole trace. Columns that do not fit are left out.
    """
    label = min(12, max((len(n) for n in names), default=4))
    wide = max(5, min(11, (width - label - 1) // max(1, len(names)) - 1))
    shown = list(names)[: max(1, (width - label - 1) // (wide + 1))]
    rows: list[list[Cell | str]] = [[" " * label, *(Cell(" " + fit(n, wide, glyphs), "dim") for n in shown)]]
    for a in names:
        row: list[Cell | str] = [Cell(fit(a, label, glyphs), "bold")]
        for b in shown:
            if a == b:
                row.append(Cell(" " + fit(glyphs.dot * 3, wide, glyphs), "dim"))
                continue
            count = shared.get((a, b), shared.get((b, a), 0))
            share = count / top if top else 0.0
            filling = shade(share, glyphs) * max(1, wide - 4)
            tone = "hit" if chosen in ((a, b), (b, a)) else f"heat{1 + min(3, int(share * 4))}"
            row += [" ", Cell(f"{filling}{count:>3} ", tone)]
        rows.append(row)
    if len(shown) < len(names):
        rows.append([Cell(f"{len(names) - len(shown)} more columns do not fit", "dim")])
    return rows

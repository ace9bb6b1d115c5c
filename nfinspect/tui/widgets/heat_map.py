"""Concepts against concepts: each cell a filling as dense as the overlap, with the number next to it.

And tokens against tokens: fillings alone, as there are too many of them for numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nfinspect.tui.cells import Cell, fit
from nfinspect.tui.glyphs import Glyphs, shade

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LABEL = 10
"""Cells of a row's label."""


def heat_map(
    names: Sequence[str],
    shared: Mapping[tuple[str, str], int],
    top: int,
    width: int,
    glyphs: Glyphs,
    chosen: tuple[str, str] | None = None,
) -> list[list[Cell | str]]:
    """Rows of cells. shared: each pair once, in either order. The diagonal has dots. Columns that do not fit are left
    out.
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


def matrix_map(
    weights: NDArray[np.float64], labels: Sequence[str], width: int, height: int, glyphs: Glyphs
) -> tuple[list[str], float]:
    """The lines of a square matrix, and the weight that a full cell stands for.

    Column 0 takes most of the attention and would leave the others empty: the scale is that of the other columns. If
    not all fits, a cell is the mean over neighbours. NaN, above the diagonal, is left empty.
    """
    import numpy as np

    size = len(weights)
    rows, columns = min(size, max(1, height)), min(size, max(1, width - LABEL - 1))
    wide = 2 if 2 * columns <= width - LABEL - 1 else 1
    beyond = weights[1:, 1:]
    full = float(np.nanmax(beyond)) if beyond.size and not np.isnan(beyond).all() else 1.0
    row_of, column_of = np.arange(size) * rows // size, np.arange(size) * columns // size
    lines = []
    for row in range(rows):
        members = np.flatnonzero(row_of == row)
        band = weights[members]
        cells = [band[:, column_of == column] for column in range(columns)]
        means = [float(np.nanmean(cell)) if not np.isnan(cell).all() else 0.0 for cell in cells]
        label = fit(labels[members[0]] if members[0] < len(labels) else str(members[0]), LABEL, glyphs)
        lines.append(f"{label} " + "".join(shade(mean / full if full else 0.0, glyphs) * wide for mean in means))
    return lines, full

"""The check of `verify` that recomputes the tables `neurons` and `layer_health` from those they are derived from."""

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store.reader import RunFile
from nfinspect_store.tables import RunTables

Derive = Callable[[RunTables, bool], tuple[pa.Table, pa.Table]]
"""From a run's tables, and whether its values may be read (exact), to the contents of `neurons` and `layer_health`."""

TOLERANCE = 1e-6
"""Relative, for floating-point columns: the capture may have run on another processor."""

READ = {
    "neurons": "SELECT d.* FROM neurons d JOIN layers l USING (site, layer) ORDER BY l.layer_id, d.neuron",
    "layer_health": "SELECT d.* FROM layer_health d JOIN layers l USING (site, layer) ORDER BY l.layer_id",
}


def check_derived_again(run: RunFile, derive: Derive) -> list[str]:
    """Recompute and compare; exact or estimated for a capture cut short, which counts exactly only at its end."""
    if not run.tokens:
        return []
    stored = {name: run.cursor().sql(query).to_arrow_table() for name, query in READ.items()}
    problems = _compared(stored, derive(run, True))
    if problems and run.info.status != "complete":
        estimated = _compared(stored, derive(run, False))
        problems = estimated if len(estimated) < len(problems) else problems
    return problems


def _compared(stored: dict[str, pa.Table], derived: tuple[pa.Table, pa.Table]) -> list[str]:
    problems = []
    for (name, found), expected in zip(stored.items(), derived, strict=True):
        if found.num_rows != expected.num_rows:
            problems.append(f"{name}: it holds {found.num_rows} rows, {expected.num_rows} follow from the statistics")
            continue
        for column in expected.column_names:
            differs = _differs(found.column(column), expected.column(column))
            if differs.any():
                row = found.slice(int(differs.argmax()), 1).to_pylist()[0]
                place = f"{row['site']}:L{row['layer']}" + (f"/N{row['neuron']}" if name == "neurons" else "")
                problems.append(
                    f"{name}: {column} does not follow from the statistics in {int(differs.sum())} rows, "
                    f"the first is {place}"
                )
    return problems


def _differs(found: pa.ChunkedArray, expected: pa.ChunkedArray) -> NDArray[np.bool_]:
    if pa.types.is_floating(expected.type):
        a, b = (np.asarray(x.cast(pa.float64()).to_numpy(), np.float64) for x in (found, expected))  # NULL as NaN
        return ~np.isclose(a, b, rtol=TOLERANCE, atol=1e-12, equal_nan=True)
    return np.array([x != y for x, y in zip(found.to_pylist(), expected.to_pylist(), strict=True)], np.bool_)

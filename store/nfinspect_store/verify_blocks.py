"""The checks of `verify` that read every value: both of them from one pass over the blocks, layer by layer."""

from collections.abc import Iterator
from functools import cached_property

import duckdb
import numpy as np
import pyarrow as pa

from nfinspect_store.connect import first_line
from nfinspect_store.digests import VALUES, Digest, read_digests, tells_firing
from nfinspect_store.errors import NfinspectError
from nfinspect_store.precision import BYTES
from nfinspect_store.reader import RunFile
from nfinspect_store.schema import BLOCK
from nfinspect_store.statistics import NeuronStatistics
from nfinspect_store.types import Layer
from nfinspect_store.verify_values import (
    Counted,
    Places,
    counted,
    layer_groups,
    other_means,
    other_statistics,
    places_sum,
    stored_statistics,
)

MEAN_TOLERANCE = 1e-6
"""As a share of E|a|: the capture and this pass add the same values in different orders, both in float64."""

UNREADABLE = (
    duckdb.Error,
    pa.ArrowException,
    NfinspectError,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    MemoryError,
)
"""What reading a damaged run may raise."""

STRANGERS = """
SELECT count(*) FROM blocks b LEFT JOIN layers l USING (layer_id)
WHERE l.layer_id IS NULL OR b.neuron IS NULL OR b.neuron < 0 OR b.neuron >= l.neurons OR b."first" > b."last"
   OR b.block IS NULL OR b.block < 0 OR b.block::BIGINT * $block + b."last" >= $tokens
   OR (octet_length(b."values") IS DISTINCT FROM 4 * (b."last"::INTEGER - b."first" + 1)
       AND (octet_length(b."values") IS DISTINCT FROM $width * (b."last"::INTEGER - b."first" + 1)
            OR ($width = 1 AND (b.scale >= 0 AND isfinite(b.scale)) IS NOT TRUE)))
   OR octet_length(b.fired) <> (b."last"::INTEGER - b."first") // 8 + 1
"""


class ValuesRead:
    """A run's values, each read once for two checks. DuckDB verifies its own checksum of every disk block read: a
    flipped bit is an error.
    """

    def __init__(self, run: RunFile) -> None:
        self._run = run

    def check_blocks(self, run: RunFile) -> list[str]:
        """Whether every value is there once and finite, and minimum, maximum and means agree with `statistics`."""
        if not run.has_values or run.attached:
            held = run.cursor().execute("SELECT count(*) FROM blocks").fetchall()[0][0]
            what = "whose values are in parts" if run.attached else "of statistics"
            if held or not run.has_values:
                return [f"blocks: a run {what} holds {held} of them"] if held else []
        parameters = {"tokens": run.tokens, "block": BLOCK, "width": BYTES[run.precision]}
        strangers = run.cursor().execute(STRANGERS, parameters).fetchall()[0][0]
        if strangers:  # with these, the others cannot be read
            return [f"blocks: {strangers} belong to no neuron or no token of the run"]
        return self._problems[0]

    def check_values(self, run: RunFile) -> list[str]:
        """Whether statistics, histograms and prompt means are those of the values. Skipped if no values were kept, or
        not which of them fired.
        """
        return self._problems[1] if run.has_values and run.tokens and self._tells_firing else []

    @cached_property
    def _tells_firing(self) -> bool:
        return tells_firing(self._run.cursor())

    @cached_property
    def _problems(self) -> tuple[list[str], list[str]]:
        """Of the blocks, and of what is counted from their values."""
        run, blocks, values, digest = self._run, list[str](), list[str](), Digest()
        places, readable = Places.of(run), self._tells_firing

        def told(differences: Iterator[str]) -> bool:
            try:
                values.extend(differences)
            except UNREADABLE as error:
                values.append(f"values: cannot be read: {first_line(error)}")
                return False
            return True

        for layers in layer_groups(run):
            group = []
            for layer in layers:
                found = counted(run, layer, places, fired=self._tells_firing)
                group.append((layer, found))
                digest += found.digest
                stored = stored_statistics(run, layer)
                blocks += _of_blocks(run, layer, found, stored[False])
                readable = readable and told(other_statistics(run, layer, found, stored))
                found.histograms.clear()  # not needed for the means
            readable = readable and told(other_means(run, group))
        # The digest of a value depends on its token: those of a part's values are compared in the part.
        if readable and not run.attached and digest != read_digests(run.cursor()).get(VALUES):
            values.append("blocks: the values are not those that were written: their digest differs")
        return blocks, values


def _of_blocks(run: RunFile, layer: Layer, found: Counted, told: NeuronStatistics) -> list[str]:
    place = f"{layer.site} layer {layer.layer}"
    tokens = np.repeat(run.routes(layer).counts, layer.width) if layer.experts else np.array([run.tokens])
    wrong = int((found.there != tokens).sum())
    if wrong:
        expected = "as many as tokens were routed to their experts" if layer.experts else str(run.tokens)
        return [
            f"blocks: {place}: {wrong} neurons have {found.there.min()} to {found.there.max()} values, "
            f"expected {expected}"
        ]
    sums = {n: places_sum(0, n) for n in np.unique(tokens).tolist()}
    if again := int((found.places != np.array([sums[n] for n in tokens.tolist()])).sum()):
        return [f"blocks: {place}: {again} neurons have a token twice and another one not at all"]
    return _against_statistics(run, layer, place, found, told) if run.tokens else []


def _against_statistics(run: RunFile, layer: Layer, place: str, found: Counted, told: NeuronStatistics) -> list[str]:
    problems = []
    finite = found.infinite == 0
    if not finite.all():
        neuron = int(np.flatnonzero(~finite)[0])
        problems.append(
            f"blocks: {place}: {int(found.infinite.sum())} values are NaN or infinite, the first in N{neuron}"
        )
    here = found.statistics[False].merge(found.statistics[True])
    error = run.worst_error.get(layer.site, 0.0)  # statistics are of the values as computed
    tolerance = MEAN_TOLERANCE * np.maximum(here.mean_abs, np.finfo(np.float32).tiny) + error
    compared = {
        "minimum": ~(np.abs(here.minimum.astype(np.float64) - told.minimum) <= error),
        "maximum": ~(np.abs(here.maximum.astype(np.float64) - told.maximum) <= error),
        "mean": ~(np.abs(here.mean - told.mean) <= tolerance),
        "mean of the absolute values": ~(np.abs(here.mean_abs - told.mean_abs) <= tolerance),
    }
    for what, differs in compared.items():
        differs &= finite & (here.n > 0)  # no token may have been routed to an expert
        if differs.any():
            neuron = int(np.flatnonzero(differs)[0])
            count = int(differs.sum())
            problems.append(
                f"blocks: {place}: the {what} of {count} neurons is not that of the statistics, the first is N{neuron}"
            )
    return problems

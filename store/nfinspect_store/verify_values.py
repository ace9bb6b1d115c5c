"""What the values of a run say: statistics, histograms and prompt means counted again for `verify`, layer by layer.

Each batch of rows gives statistics about its own mean, which merge as those of a capture do: the same sums in a
different order, so counts, extremes and histograms must be equal and moments agree up to rounding.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nfinspect_store import kernels
from nfinspect_store.arrow_numbers import numbers
from nfinspect_store.blob_columns import blob_bytes
from nfinspect_store.digests import Digest, values_digest
from nfinspect_store.histogram import BINS, bin_of
from nfinspect_store.memory import PIECE
from nfinspect_store.precision import FLOAT32
from nfinspect_store.reader import RunFile
from nfinspect_store.routes import Routes
from nfinspect_store.schema import MEANS_WIDTH
from nfinspect_store.statistics import UNKNOWN, NeuronStatistics
from nfinspect_store.types import Layer

INT64 = np.iinfo(np.int64)

TOLERANCE = 1e-6
"""Relative, for moments: a capture adds the same values in a different order, both in float64."""

ROUNDING = 1e-12
"""For moments, as a share of n · max|a|^k for the kth moment: what is left where large values cancel."""

MEANS_BYTES = 64 * 2**20
"""About the bytes of sums over prompts held at a time; where all neurons do not fit, only every nth is recomputed."""

MEANS_TOLD = 20
"""Prompts whose means are reported at most."""

MEANS_AT_ONCE = 250_000
"""Means of prompts, layers and selections that are counted by one statement: DuckDB takes 0.8 kB for each, measured."""

READ_PLACES = "SELECT prompt_idx, position, generated FROM tokens ORDER BY token_idx"

READ_MEANS = """
SELECT layer_id, prompt_idx, selection, n, first_neuron, "values"
FROM prompt_means WHERE layer_id BETWEEN $low AND $high
"""

MEANS = f"""
WITH expected AS (
    SELECT l.layer_id, p.prompt_idx, s.selection, l.neurons,
           CASE s.selection WHEN 'all' THEN p.tokens - p.at_start WHEN 'last' THEN 1
                            ELSE p.tokens - greatest(p.prompt_tokens, p.at_start) END AS n
    FROM layers l, (SELECT *, (SELECT count(*) FROM tokens t
                               WHERE t.token_idx = first_token AND t.position = 0 AND tokens > 0) AS at_start
                    FROM prompts WHERE prompt_idx BETWEEN $low AND $high) p,
         (VALUES ('all'), ('last'), ('generated')) s(selection)
    WHERE p.tokens > p.at_start),
found AS (
    SELECT m.layer_id, prompt_idx, selection, count(*) AS there, count(DISTINCT first_neuron) AS places,
           min(n) AS least, max(n) AS most,
           bool_and(first_neuron >= 0 AND first_neuron % {MEANS_WIDTH} = 0
                    AND octet_length("values") = 4 * least({MEANS_WIDTH}, l.neurons - first_neuron)) AS whole
    FROM prompt_means m LEFT JOIN layers l USING (layer_id) WHERE prompt_idx BETWEEN $low AND $high
    GROUP BY m.layer_id, prompt_idx, selection)
SELECT prompt_idx, selection, count(*) AS layers FROM expected e
FULL JOIN found f USING (layer_id, prompt_idx, selection)
WHERE if(coalesce(e.n, 0) > 0, (e.neurons + {MEANS_WIDTH - 1}) // {MEANS_WIDTH}, 0) - coalesce(f.there, 0)
      NOT BETWEEN 0 AND if(list_contains($experts::SMALLINT[], layer_id), e.neurons, 0)
   OR (f.there > 0 AND (f.least = e.n AND f.most = e.n AND f.places = f.there AND f.whole) IS NOT TRUE)
GROUP BY ALL ORDER BY ALL LIMIT {MEANS_TOLD}
"""

OUT_OF_RANGE = f"""
SELECT l.site, l.layer, count(*) AS wrong, min(s.neuron) AS neuron
FROM statistics s LEFT JOIN layers l USING (layer_id)
WHERE (s.neuron >= 0 AND s.neuron < l.neurons AND s.n >= 0
       AND s.fired <= s.n AND (s.fired >= 0 OR (s.fired = {UNKNOWN} AND l.fires = 'scale'))
       AND isfinite(s.mean) AND isfinite(s.m2) AND isfinite(s.m3) AND isfinite(s.m4) AND isfinite(s.sum_abs)
       AND s.m2 >= 0 AND s.m4 >= 0 AND s.n * s.m4 >= s.m2 * s.m2 * (1 - {TOLERANCE})
       AND abs(s.m3) <= sqrt(s.m2 * s.m4) * (1 + {TOLERANCE})
       AND (s.n = 0 OR (s.minimum <= s.maximum
            AND s.mean BETWEEN s.minimum - {TOLERANCE} * abs(s.minimum) AND s.maximum + {TOLERANCE} * abs(s.maximum)))
       AND s.sum_abs >= s.n * abs(s.mean) * (1 - {TOLERANCE})) IS NOT TRUE
GROUP BY ALL ORDER BY ALL
"""


def check_ranges(run: RunFile) -> list[str]:
    """Whether statistics and histograms are possible for any values at all."""
    rows = run.cursor().execute(OUT_OF_RANGE).fetchall()
    problems = [
        f"statistics: {site} layer {layer}: {wrong} rows are those of no values, the first is N{neuron}"
        for site, layer, wrong, neuron in rows
    ]
    for layer in run.layers if run.tokens else ():
        counts = run.histograms(layer.site, layer.layer)
        rest = run.histograms(layer.site, layer.layer, skip_first=True)
        statistics = run.statistics(layer.site, layer=layer.layer)
        lowest, highest = (counts > 0).argmax(axis=1), BINS - 1 - (counts > 0)[:, ::-1].argmax(axis=1)
        wrong = (
            (rest < 0).any(axis=1)
            | (counts < rest).any(axis=1)
            | ((statistics.n > 0) & (lowest != bin_of(statistics.minimum)))
            | ((statistics.n > 0) & (highest != bin_of(statistics.maximum)))
        )
        problems += _named(layer, "histograms", "histogram", wrong, "cannot be")
    return problems


def check_prompt_means(run: RunFile) -> list[str]:
    """Whether every layer has a mean for every prompt and selection with tokens, over the right number of them."""
    experts = [layer.layer_id for layer in run.layers if layer.experts]
    step = max(1, MEANS_AT_ONCE // (3 * max(1, len(run.layers))))
    cuts = [
        INT64.min,
        *range(step, run.prompts, step),
        INT64.max,
    ]  # rows of prompts that are not there belong to an end
    rows: list[tuple[int, str, int]] = []
    for low, high in pairwise(cuts):
        told = {"experts": experts, "low": low, "high": high - 1}
        for batch in run.streamed(MEANS, told, MEANS_TOLD):  # or DuckDB keeps all means in memory that it has read
            rows += zip(*(column.to_pylist() for column in batch.columns), strict=True)
        if len(rows) >= MEANS_TOLD:
            break
    return [
        f"prompt_means: prompt {prompt}, {selection}: not as its tokens say in {layers} layers"
        for prompt, selection, layers in rows[:MEANS_TOLD]
    ]


def means_step(run: RunFile) -> int:
    """n, where the prompt means of every nth neuron are recomputed."""
    most = max((layer.neurons for layer in run.layers), default=0)
    return max(1, -(-run.prompts * most * 16 // MEANS_BYTES))


@dataclass
class Counted:
    """What a layer's values give: statistics and histograms by (at position 0), sums over each prompt by selection."""

    statistics: dict[bool, NeuronStatistics]
    histograms: dict[bool, NDArray[np.int64]]  # [neurons, BINS]
    sums: dict[str, NDArray[np.float64]]  # [prompts, neurons // step]
    step: int
    there: NDArray[np.int64]  # [neurons]: how many values
    places: NDArray[np.uint64]  # [neurons]: see places_sum
    infinite: NDArray[np.int64]  # [neurons]
    digest: Digest
    routed: dict[str, NDArray[np.int32]] | None = None
    """Of a mixture of experts: over how many tokens the sums are, [prompts, experts that have neurons among them]."""

    @property
    def mean_abs(self) -> NDArray[np.float64]:
        """Of the neurons whose sums are held."""
        both = self.statistics[False].merge(self.statistics[True])
        return np.nan_to_num(both.mean_abs)[:: self.step]

    @classmethod
    def nothing(cls, run: RunFile, layer: Layer) -> Self:
        step, neurons = means_step(run), layer.neurons
        held = -(-neurons // step)
        return cls(
            {first: NeuronStatistics.empty(neurons, counts_firing=layer.fires != "scale") for first in (False, True)},
            {first: np.zeros((neurons, BINS), np.int64) for first in (False, True)},
            {selection: np.zeros((run.prompts, held)) for selection in ("all", "generated", "last")},
            step,
            np.zeros(neurons, np.int64),
            np.zeros(neurons, np.uint64),
            np.zeros(neurons, np.int64),
            Digest(),
        )


@dataclass(frozen=True)
class Places:
    """Where the run's tokens stand; [tokens] in every array, in order of their index."""

    prompt_idx: NDArray[np.int32]
    position: NDArray[np.int32]
    generated: NDArray[np.bool_]
    stops: NDArray[np.int64]  # [prompts]: where the tokens of each end

    @classmethod
    def of(cls, run: RunFile) -> Self:
        columns = run.cursor().execute(READ_PLACES).fetchnumpy()
        query = "SELECT first_token + tokens AS stop FROM prompts ORDER BY prompt_idx"
        stops = run.cursor().execute(query).fetchnumpy()["stop"]
        return cls(columns["prompt_idx"], columns["position"], columns["generated"], stops)


def places_sum(start: int, stop: int) -> np.uint64:
    """The sum of squares modulo 2^64 of the tokens start <= token_idx < stop. A duplicated token changes it."""
    with np.errstate(over="ignore"):
        return np.uint64((np.arange(start, stop, dtype=np.uint64) ** np.uint64(2)).sum(dtype=np.uint64))


def counted(run: RunFile, layer: Layer, places: Places, *, fired: bool) -> Counted:
    """Count a layer's values again, each read once. fired: with which of them fired, where the layer has a gate."""
    found = Counted.nothing(run, layer)
    if layer.experts:
        found.routed = _routed_tokens(run.routes(layer), places, _experts_held(layer, found.step))
    for rows in run.blocks(layer, fired=fired, routed=True):
        neuron, here = rows.neuron.astype(np.int64), rows.index
        rows_of = slice(neuron[0], neuron[0] + len(neuron)) if (np.diff(neuron) == 1).all() else neuron
        found.digest += values_digest(layer.layer_id, rows.neuron, rows.first, rows.values, rows.fired)
        np.add.at(found.there, neuron, rows.values.shape[1])
        np.add.at(found.places, neuron, places_sum(rows.tokens.start, rows.tokens.stop))
        values = np.ascontiguousarray(rows.values.T)
        gates = None if rows.fired is None else np.ascontiguousarray(rows.fired.T)
        at_start = places.position[here] == 0
        for first in (False, True):
            chosen = at_start == first
            if chosen.any():
                part, open_gates = (
                    (values, gates) if chosen.all() else (values[chosen], None if gates is None else gates[chosen])
                )
                counts = found.histograms[first][rows_of]  # a view of consecutive neurons
                told = _statistics(part, open_gates, layer.fires, counts)
                odd = ~(np.isfinite(told.minimum) & np.isfinite(told.maximum))
                found.infinite[neuron[odd]] += (~np.isfinite(part[:, odd])).sum(axis=0)
                _merge(found.statistics[first], rows_of, told)
                if not isinstance(rows_of, slice):
                    found.histograms[first][rows_of] = counts
        sampled = neuron % found.step == 0
        _add_sums(
            found.sums,
            neuron[sampled] // found.step,
            values if sampled.all() else values[:, sampled],
            places,
            here,
        )
    return found


def _statistics(
    values: NDArray[np.float32], fired: NDArray[np.bool_] | None, fires: str, counts: NDArray[np.int64]
) -> NeuronStatistics:
    """Of float32[tokens, neurons], which are counted into int64[neurons, BINS]."""
    if kernels.compiled():
        return NeuronStatistics.compiled(values, fired, counts, counts_firing=fires != "scale")
    bins = bin_of(values) + np.arange(len(counts)) * BINS
    counts += np.bincount(bins.ravel(), minlength=counts.size).reshape(counts.shape)
    low, high = values.min(axis=0), values.max(axis=0)
    varied = low != high
    mean = np.where(varied, values.mean(axis=0, dtype=np.float64), low)
    deviation = values - mean
    square = deviation * deviation
    on = values > 0 if fired is None else fired
    return NeuronStatistics(
        n=np.full(len(counts), len(values), np.int64),
        fired=np.full(len(counts), UNKNOWN) if fires == "scale" else on.sum(axis=0),
        mean=mean,
        m2=square.sum(axis=0) * varied,
        m3=(square * deviation).sum(axis=0) * varied,
        m4=(square * square).sum(axis=0) * varied,
        minimum=low,
        maximum=high,
        sum_abs=np.abs(values).sum(axis=0, dtype=np.float64),
    )


def layer_groups(run: RunFile) -> Iterator[list[Layer]]:
    """Consecutive layers of one width whose sums over prompts fit into MEANS_BYTES together, at least one."""
    group: list[Layer] = []
    held = 0
    for layer in run.layers:
        size = 3 * run.prompts * 8 * layer.neurons // means_step(run)
        if group and (held + size > MEANS_BYTES or layer.neurons != group[0].neurons):
            yield group
            group, held = [], 0
        group.append(layer)
        held += size
    yield group


def _merge(total: NeuronStatistics, neuron: NDArray[np.int64] | slice, part: NeuronStatistics) -> None:
    """Merge `part` into `total` in place. neuron: the index of each of its rows, none twice."""
    merged = total.take(neuron).merge(part)
    for field in fields(NeuronStatistics):
        getattr(total, field.name)[neuron] = getattr(merged, field.name)


def _add_sums(
    sums: dict[str, NDArray[np.float64]],
    place: NDArray[np.int64],
    values: NDArray[np.float32],
    places: Places,
    tokens: slice | NDArray[np.int64],
) -> None:
    """Add up each prompt's tokens in float32[tokens, neurons], without position 0."""
    prompt_idx, position, generated = (x[tokens] for x in (places.prompt_idx, places.position, places.generated))
    cuts = [*np.flatnonzero(np.diff(prompt_idx, prepend=-1)).tolist(), len(values)]
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        prompt, one = prompt_idx[start], slice(start, stop)
        for selection, chosen in (("all", position[one] > 0), ("generated", (position[one] > 0) & generated[one])):
            if chosen.any():
                sums[selection][prompt, place] += values[one][chosen].sum(axis=0, dtype=np.float64)
        after = tokens.start + stop if isinstance(tokens, slice) else int(tokens[stop - 1]) + 1
        if after == places.stops[prompt]:
            sums["last"][prompt, place] = values[stop - 1]


def _experts_held(layer: Layer, step: int) -> NDArray[np.int64]:
    """The experts of every nth neuron, ascending, so that counts of them take no more room than sums of the neurons."""
    return np.unique(np.arange(0, layer.neurons, step) // layer.width)


def _routed_tokens(routes: Routes, places: Places, experts: NDArray[np.int64]) -> dict[str, NDArray[np.int32]]:
    """How many tokens of each prompt, past position 0, were routed to each of `experts`, by selection; the arrays are
    [prompts, experts].
    """
    prompts = len(places.stops)
    found = {name: np.zeros((prompts, len(experts)), np.int32) for name in ("all", "generated", "last")}
    for column, expert in enumerate(experts.tolist()):
        tokens = routes.tokens[expert]
        past = tokens[places.position[tokens] > 0]
        last = past[past + 1 == places.stops[places.prompt_idx[past]]]
        for name, chosen in (("all", past), ("generated", past[places.generated[past]]), ("last", last)):
            found[name][:, column] = np.bincount(places.prompt_idx[chosen], minlength=prompts)
    return found


def stored_statistics(run: RunFile, layer: Layer) -> dict[bool, NeuronStatistics]:
    """A layer's statistics by (without the tokens at position 0)."""
    apart, none = run.statistics_apart(layer), NeuronStatistics.empty(layer.neurons)
    rest = none.merge(apart.get(False, none))
    return {True: rest, False: rest.merge(apart.get(True, none))}


def other_statistics(
    run: RunFile, layer: Layer, counted: Counted, told: Mapping[bool, NeuronStatistics]
) -> Iterator[str]:
    """Where the stored statistics and histograms are not those counted again."""
    rest = counted.statistics[False]
    for skip_first, found in ((True, rest), (False, rest.merge(counted.statistics[True]))):
        stored = told[skip_first]
        largest = np.maximum(np.abs(found.minimum), np.abs(found.maximum), dtype=np.float64)
        largest[found.n == 0] = 0
        floor = {power: ROUNDING * found.n * largest**power for power in (1, 2, 3, 4)}
        error = run.worst_error.get(layer.site, 0.0)
        allowed = {
            "n": 0.0,
            "fired": 0.0,
            "minimum": error,
            "maximum": error,
            "mean": TOLERANCE * np.nan_to_num(found.mean_abs) + error,
            "sum_abs": TOLERANCE * found.sum_abs + floor[1] + error * found.n,
        }
        if not run.rounds_values:  # what rounding does to the others, no single error says
            allowed |= {
                "m2": TOLERANCE * found.m2 + floor[2],
                "m3": TOLERANCE * np.sqrt(found.m2 * found.m4) + floor[3],
                "m4": TOLERANCE * found.m4 + floor[4],
            }
        where = " past position 0" if skip_first else ""
        for name, tolerance in allowed.items():
            held, expected = getattr(stored, name), getattr(found, name)
            with np.errstate(invalid="ignore"):
                same = (held == expected) | (np.abs(held - expected) <= tolerance)
            yield from _named(layer, "statistics", f"{name}{where}", ~same, "is not that of the values")
        histograms = counted.histograms[False] + (0 if skip_first else counted.histograms[True])
        stored_counts = run.histograms(layer.site, layer.layer, skip_first=skip_first)
        if run.rounds_values:  # a rounded value may be in the next bin
            histograms, stored_counts = histograms.sum(axis=1, keepdims=True), stored_counts.sum(axis=1, keepdims=True)
        wrong = (stored_counts != histograms).any(axis=1)
        yield from _named(layer, "histograms", f"histogram{where}", wrong, "is not that of the values")


def other_means(run: RunFile, found: Sequence[tuple[Layer, Counted]]) -> Iterator[str]:
    """Where the stored prompt means of consecutive layers of one width are not those counted again."""
    of_layer = {layer.layer_id: (layer, counted) for layer, counted in found}
    wrong = {
        (layer_id, selection): np.zeros(sums.shape[1], np.bool_)
        for layer_id, (_, counted) in of_layer.items()
        for selection, sums in counted.sums.items()
    }
    for first, batch in _means_by_place(run, {"low": min(of_layer), "high": max(of_layer)}):
        layer_ids, prompts, n = (numbers(batch.column(name)) for name in ("layer_id", "prompt_idx", "n"))
        values = blob_bytes(batch.column("values")).view(FLOAT32).reshape(len(prompts), -1)
        selections = np.asarray(batch.column("selection").to_pylist())
        for layer_id, selection in wrong:
            here = np.flatnonzero((layer_ids == layer_id) & (selections == selection))
            if not len(here):
                continue
            layer, counted = of_layer[layer_id]
            begin, end = -(-first // counted.step), -(-(first + values.shape[1]) // counted.step)
            stored = values[here, begin * counted.step - first :: counted.step]
            over = n[here][:, None]
            if counted.routed is not None:
                expert = np.arange(begin, end) * counted.step // layer.width
                column = np.searchsorted(_experts_held(layer, counted.step), expert)
                over = counted.routed[selection][prompts[here][:, None], column]
            expected = counted.sums[selection][prompts[here], begin:end] / np.maximum(over, 1)
            expected = np.where(over > 0, expected, np.nan) if counted.routed is not None else expected
            tolerance = TOLERANCE * np.maximum(counted.mean_abs[begin:end], np.abs(expected))
            tolerance += np.finfo(np.float32).tiny + run.worst_error.get(layer.site, 0.0)
            same = (np.abs(stored - expected) <= tolerance) | (np.isnan(expected) & np.isnan(stored))
            wrong[layer_id, selection][begin:end] |= ~same.all(axis=0)
    for (layer_id, selection), differs in wrong.items():
        what = f"mean over {selection}"
        layer, counted = of_layer[layer_id]
        every = np.zeros(layer.neurons, np.bool_)
        every[:: counted.step] = differs
        yield from _named(layer, "prompt_means", what, every, "is not that of the values")


def _means_by_place(run: RunFile, layers: dict[str, int]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Rows of prompt_means that begin at the same neuron, with that neuron."""
    for batch in run.streamed(READ_MEANS, layers, PIECE // (4 * MEANS_WIDTH)):
        first = numbers(batch.column("first_neuron"))
        for one in np.unique(first).tolist():
            yield one, batch.filter(pa.array(first == one))


def _named(layer: Layer, table: str, what: str, wrong: NDArray[np.bool_], how: str) -> list[str]:
    """At most one line, for the neurons of a layer that differ."""
    if not wrong.any():
        return []
    place = f"{layer.site} layer {layer.layer}"
    return [f"{table}: {place}: the {what} of {int(wrong.sum())} neurons {how}, the first is N{int(wrong.argmax())}"]

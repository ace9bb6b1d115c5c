"""The check of `verify` that recomputes statistics, histograms and prompt means from the values, layer by layer.

Each batch of rows gives statistics about its own mean, which merge as those of a capture do: the same sums in a
different order, so counts, extremes and histograms must be equal and moments agree up to rounding.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from nfinspect_store.digests import VALUES, Digest, read_digests, tells_firing, value_rows, values_digest
from nfinspect_store.histogram import BINS, bin_of
from nfinspect_store.reader import RunFile
from nfinspect_store.statistics import UNKNOWN, NeuronStatistics
from nfinspect_store.types import Layer, TokenRows

TOLERANCE = 1e-6
"""Relative, for moments: a capture adds the same values in a different order, both in float64."""

ROUNDING = 1e-12
"""For moments, as a share of n · max|a|^k for the kth moment: what is left where large values cancel."""

MEANS_BYTES = 64 * 2**20
"""About the bytes of sums over prompts held at a time; where all neurons do not fit, only every nth is recomputed."""

MEANS_ROWS = 256
"""Prompt means read at a time."""

READ_MEANS = """
SELECT prompt_idx, n, "values" FROM prompt_means WHERE layer_id = $layer AND selection = $selection
"""

MEANS = """
WITH expected AS (
    SELECT l.layer_id, p.prompt_idx, s.selection, l.neurons,
           CASE s.selection WHEN 'all' THEN p.tokens - 1 WHEN 'last' THEN 1
                            ELSE p.tokens - greatest(p.prompt_tokens, 1) END AS n
    FROM layers l, prompts p, (VALUES ('all'), ('last'), ('generated')) s(selection)
    WHERE p.tokens > 1),
found AS (
    SELECT layer_id, prompt_idx, selection, count(*) AS there, any_value(n) AS n, any_value(len("values")) AS neurons
    FROM prompt_means GROUP BY ALL)
SELECT prompt_idx, selection, count(*) AS layers FROM expected e
FULL JOIN found f USING (layer_id, prompt_idx, selection)
WHERE coalesce(f.there, 0) <> (coalesce(e.n, 0) > 0)::INTEGER
   OR (f.there > 0 AND (f.n IS DISTINCT FROM e.n OR f.neurons IS DISTINCT FROM e.neurons))
GROUP BY ALL ORDER BY ALL LIMIT 20
"""

OUT_OF_RANGE = f"""
SELECT l.site, l.layer, count(*) AS wrong, min(s.neuron) AS neuron
FROM statistics s LEFT JOIN layers l USING (layer_id)
WHERE (s.neuron >= 0 AND s.neuron < l.neurons AND s.n >= 0
       AND s.fired <= s.n AND (s.fired >= 0 OR (s.fired = {UNKNOWN} AND l.fires = 'scale'))
       AND isfinite(s.mean) AND isfinite(s.m2) AND isfinite(s.m3) AND isfinite(s.m4) AND isfinite(s.sum_abs)
       AND s.m2 >= 0 AND s.m4 >= 0 AND s.n * s.m4 >= s.m2 * s.m2 * (1 - {TOLERANCE})
       AND abs(s.m3) <= sqrt(s.m2 * s.m4) * (1 + {TOLERANCE})
       AND s.minimum <= s.maximum
       AND s.mean BETWEEN s.minimum - {TOLERANCE} * abs(s.minimum) AND s.maximum + {TOLERANCE} * abs(s.maximum)
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
            | (lowest != bin_of(statistics.minimum))
            | (highest != bin_of(statistics.maximum))
        )
        problems += _named(layer, "histograms", "histogram", wrong, "cannot be")
    return problems


def check_prompt_means(run: RunFile) -> list[str]:
    """Whether every layer has a mean for every prompt and selection with tokens, over the right number of them."""
    rows = run.cursor().execute(MEANS).fetchall()
    return [
        f"prompt_means: prompt {prompt}, {selection}: not as its tokens say in {layers} layers"
        for prompt, selection, layers in rows
    ]


def check_values(run: RunFile) -> list[str]:
    """Whether statistics, histograms and prompt means are those of the values. Skipped if no values were kept, or not
    which of them fired.
    """
    if not run.has_values or not run.tokens:
        return []
    if not tells_firing(run.cursor()):
        return []
    problems, digest = [], Digest()
    for layer in run.layers:
        counted = _counted(run, layer)
        digest += counted.digest
        problems += _differences(run, layer, counted)
        problems += _other_means(run, layer, counted)
    if digest != read_digests(run.cursor()).get(VALUES):
        problems.append("blocks: the values are not those that were written: their digest differs")
    return problems


def means_step(run: RunFile) -> int:
    """n, where the prompt means of every nth neuron are recomputed."""
    most = max((layer.neurons for layer in run.layers), default=0)
    return max(1, -(-run.prompts * most * 16 // MEANS_BYTES))


@dataclass
class _Counted:
    """What a layer's values give: statistics and histograms by (at position 0), sums over each prompt by selection."""

    statistics: dict[bool, NeuronStatistics]
    histograms: dict[bool, NDArray[np.int64]]  # [neurons, BINS]
    sums: dict[str, NDArray[np.float64]]  # [prompts, neurons // step]
    step: int
    digest: Digest


def _counted(run: RunFile, layer: Layer) -> _Counted:
    step, neurons = means_step(run), layer.neurons
    held = -(-neurons // step)
    found = _Counted(
        {first: NeuronStatistics.empty(neurons, counts_firing=layer.fires != "scale") for first in (False, True)},
        {first: np.zeros((neurons, BINS), np.int64) for first in (False, True)},
        {selection: np.zeros((run.prompts, held)) for selection in ("all", "generated", "last")},
        step,
        Digest(),
    )
    lengths = run.cursor().execute("SELECT tokens FROM prompts ORDER BY prompt_idx").fetchnumpy()["tokens"]
    for neuron, start, values, fired in value_rows(run, layer):
        found.digest += values_digest(layer.layer_id, neuron, start, values, fired)
        rows = run.tokens_between(start, start + values.shape[1])
        at_start = rows.position == 0
        for first in (False, True):
            here = at_start == first
            if here.any():
                part = np.ascontiguousarray(values[:, here])
                told = _statistics(part, None if fired is None else fired[:, here], layer.fires)
                _merge(found.statistics[first], neuron, told)
                found.histograms[first][neuron] += _histogram(part)
        sampled = neuron % step == 0
        _add_sums(found.sums, neuron[sampled] // step, values[sampled], rows, lengths)
    return found


def _statistics(values: NDArray[np.float32], fired: NDArray[np.bool_] | None, fires: str) -> NeuronStatistics:
    """Of float32[neurons, tokens]."""
    low, high = values.min(axis=1), values.max(axis=1)
    varied = low != high
    mean = np.where(varied, values.mean(axis=1, dtype=np.float64), low)
    deviation = values - mean[:, None]
    square = deviation * deviation
    on = values > 0 if fired is None else fired
    return NeuronStatistics(
        n=np.full(len(values), values.shape[1], np.int64),
        fired=np.full(len(values), UNKNOWN) if fires == "scale" else on.sum(axis=1),
        mean=mean,
        m2=square.sum(axis=1) * varied,
        m3=np.einsum("ij,ij->i", square, deviation) * varied,
        m4=np.einsum("ij,ij->i", square, square) * varied,
        minimum=low,
        maximum=high,
        sum_abs=np.abs(values).sum(axis=1, dtype=np.float64),
    )


def _merge(total: NeuronStatistics, neuron: NDArray[np.int32], part: NeuronStatistics) -> None:
    """Merge `part` into `total` in place. neuron: the index of each of its rows, none twice."""
    merged = total.take(neuron.astype(np.int64)).merge(part)
    for field in fields(NeuronStatistics):
        getattr(total, field.name)[neuron] = getattr(merged, field.name)


def _histogram(values: NDArray[np.float32]) -> NDArray[np.int64]:
    bins = bin_of(values) + np.arange(len(values))[:, None] * BINS
    return np.bincount(bins.ravel(), minlength=len(values) * BINS).reshape(-1, BINS)


def _add_sums(
    sums: dict[str, NDArray[np.float64]],
    place: NDArray[np.int64],
    values: NDArray[np.float32],
    rows: TokenRows,
    lengths: NDArray[np.int64],
) -> None:
    """Add up each prompt's tokens, without position 0. lengths: tokens of every prompt."""
    cuts = np.flatnonzero(np.diff(rows.prompt_idx, prepend=-1))
    prompts = rows.prompt_idx[cuts]
    counted = np.where(rows.position > 0, values, 0).astype(np.float64)
    sums["all"][np.ix_(prompts, place)] += np.add.reduceat(counted, cuts, axis=1).T
    if rows.generated.any():
        generated = np.where(rows.generated, counted, 0)
        sums["generated"][np.ix_(prompts, place)] += np.add.reduceat(generated, cuts, axis=1).T
    ends = np.append(cuts[1:], len(rows.position)) - 1
    last = rows.position[ends] == lengths[prompts] - 1
    sums["last"][np.ix_(prompts[last], place)] = values[:, ends[last]].T


def _differences(run: RunFile, layer: Layer, counted: _Counted) -> list[str]:
    problems = []
    rest = counted.statistics[False]
    for skip_first, found in ((True, rest), (False, rest.merge(counted.statistics[True]))):
        stored = run.statistics(layer.site, layer=layer.layer, skip_first=skip_first)
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
            told, expected = getattr(stored, name), getattr(found, name)
            with np.errstate(invalid="ignore"):
                same = (told == expected) | (np.abs(told - expected) <= tolerance)
            problems += _named(layer, "statistics", f"{name}{where}", ~same, "is not that of the values")
        histograms = counted.histograms[False] + (0 if skip_first else counted.histograms[True])
        stored_counts = run.histograms(layer.site, layer.layer, skip_first=skip_first)
        if run.rounds_values:  # a rounded value may be in the next bin
            histograms, stored_counts = histograms.sum(axis=1, keepdims=True), stored_counts.sum(axis=1, keepdims=True)
        wrong = (stored_counts != histograms).any(axis=1)
        problems += _named(layer, "histograms", f"histogram{where}", wrong, "is not that of the values")
    return problems


def _other_means(run: RunFile, layer: Layer, counted: _Counted) -> list[str]:
    problems = []
    mean_abs = np.nan_to_num(run.statistics(layer.site, layer=layer.layer).mean_abs)[:: counted.step]
    for selection, sums in counted.sums.items():
        wrong = np.zeros(sums.shape[1], np.bool_)
        query = {"layer": layer.layer_id, "selection": selection}
        for batch in run.streamed(READ_MEANS, query, MEANS_ROWS):
            prompts = batch.column("prompt_idx").to_numpy()
            stored = np.asarray(batch.column("values").flatten(), np.float32).reshape(len(prompts), -1)
            n = np.maximum(batch.column("n").to_numpy(), 1)[:, None]
            expected = sums[prompts] / n
            tolerance = TOLERANCE * np.maximum(mean_abs, np.abs(expected)) + np.finfo(np.float32).tiny
            tolerance += run.worst_error.get(layer.site, 0.0)
            wrong |= ~(np.abs(stored[:, :: counted.step] - expected) <= tolerance).all(axis=0)
        problems += _named(layer, "prompt_means", f"mean over {selection}", wrong, "is not that of the values")
    return problems


def _named(layer: Layer, table: str, what: str, wrong: NDArray[np.bool_], how: str) -> list[str]:
    """At most one line, for the neurons of a layer that differ."""
    if not wrong.any():
        return []
    place = f"{layer.site} layer {layer.layer}"
    return [f"{table}: {place}: the {what} of {int(wrong.sum())} neurons {how}, the first is N{int(wrong.argmax())}"]

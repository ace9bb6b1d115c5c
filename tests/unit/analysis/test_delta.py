"""Step sensitivity and von Neumann ratio: closed forms, methods §7 as plain loops, and neurons planted to change."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from analysis_runs import MakeRun, array_prompt, mlp_layers
from numpy.typing import NDArray

from nfinspect.analysis import steps
from nfinspect.analysis.delta import ORDERS, Delta, delta
from nfinspect.analysis.delta_rows import DeltaRow, DeltaRows
from nfinspect_store.errors import NfinspectError, RequestError
from nfinspect_store.types import Layer

Values = NDArray[np.float32]


def by_definition(column: Values, sizes: Sequence[int]) -> tuple[float | None, float | None]:
    """Methods §7 for one neuron on prompts of these sizes, one after the other."""
    prompts, start = [], 0
    for size in sizes:
        prompts.append([float(x) for x in column[start : start + size]][1:])
        start += size
    kept = [x for prompt in prompts for x in prompt]
    changes = [b - a for prompt in prompts for a, b in zip(prompt, prompt[1:], strict=False)]
    if len(kept) < 2 or not changes or min(kept) == max(kept):
        return None, None
    mean = math.fsum(kept) / len(kept)
    variance = math.fsum((x - mean) ** 2 for x in kept) / (len(kept) - 1)
    absolute = math.fsum(abs(x) for x in changes) / len(changes)
    square = math.fsum(x * x for x in changes) / len(changes)
    return absolute / math.sqrt(variance), square / variance


def rows_of(found: Delta) -> dict[tuple[int, int], DeltaRow]:
    return {(row.layer, row.neuron): row for row in found.neurons}


def alternating(tokens: int) -> NDArray[np.float64]:
    return np.where(np.arange(tokens) % 2, 1.0, -1.0)


# Closed forms


def test_a_neuron_that_alternates(make_run: MakeRun) -> None:
    """±1 in turn over n kept tokens, n even: every step is 2, and the sample variance is n / (n − 1)."""
    n = 300
    values = alternating(n + 1)
    values[0] = 1e6  # position 0 counts nowhere
    run = make_run(mlp_layers(1, 1), [array_prompt("a", n + 1)], {0: values[:, None].astype(np.float32)})
    found = delta(run)
    variance = n / (n - 1)
    assert found.pairs == n - 1
    assert found.neurons[0].step_sensitivity == pytest.approx(2 / math.sqrt(variance), rel=1e-12)
    assert found.neurons[0].von_neumann_ratio == pytest.approx(4 / variance, rel=1e-12)


def test_white_noise_has_ratio_two_and_a_slow_wave_none(make_run: MakeRun) -> None:
    """Of n white tokens the ratio's standard deviation is 2/√n; normal ones step by 2/√π on average. A wave of period P
    has the ratio 2(1 − cos 2π/P)."""
    n, neurons = 20_000, 40
    rng = np.random.default_rng(1)
    noise = rng.normal(3, 5, size=(n + 1, neurons))
    waves = [np.sin(2 * np.pi * np.arange(n + 1) / period) for period in (4, 100, 2000)]
    values = np.column_stack([noise, *waves]).astype(np.float32)
    run = make_run(mlp_layers(1, neurons + 3), [array_prompt("a", n + 1)], {0: values})
    rows = rows_of(delta(run))
    white = [rows[0, i] for i in range(neurons)]
    ratios = np.array([row.von_neumann_ratio for row in white])
    assert abs(ratios.mean() - 2) < 4 * 2 / math.sqrt(n * neurons)
    assert 0.6 < ratios.std() / (2 / math.sqrt(n)) < 1.5
    assert np.mean([row.step_sensitivity for row in white]) == pytest.approx(2 / math.sqrt(math.pi), abs=0.005)
    for i, period in enumerate((4, 100, 2000)):
        expected = 2 * (1 - math.cos(2 * math.pi / period))
        assert rows[0, neurons + i].von_neumann_ratio == pytest.approx(expected, rel=1e-3)
    assert not rows[0, neurons + 1].delta_sensitive


def test_what_never_varies_is_undefined_and_comes_last(make_run: MakeRun) -> None:
    values = np.random.default_rng(2).normal(size=(60, 4)).astype(np.float32)
    values[:, 1], values[:, 2] = 0, 0.3
    values[0, 2] = 9  # at position 0 alone it is another
    run = make_run(mlp_layers(1, 4), [array_prompt("a", 60)], {0: values})
    found = delta(run)
    assert [row.neuron for row in found.neurons][2:] == [1, 2]
    for row in found.neurons[2:]:
        assert (row.step_sensitivity, row.von_neumann_ratio, row.delta_sensitive) == (None, None, False)
    assert (found.layers[0].neurons, found.layers[0].constant) == (4, 2)


def test_prompts_too_short_for_a_step(make_run: MakeRun) -> None:
    """Of two tokens the first does not count: there is a variance, and no pair."""
    values = np.random.default_rng(3).normal(size=(20, 2)).astype(np.float32)
    found = delta(make_run(mlp_layers(1, 2), [array_prompt("a", 2)] * 10, {0: values}))
    assert found.pairs == 0 and {(r.step_sensitivity, r.von_neumann_ratio) for r in found.neurons} == {(None, None)}
    assert found.layers[0].median_step_sensitivity is None


# Which pairs count


def test_never_across_prompts(make_run: MakeRun) -> None:
    """Neurons that change between prompts alone, at position 0 alone, or only from position 0 to 1 never step."""
    prompts, size = 40, 5
    values = np.zeros((prompts, size, 3))
    values[:, :, 0] = np.random.default_rng(4).normal(size=(prompts, 1)) * 100
    values[:, :, 1] = np.arange(prompts)[:, None] % 2
    values[:, 0, 2] = 50
    values[:, 1:, 2] = np.linspace(-1, 1, prompts)[:, None]
    run = make_run(mlp_layers(1, 3), [array_prompt("a", size)] * prompts, {0: values.reshape(-1, 3).astype(np.float32)})
    found = delta(run)
    assert found.pairs == prompts * (size - 2)
    assert {(row.step_sensitivity, row.von_neumann_ratio) for row in found.neurons} == {(0.0, 0.0)}


@pytest.mark.parametrize("chunk", [1, 300_000, steps.CHUNK_BYTES])
def test_the_definition_neuron_by_neuron(chunk: int, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts of all lengths over several blocks, two layers of different widths; chunks of one block, some, all."""
    monkeypatch.setattr(steps, "CHUNK_BYTES", chunk)
    rng = np.random.default_rng(5)
    sizes = [1, 2, 3, 255, 1, 257, 40, 600, 1, *rng.integers(1, 60, 20).tolist()]
    tokens = sum(sizes)
    layers = [Layer(0, "mlp", 3, "h.3", 70, "relu", "positive"), Layer(1, "mlp", 8, "h.8", 5, "silu", "gate")]
    values = {i: rng.normal(size=(tokens, layer.neurons)).cumsum(axis=0) for i, layer in enumerate(layers)}
    values[0][:, ::2] = np.maximum(rng.normal(size=(tokens, 35)), 0)
    columns = {i: v.astype(np.float32) for i, v in values.items()}
    fired = {1: columns[1] > 0}
    told: list[tuple[int, int]] = []
    run = make_run(layers, [array_prompt("a", size) for size in sizes], columns, fired)
    found = delta(run, tick=lambda done, total: told.append((done, total)))
    assert told[-1] == (2 * -(-tokens // 256), told[0][1]) and told == sorted(told) and told[-1][0] == told[-1][1]
    rows = rows_of(found)
    assert len(rows) == 75
    for (layer, neuron), row in rows.items():
        expected = by_definition(columns[0 if layer == 3 else 1][:, neuron], sizes)
        assert (row.step_sensitivity, row.von_neumann_ratio) == pytest.approx(expected, rel=1e-9)
    only = delta(run, layers=[8])
    assert rows_of(only) == {address: row for address, row in rows.items() if address[0] == 8}
    assert delta(run) == found  # to the last digit


# Which neurons are delta-sensitive


def test_planted_neurons_are_found_exactly(make_run: MakeRun) -> None:
    """Among neurons that drift, that hardly ever fire, that are stuck or dead: those that flip with every token."""
    prompts, size, neurons = 30, 50, 64
    tokens = prompts * size
    planted = {(0, 3), (0, 41), (1, 0), (1, 17), (1, 63)}
    rng = np.random.default_rng(6)
    columns = {}
    for layer in range(2):
        drift = rng.normal(size=(tokens, neurons)) + np.repeat(rng.normal(size=(tokens // 5, neurons)) * 2, 5, axis=0)
        drift[:, 5], drift[:, 6] = 0, 3
        for rare in (10, 11, 12):  # one firing, apart from the edges of its prompt: the ratio of white noise and more
            drift[:, rare] = 0
            drift[rng.integers(prompts) * size + 20 + rare, rare] = 4
        for at, neuron in planted:
            if at == layer:
                flips = np.tile(alternating(size), prompts) * rng.uniform(0.5, 1.5, tokens)
                drift[:, neuron] = flips + rng.normal(size=tokens) * 0.3
        columns[layer] = drift.astype(np.float32)
    run = make_run(mlp_layers(2, neurons), [array_prompt("a", size)] * prompts, columns)
    found = delta(run)
    assert {(row.layer, row.neuron) for row in found.delta_sensitive} == planted
    assert [layer.delta_sensitive for layer in found.layers] == [2, 3]
    assert all(rows_of(found)[0, rare].von_neumann_ratio > 2 for rare in (10, 11, 12))  # type: ignore[operator]
    assert {(r.layer, r.neuron) for r in found.sorted_by("von_neumann_ratio").neurons[:5]} == planted
    assert delta(run, min_step=0).delta_sensitive != found.delta_sensitive
    assert delta(run, min_ratio=5).delta_sensitive == ()


def test_an_on_off_neuron_reaches_the_step_at_one_percent(make_run: MakeRun) -> None:
    """The reason of the threshold: on for a share p of independent tokens it steps by 2·√(p(1 − p))."""
    n = 100_000
    shares = np.array([0.001, 0.01, 0.1, 0.5])
    values = (np.random.default_rng(7).random((n + 1, 4)) < shares).astype(np.float32)
    rows = rows_of(delta(make_run(mlp_layers(1, 4), [array_prompt("a", n + 1)], {0: values})))
    for i, share in enumerate(shares):
        assert rows[0, i].step_sensitivity == pytest.approx(2 * math.sqrt(share * (1 - share)), rel=0.1)


# Order, JSON, refusals


def test_order_and_ties(make_run: MakeRun) -> None:
    values = np.random.default_rng(8).normal(size=(80, 6)).cumsum(axis=0).astype(np.float32)
    values[:, 4] = values[:, 1]
    run = make_run(mlp_layers(1, 6), [array_prompt("a", 80)], {0: values})
    for order in ("step_sensitivity", "von_neumann_ratio"):
        rows = delta(run, sort=order).neurons
        key = [(-getattr(row, order), row.layer, row.neuron) for row in rows]
        assert key == sorted(key) and len(set(key)) == 6
        assert delta(run).sorted_by(order).neurons == rows
    with pytest.raises(RequestError, match="expected finite numbers for min_ratio and min_step, found nan and 0.2"):
        delta(run, min_ratio=math.nan)
    with pytest.raises(RequestError, match="no order 'mean': choose step_sensitivity or von_neumann_ratio"):
        delta(run, sort="mean")


def test_json_and_back(make_run: MakeRun) -> None:
    values = np.random.default_rng(9).normal(size=(80, 3)).astype(np.float32)
    values[:, 2] = 1
    found = delta(make_run(mlp_layers(1, 3), [array_prompt("a", 80)], {0: values}))
    document = found.to_json()
    assert Delta.from_json(document) == found
    assert "mamba_delta" not in document and "substitution" not in document
    row = document["neurons"][0]  # type: ignore[index]
    assert {"site", "layer", "neuron", "step_sensitivity", "von_neumann_ratio"} <= set(row)


def test_statistics_alone_do_not_tell(make_run: MakeRun) -> None:
    values = np.random.default_rng(9).normal(size=(80, 3)).astype(np.float32)
    run = make_run(mlp_layers(1, 3), [array_prompt("a", 80)], {0: values}, keep="stats")
    with pytest.raises(NfinspectError, match="this run holds statistics only") as caught:
        delta(run)
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="no layer 7"):
        delta(run, layers=[7])


def test_columns_are_what_a_list_of_rows_would_be() -> None:
    """Ties, undefined measures of either kind, lags: as Python sorts, slices and writes them."""
    rng = np.random.default_rng(3)
    measures = rng.integers(0, 4, (2, 40)) / 4
    measures[0, [3, 7]], measures[1, [7, 9]] = np.nan, np.inf
    place = np.arange(40)
    rows = DeltaRows("mlp", place // 8, place % 8, *measures, measures[0] > 0.5)
    each = list(rows)
    assert each[7].step_sensitivity is None and each[9].von_neumann_ratio is None
    assert rows == each and rows[3] == each[3] and rows[-1] == each[-1] and rows[2:5] == each[2:5]
    for sort in ORDERS:

        def key(row: DeltaRow, sort: str = sort) -> tuple[float, int, int]:
            value: float | None = getattr(row, sort)
            return (np.inf if value is None else -value, row.layer, row.neuron)

        assert rows.in_order(sort) == sorted(each, key=key)
    assert rows.to_json() == [row.to_json() for row in each] and DeltaRows.from_json("mlp", rows.to_json()) == rows
    lagged = replace(rows, substitution_sensitivity=measures.T)
    assert lagged.to_json() == [row.to_json() for row in lagged] and lagged[7].substitution_sensitivity == (None, None)
    with pytest.raises(IndexError):
        rows[40]

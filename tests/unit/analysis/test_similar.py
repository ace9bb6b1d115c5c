"""Similar neurons: planted ones, beside numpy's own correlation of all values."""

from pathlib import Path

import numpy as np
import pytest
from analysis_runs import MakeRun, array_prompt, mlp_layers
from numpy.typing import NDArray

from nfinspect.analyses.similar import KEPT, SPEC, Similar, similar
from nfinspect.analysis.correlation import chance_of
from nfinspect.results import find_or_compute
from nfinspect.run import Run
from nfinspect_store.addresses import Address
from nfinspect_store.errors import RequestError, StoreError
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Layer

PROMPTS, TOKENS, WIDTH = 5, 150, 30
"""Tokens of a run are more than two blocks and no multiple of one."""


def planted(seed: int) -> dict[int, NDArray[np.float32]]:
    """L1/N4 is like L0/N3, L2/N9 its opposite, L2/N20 less like it; L1/N7 and L1/N8 copy each other; L2/N0 is still."""
    rng = np.random.default_rng(seed)
    values = {i: rng.normal(size=(PROMPTS * TOKENS, WIDTH)).astype(np.float32) for i in range(3)}
    noise = rng.normal(size=(3, PROMPTS * TOKENS)).astype(np.float32)
    values[1][:, 4] = 3 * values[0][:, 3] + 0.1 * noise[0] + 1000
    values[2][:, 9] = -values[0][:, 3] + 0.5 * noise[1]
    values[2][:, 20] = values[0][:, 3] + noise[2]
    values[1][:, 8] = values[1][:, 7] = values[0][:, 5] + noise[2]
    values[2][:, 0] = 7
    return values


def run_of(make_run: MakeRun, values: dict[int, NDArray[np.float32]], **options: object) -> RunFile:
    prompts = [array_prompt("a", TOKENS) for _ in range(PROMPTS)]
    return make_run(mlp_layers(3, WIDTH), prompts, values, **options)


@pytest.mark.parametrize("seed", range(3))
def test_planted_ones_come_first_with_numpys_correlation(make_run: MakeRun, seed: int) -> None:
    values = planted(seed)
    found = similar(run_of(make_run, values), "L0/N3")
    assert [(row.layer, row.neuron) for row in found.neurons[:3]] == [(1, 4), (2, 9), (2, 20)]
    assert found.neurons[1].correlation < 0
    wide = np.concatenate([values[i] for i in range(3)], axis=1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        expected = np.corrcoef(wide.T)[3]
    assert len(found.neurons) == 3 * WIDTH - 2  # all but itself and the still one
    for row in found.neurons:
        assert row.correlation == pytest.approx(expected[row.layer * WIDTH + row.neuron], abs=1e-11)
        assert row.n == found.n == PROMPTS * TOKENS
    assert [layer.constant for layer in found.layers] == [0, 0, 1]
    assert (found.of, found.site, found.weights) == ("mlp:L0/N3", "mlp", "")


def test_ties_are_in_order_of_layer_and_neuron(make_run: MakeRun) -> None:
    values = planted(1)
    values[2][:, 2] = -values[1][:, 7]  # as large, with the other sign
    found = similar(run_of(make_run, values), "L0/N5")
    assert [(row.layer, row.neuron) for row in found.neurons[:3]] == [(1, 7), (1, 8), (2, 2)]
    assert len({abs(row.correlation) for row in found.neurons[:3]}) == 1


def test_only_so_many_are_kept_and_of_the_layers_asked_for(make_run: MakeRun) -> None:
    rng = np.random.default_rng(0)
    values = {i: rng.normal(size=(40, KEPT)).astype(np.float32) for i in range(2)}
    run = make_run(mlp_layers(2, KEPT), [array_prompt("a", 40)], values)
    assert len(similar(run, "L1/N0").neurons) == KEPT
    of_layer = similar(run, "L1/N0", layers=[1])
    assert len(of_layer.neurons) == KEPT - 1 and {row.layer for row in of_layer.neurons} == {1}


def test_another_site_is_searched(make_run: MakeRun) -> None:
    rng = np.random.default_rng(2)
    values = {0: rng.normal(size=(60, 4)).astype(np.float32), 1: rng.normal(size=(60, 6)).astype(np.float32)}
    values[1][:, 5] = values[0][:, 2]
    layers = [Layer(0, "mlp", 0, "m", 4, "gelu", "positive"), Layer(1, "resid", 0, "h", 6, "", "scale")]
    run = make_run(layers, [array_prompt("a", 60)], values)
    found = similar(run, "L0/N2", "resid")
    assert (found.neurons[0].site, found.neurons[0].neuron, found.neurons[0].correlation) == ("resid", 5, 1.0)
    assert len(found.neurons) == 6
    assert similar(run, "resid:L0/N5").site == "resid"  # its own, if none is asked for


def test_a_value_far_from_0_costs_no_digits(make_run: MakeRun) -> None:
    values = planted(4)
    for i in range(3):
        values[i][:, 10:] += np.float32(4096)
    found = similar(run_of(make_run, values), "L0/N12")
    wide = np.concatenate([values[i] for i in range(3)], axis=1).astype(np.float64)
    with np.errstate(invalid="ignore"):
        expected = np.corrcoef(wide.T)[12]
    for row in found.neurons:
        assert row.correlation == pytest.approx(expected[row.layer * WIDTH + row.neuron], abs=1e-9)


def test_chance_is_what_independent_neurons_reach() -> None:
    rng = np.random.default_rng(3)
    assert chance_of(3, 10) is None and chance_of(10, 0) is None
    share = np.mean([np.abs(np.corrcoef(rng.normal(size=(60, 101)).T)[0, 1:]).max() > chance_of(60, 100)
                     for _ in range(400)])  # fmt: skip
    assert 0.02 < share < 0.09


def test_what_cannot_be_told_is_refused(make_run: MakeRun) -> None:
    values = planted(1)
    run = run_of(make_run, values)
    with pytest.raises(RequestError, match="mlp:L2/N0 is 7 on every token"):
        similar(run, "L2/N0")
    with pytest.raises(RequestError, match="no neuron 30"):
        similar(run, "L0/N30")
    with pytest.raises(RequestError, match="no layer 5"):
        similar(run, "L0/N0", layers=[5])
    with pytest.raises(StoreError, match="statistics only"):
        similar(run_of(make_run, values, keep="stats"), "L0/N3")
    with pytest.raises(RequestError, match="3 tokens or more"):
        similar(make_run(mlp_layers(1, 2), [array_prompt("a", 2)], {0: np.eye(2, dtype=np.float32)}), "L0/N0")


def test_a_result_is_kept_and_read_back(make_run: MakeRun) -> None:
    run = run_of(make_run, planted(1))
    kept, found = find_or_compute(SPEC, run, neuron="L0/N3")
    again, read = find_or_compute(SPEC, run, neuron="mlp:L0/N3")
    assert again.made_at == kept.made_at and read == found == Similar.from_json(found.to_json())
    assert find_or_compute(SPEC, run, neuron="L0/N4")[0].path != kept.path
    with pytest.raises(RequestError, match="similar to which neuron"):
        find_or_compute(SPEC, run)


def test_a_run_in_python(make_run: MakeRun, tmp_path: Path) -> None:
    path = run_of(make_run, planted(1)).path
    with Run.open(path) as run:
        by_name, by_address = run.similar("L0/N3"), run.similar(Address(0, 3), "mlp", [0, 1, 2])
        assert by_name == by_address == run.analyse("similar", neuron="L0/N3")
        assert by_name.neurons[0].neuron == 4


def test_memory_stays_flat(make_run: MakeRun) -> None:
    """Twice the tokens take no more than the neuron's own values: nothing as large as a layer's is held."""
    import tracemalloc

    def peak(prompts: int) -> int:
        rng = np.random.default_rng(0)
        values = {0: rng.normal(size=(prompts * 500, 200)).astype(np.float32)}
        run = make_run(mlp_layers(1, 200), [array_prompt("a", 500) for _ in range(prompts)], values)
        similar(run, "L0/N0")
        tracemalloc.start()
        similar(run, "L0/N0")
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    small, large = peak(20), peak(60)
    assert large - small < 40 * 500 * 200 * 4 / 2  # half of the values that came on top

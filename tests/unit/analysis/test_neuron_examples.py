"""Quantile examples: the values of numpy's own quantiles, ties by the seed, and the signs of gate and up."""

import numpy as np
import pytest
from analysis_runs import MakeRun, array_prompt, mlp_layers

from nfinspect.analysis.neuron import neuron_detail
from nfinspect.analysis.neuron_examples import QUANTILES, gate_and_up, quantile_examples
from nfinspect_store.errors import StoreError
from nfinspect_store.types import Layer


@pytest.mark.parametrize("fired", [1000, 37, 10])
def test_each_is_the_value_of_its_quantile(make_run: MakeRun, fired: int) -> None:
    rng = np.random.default_rng(fired)
    values = -np.abs(rng.normal(size=(1200, 2))).astype(np.float32)
    chosen = rng.permutation(1200)[:fired]
    values[chosen, 1] = rng.lognormal(size=fired).astype(np.float32)
    run = make_run(mlp_layers(1, 2), [array_prompt("a", 300) for _ in range(4)], {0: values})
    found = quantile_examples(run, "L0/N1")
    expected = np.quantile(values[chosen, 1], QUANTILES, method="inverted_cdf")
    assert found.fired == fired and found.quantiles == QUANTILES
    assert [e.value for e in found.examples] == expected.tolist()
    assert all(values[e.token_idx, 1] == np.float32(e.value) for e in found.examples)
    assert all(e.window[e.at].token_idx == e.token_idx and e.window[e.at].value == e.value for e in found.examples)


def test_few_are_each_shown_once_and_none_of_one_that_never_fires(make_run: MakeRun) -> None:
    values = np.zeros((50, 2), np.float32)
    values[[3, 9, 11], 0] = 1, 5, 2
    run = make_run(mlp_layers(1, 2, "relu"), [array_prompt("a", 50)], {0: values})
    found = quantile_examples(run, "L0/N0")
    assert [e.token_idx for e in found.examples] == [9, 11, 3] and len(found.quantiles) == 3
    none = quantile_examples(run, "L0/N1")
    assert (none.examples, none.quantiles, none.fired) == ((), (), 0)


def test_tokens_of_one_value_are_chosen_by_the_seed_not_the_first(make_run: MakeRun) -> None:
    values = np.ones((2000, 1), np.float32)
    run = make_run(mlp_layers(1, 1, "relu"), [array_prompt("a", 500) for _ in range(4)], {0: values})
    tokens = [e.token_idx for e in quantile_examples(run, "L0/N0").examples]
    assert len(set(tokens)) == len(QUANTILES) and max(tokens) > 1000
    assert tokens != sorted(tokens) and tokens != sorted(tokens, reverse=True)
    assert tokens == [e.token_idx for e in quantile_examples(run, "L0/N0").examples]


def test_a_run_of_statistics_has_none(make_run: MakeRun) -> None:
    values = {0: np.ones((50, 1), np.float32)}
    run = make_run(mlp_layers(1, 1, "relu"), [array_prompt("a", 50)], values, keep="stats")
    with pytest.raises(StoreError, match="statistics only"):
        quantile_examples(run, "L0/N0")


def test_signs_are_those_of_gate_and_up(make_run: MakeRun) -> None:
    """a = silu(g) · u: the stored value and the flag of the gate give the signs of both."""
    rng = np.random.default_rng(5)
    g, u = rng.normal(size=(2, 400, 3))
    values = (g / (1 + np.exp(-g)) * u).astype(np.float32)
    layer = Layer(0, "mlp", 0, "h.0.mlp", 3, "silu", "gate")
    prompts = [array_prompt("a", 100) for _ in range(4)]
    run = make_run([layer], prompts, {0: values}, fired={0: g > 0})
    detail = neuron_detail(run, "L0/N2")
    every = (*detail.top_examples, *detail.min_examples, *detail.random_examples)
    found = quantile_examples(run, "L0/N2")
    for gates, examples in ((detail.gates, every), (found.gates, found.examples)):
        assert examples
        for e in examples:
            told = gate_and_up(layer, gates[e.token_idx], e.value)
            assert told == "-+"[int(g[e.token_idx, 2] > 0)] + "-+"[int(u[e.token_idx, 2] > 0)]
    assert all(value for value in found.gates.values()), "it fires where the gate is above 0"
    assert gate_and_up(layer, None, 1.0) == ""
    for other in (Layer(0, "mlp", 0, "", 3, "relu", "gate"), Layer(0, "mixer", 0, "", 3, "silu", "gate")):
        assert gate_and_up(other, True, 1.0) == "+"


def test_a_plain_mlp_has_no_gate(make_run: MakeRun) -> None:
    values = {0: np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)}
    run = make_run(mlp_layers(1, 2), [array_prompt("a", 50)], values)
    assert neuron_detail(run, "L0/N0").gates == quantile_examples(run, "L0/N0").gates == {}

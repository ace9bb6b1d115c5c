"""Sets of neurons on a text: what they cost, against weights cut by hand, and the random sets beside them."""

import json

import numpy as np
import pytest
import torch
from families import FAMILIES, VOCAB
from words import word_tokenizer

import nfinspect as nf
from nfinspect.analysis.neuron_sets import NeuronSet
from nfinspect.experiments.ablation_table import ablate
from nfinspect.experiments.addresses import resolve_addresses
from nfinspect.experiments.bootstrap import bootstrap_interval
from nfinspect.experiments.controls import compare_with_controls, control_sets, crowded_layer
from nfinspect.experiments.documents import Corpus, tokenised
from nfinspect.experiments.perplexity import Scorer, mean_nll
from nfinspect.models import LoadedModel, Texts, in_memory
from nfinspect_store.addresses import Address
from nfinspect_store.errors import RequestError


def loaded(family: str = "gpt2") -> LoadedModel:
    return in_memory(FAMILIES[family](), word_tokenizer())


def corpus(blocks: int = 6, words: int = 10) -> Corpus:
    rng = np.random.default_rng(3)
    text = "\n\n".join(" ".join(f"w{i}" for i in rng.integers(3, VOCAB, words)) for _ in range(blocks))
    return tokenised(text, "words", Texts(word_tokenizer()))


def some(name: str, *addresses: tuple[int, int]) -> NeuronSet:
    return NeuronSet.of(name, [Address(layer, neuron) for layer, neuron in addresses])


SET = some("some", (0, 1), (0, 5), (2, 7))


@pytest.mark.parametrize("family", ["gpt2", "mamba"])
def test_a_set_costs_what_the_model_without_its_columns_costs(family: str) -> None:
    model, text = loaded(family), corpus()
    found = ablate(model, text, [SET], controls=0, context=16)
    before = Scorer(model, text.token_ids, 16, 8).nll()
    with torch.no_grad():
        for site, neurons in resolve_addresses(model, SET.addresses).items():
            weight = model.model.get_submodule(site.module).weight
            (weight if family == "gpt2" else weight.T)[list(neurons)] = 0
    after = Scorer(model, text.token_ids, 16, 8).nll()
    (one,) = found.sets
    assert (one.name, one.neurons, one.mode) == ("some", 3, "zero")
    assert found.tokens == len(after) == 59
    assert found.baseline_nll == mean_nll(before)
    assert one.nll == pytest.approx(mean_nll(after), abs=1e-6)
    assert one.delta_nll == pytest.approx(mean_nll(after) - mean_nll(before), abs=1e-6)
    assert one.perplexity == pytest.approx(np.exp(one.nll))
    assert abs(one.delta_nll) > 1e-5
    assert one.control.count == 0 and one.control.p_value is None


def test_neurons_without_output_weights_cost_nothing_at_all() -> None:
    model = loaded()
    for site, neurons in resolve_addresses(model, SET.addresses).items():
        with torch.no_grad():
            model.model.get_submodule(site.module).weight[list(neurons)] = 0
    (one,) = ablate(model, corpus(), [SET], controls=20, context=16).sets
    assert one.delta_nll == 0.0 and one.ci95 == (0.0, 0.0)
    assert one.control.count == 20 and one.control.sd is not None


def test_without_a_set_it_is_the_perplexity_of_the_text() -> None:
    model, text = loaded(), corpus()
    found = ablate(model, text, [], context=16)
    assert found.sets == () and found.notes == ()
    assert found.baseline_nll == mean_nll(Scorer(model, text.token_ids, 16, 8).nll())


def test_mean_ablation_takes_the_means_of_the_run(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, text = loaded(), corpus()
    run = nf.capture(model.model, model.tokenizer, ["w5 w6 w7 w8", "w9 w10"], store=tmp_path, run="reference")
    (found,) = ablate(model, text, [SET], mode="mean", run=run, controls=0, context=16).sets
    with torch.no_grad():
        for site, neurons in resolve_addresses(model, SET.addresses).items():
            projection, index = model.model.get_submodule(site.module), list(neurons)
            means = run.activations("mlp", site.layer).mean(axis=0)[index]
            projection.bias += torch.as_tensor(means) @ projection.weight[index]
            projection.weight[index] = 0
    assert found.nll == pytest.approx(mean_nll(Scorer(model, text.token_ids, 16, 8).nll()), abs=1e-6)
    assert found.mode == "mean"


def test_mean_ablation_needs_a_run_of_this_model(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = loaded()
    with pytest.raises(RequestError, match="--mode mean needs --from RUN"):
        ablate(model, corpus(), [SET], mode="mean")
    other = in_memory(FAMILIES["opt"](), word_tokenizer())
    run = nf.capture(other.model, other.tokenizer, ["w5 w6"], store=tmp_path, run="other")
    with pytest.raises(RequestError, match="24 neurons at mlp.*another model"):
        ablate(model, corpus(), [SET], mode="mean", run=run)
    part = nf.capture(model.model, model.tokenizer, ["w5 w6"], store=tmp_path, run="part", layers=[0])
    with pytest.raises(RequestError, match="no layer 2"):
        ablate(model, corpus(), [SET], mode="mean", run=part)


def test_controls_are_of_the_same_size_per_layer_and_outside_the_set() -> None:
    places = resolve_addresses(loaded(), SET.addresses)
    drawn = control_sets(places, 200, seed=1)
    for control in drawn:
        assert {site.layer: len(neurons) for site, neurons in control.items()} == {0: 2, 2: 1}
        for site, neurons in control.items():
            assert len(set(neurons.tolist())) == len(neurons)
            assert not set(neurons.tolist()) & set(places[site])
            assert neurons.min() >= 0 and neurons.max() < site.neurons
    (site,) = (site for site in places if site.layer == 2)
    assert len({int(control[site][0]) for control in drawn}) > 50  # of the 63 others
    assert _lists(drawn) == _lists(control_sets(places, 200, seed=1))
    assert _lists(drawn) != _lists(control_sets(places, 200, seed=2))


def _lists(drawn: list[dict[object, np.ndarray]]) -> list[list[list[int]]]:  # type: ignore[type-arg]
    return [[neurons.tolist() for neurons in control.values()] for control in drawn]


def test_a_set_that_leaves_too_few_neurons_has_no_controls_and_says_so() -> None:
    most = NeuronSet.of("most", [Address(1, i) for i in range(40)])
    half = NeuronSet.of("half", [Address(1, i) for i in range(32)])
    assert crowded_layer(resolve_addresses(loaded(), half.addresses)) is None
    found = ablate(loaded(), corpus(), [most, SET], controls=20, context=16)
    first, second = found.sets
    assert (first.control.count, first.control.z, first.control.p_value) == (0, None, None)
    assert second.control.count == 20
    assert found.notes == (
        "most has no controls: it holds 40 of the 64 neurons of layer 1, and fewer are left than it takes",
        "the intervals are drawn from 6 documents, and are too narrow with fewer than 10",
    )


def test_p_and_z_by_hand() -> None:
    found = compare_with_controls(3.0, [1.0, 2.0, 3.0, 4.0])
    assert found.p_value == 3 / 5
    assert found.mean_delta_nll == 2.5
    assert found.sd == pytest.approx(np.std([1, 2, 3, 4], ddof=1))
    assert found.z == pytest.approx(0.5 / np.std([1, 2, 3, 4], ddof=1))
    assert compare_with_controls(9.0, [1.0] * 20).p_value == 1 / 21
    alike = compare_with_controls(1.0, [1.0] * 20)
    assert (alike.sd, alike.z, alike.p_value) == (0.0, None, 1.0)
    none = compare_with_controls(1.0, [])
    assert (none.count, none.mean_delta_nll, none.sd, none.z, none.p_value) == (0, None, None, None, None)


def test_the_bootstrap_draws_documents_and_is_repeated_by_its_seed() -> None:
    rng = np.random.default_rng(0)
    unit = np.repeat(np.arange(200), 30)
    values = rng.normal(size=200)[unit] + 1.0  # all that varies is the document
    low, high = bootstrap_interval(values, unit, seed=4)
    assert (low, high) == bootstrap_interval(values, unit, seed=4) != bootstrap_interval(values, unit, seed=5)
    assert low is not None and high is not None and low < values.mean() < high
    error = np.std(values[::30], ddof=1) / np.sqrt(200)  # of a mean of 200 documents, not of 6,000 tokens
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)
    assert bootstrap_interval(values, np.zeros(len(values), np.int64), seed=4) == (None, None)
    assert bootstrap_interval(np.ones(6), np.array([0, 0, 1, 2, 2, 2]), seed=4) == (1.0, 1.0)


def test_windows_are_drawn_where_there_is_one_document() -> None:
    several = ablate(loaded(), corpus(blocks=6), [SET], controls=0, context=16)
    assert (several.resampled, several.units) == ("documents", 6)
    one = ablate(loaded(), corpus(blocks=1, words=40), [SET], controls=0, context=16)
    assert (one.resampled, one.units) == ("windows", 4)
    alone = ablate(loaded(), corpus(blocks=1, words=10), [SET], controls=0, context=16)
    assert alone.units == 1 and alone.sets[0].ci95 == (None, None)


def test_several_sets_share_a_table_and_a_set_has_the_same_line_in_any() -> None:
    other = some("other", (1, 1))
    both = ablate(loaded(), corpus(), [other, SET], context=16, seed=3)
    alone = ablate(loaded(), corpus(), [SET], context=16, seed=3)
    assert both.sets[1] == alone.sets[0]
    ticks: list[tuple[int, int]] = []
    ablate(loaded(), corpus(), [other, SET], context=16, seed=3, tick=lambda done, total: ticks.append((done, total)))
    passes = len(ticks) // 43  # the whole model, and each set with its 20 controls
    assert ticks == [(i + 1, 43 * passes) for i in range(43 * passes)]


def test_work_that_is_cancelled_leaves_the_model_whole() -> None:
    model = loaded()

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ablate(model, corpus(), [SET], context=16, tick=stop)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.model.modules())


def test_wrong_requests() -> None:
    model = loaded()
    with pytest.raises(RequestError, match="--controls of 20 or more"):
        ablate(model, corpus(), [SET], controls=19)
    with pytest.raises(RequestError, match="two sets are called 'some'"):
        ablate(model, corpus(), [SET, SET])
    with pytest.raises(RequestError, match="neurons 0-63"):
        ablate(model, corpus(), [some("wrong", (0, 64))])
    with pytest.raises(RequestError, match="'none' is empty"):
        NeuronSet.of("none", [])


def test_json_has_the_fields_of_the_contract() -> None:
    document = json.loads(json.dumps(ablate(loaded(), corpus(), [SET], context=16).to_json(), allow_nan=False))
    assert set(document) >= {"tokens", "baseline", "sets", "context", "stride"}
    assert set(document["baseline"]) == {"nll", "perplexity"}
    assert set(document["sets"][0]) == {
        "name", "neurons", "mode", "nll", "perplexity", "delta_nll", "ci95", "control",
    }  # fmt: skip
    assert set(document["sets"][0]["control"]) >= {"count", "mean_delta_nll", "sd", "z", "p_value"}
    assert len(document["sets"][0]["ci95"]) == 2
    assert len(document["sets"][0]["control"]["delta_nlls"]) == 20

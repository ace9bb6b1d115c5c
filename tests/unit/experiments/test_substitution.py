"""Substituted tokens: nothing before them moves, a neuron of the token alone moves there alone, and brute force."""

from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, phi3
from numpy.typing import NDArray
from rounding import allowed_of
from test_padding import NAMES, plain
from transformers import PreTrainedModel
from words import word_tokenizer

import nfinspect as nf
from nfinspect.analysis.delta import delta
from nfinspect.analysis.substitution import Substitution
from nfinspect.experiments import substitution
from nfinspect.experiments.substitution import draw_pairs, substitution_sensitivity
from nfinspect.models import LoadedModel, in_memory
from nfinspect.run import Run
from nfinspect_store.errors import RequestError

RNG = np.random.default_rng(12)
PROMPTS = [" ".join(f"w{i}" for i in RNG.integers(3, 30, size)) for size in (*RNG.integers(2, 20, 14).tolist(), 1)]


def captured(model: PreTrainedModel, store: Path, **options: object) -> tuple[Run, LoadedModel]:
    run = nf.capture(model, word_tokenizer(), PROMPTS, store=store, run="r", **options)
    return run, in_memory(model, word_tokenizer())


def rounding_of(run: Run, std: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each neuron may move between two passes that read the same, in its own std: float64[neurons]."""
    layers = run.site_layers(run.default_site)
    sizes = [allowed_of(float(np.abs(run.activations(x.site, x.layer)).max()), x.layer + 1) for x in layers]
    return np.repeat(sizes, [layer.neurons for layer in layers]) / np.where(std > 0, std, 1)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "mamba", "mamba2"])
def test_brute_force(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pair by pair, two unpadded passes each, the std from the stored values; batches of a few pairs."""
    monkeypatch.setattr(substitution, "BATCH_TOKENS", 100)
    model, lags, draws = FAMILIES[family](), (-2, -1, 0, 1, 4), 40
    run, loaded = captured(model, tmp_path)
    found = substitution_sensitivity(run, loaded, draws=draws, seed=5, lags=lags)
    site = run.default_site
    sums, samples = np.zeros((len(found.layer), len(lags))), np.zeros(len(lags), int)
    for pair in draw_pairs(run, draws, 5, 100):  # 100: the sequences to their ends
        whole, other = (plain(model, NAMES[family], list(ids))[0] for ids in pair.sequences())
        for k, lag in enumerate(lags):
            at = pair.position + lag
            if 1 <= at < len(pair.token_ids):
                samples[k] += 1
                steps = [(other[site, layer][at] - whole[site, layer][at]).abs() for layer in range(3)]
                sums[:, k] += torch.cat(steps).detach().double().numpy()
    first = run.sql("SELECT position = 0 FROM tokens ORDER BY token_idx").fetchnumpy()
    kept = ~np.asarray(next(iter(first.values())), bool)
    std = np.concatenate([run.activations(site, layer)[kept].std(0, ddof=1, dtype=np.float64) for layer in range(3)])
    varied = std > 0
    assert found.samples == tuple(samples.tolist()) and found.lags == lags
    assert np.isnan(found.sensitivity[~varied]).all() and varied.sum() > 0.8 * len(varied)
    moved, rounding = found.sensitivity[varied], rounding_of(run, std)[varied, None]
    assert (np.abs(moved - sums[varied] / samples / std[varied, None]) <= 2 * rounding).all()
    # No model here looks ahead: what stands before the substituted token does not move.
    assert (moved[:, :2] <= rounding).all() and np.median(rounding) < 5e-4
    assert (moved[:, 2:].mean(0) > 0.01).all()


def test_a_neuron_of_the_token_alone_moves_there_alone(tmp_path: Path) -> None:
    """Without attention and positions a neuron is a function a(x) of its token: at lag 0 it moves by the mean
    |a(x') − a(x)| over independent draws from the unigram, and later not at all."""
    model = FAMILIES["gpt2"]()
    with torch.no_grad():
        model.transformer.wpe.weight.zero_()
        for block in model.transformer.h:
            block.attn.c_proj.weight.zero_()
            block.attn.c_proj.bias.zero_()
    run, loaded = captured(model, tmp_path)
    found = substitution_sensitivity(run, loaded, draws=6000, seed=1)
    assert found.lags == (0, 1, 2, 4, 8) and found.samples[0] == 6000 and min(found.samples) > 500
    kept = np.asarray(run.sql("SELECT token_idx FROM tokens WHERE position > 0").fetchnumpy()["token_idx"])
    values = np.concatenate([run.activations("mlp", layer)[kept].T for layer in range(3)]).astype(np.float64)
    std = values.std(1, ddof=1)
    assert (found.sensitivity[:, 1:] <= rounding_of(run, std)[:, None]).all()
    expected = np.abs(values[:, :, None] - values[:, None, :]).mean(axis=(1, 2)) / std
    np.testing.assert_allclose(found.sensitivity[:, 0], expected, rtol=0.06)
    assert 0.02 < found.unchanged / 6000 < 0.07  # about 1/27, as the tokens are w3 to w29


def test_the_draws(tmp_path: Path) -> None:
    """Tokens past position 0, each alike, and substitutes from the same: the same for the same seed."""
    run, _ = captured(FAMILIES["gpt2"](), tmp_path)
    pairs = draw_pairs(run, 20_000, 3, 8)
    sequences = [run.prompt_tokens(i).token_id.tolist() for i in range(run.prompts)]
    later = [token for ids in sequences for token in ids[1:]]
    assert pairs == draw_pairs(run, 20_000, 3, 8) and pairs != draw_pairs(run, 20_000, 4, 8)
    assert [len(pair.token_ids) for pair in pairs] == sorted(len(pair.token_ids) for pair in pairs)
    for pair in pairs[::97]:
        whole = next(ids for ids in sequences if tuple(ids[: len(pair.token_ids)]) == pair.token_ids)
        assert 1 <= pair.position < len(pair.token_ids)
        assert len(pair.token_ids) == min(len(whole), pair.position + 9)
        same, other = pair.sequences()
        assert same == pair.token_ids and other[pair.position] == pair.substitute
        assert [i for i in range(len(same)) if same[i] != other[i]] in ([], [pair.position])
    for drawn in ([p.substitute for p in pairs], [p.token_ids[p.position] for p in pairs]):
        counts = np.bincount(drawn, minlength=101) / 20_000
        expected = np.bincount(later, minlength=101) / len(later)
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected.max() / 20_000)


def test_the_same_seed_gives_the_same_to_the_last_digit(tmp_path: Path) -> None:
    run, loaded = captured(FAMILIES["mamba"](), tmp_path)
    told: list[tuple[int, int]] = []
    first = substitution_sensitivity(run, loaded, draws=30, seed=9, tick=lambda *said: told.append(said))
    again = substitution_sensitivity(run, loaded, draws=30, seed=9)
    other = substitution_sensitivity(run, loaded, draws=30, seed=8)
    np.testing.assert_array_equal(first.sensitivity, again.sensitivity)
    assert (first.sensitivity != other.sensitivity).any() and told[-1] == (30, 30)


def test_undefined_where_a_neuron_never_varied_or_no_sequence_reaches(tmp_path: Path) -> None:
    model = FAMILIES["opt"]()
    with torch.no_grad():
        model.model.decoder.layers[1].fc1.bias[4] = -1e4  # dead
    run, loaded = captured(model, tmp_path, keep="stats")  # statistics are enough
    found = substitution_sensitivity(run, loaded, layers=[1], draws=10, lags=(0, 40))
    assert found.samples == (10, 0) and np.isnan(found.sensitivity[:, 1]).all()
    still = run.statistics(layer=1, skip_first=True).std == 0
    assert still[4] and not still.all()
    np.testing.assert_array_equal(np.isnan(found.sensitivity[:, 0]), still)
    assert set(found.layer) == {1}


def test_it_goes_with_the_rows_of_delta(tmp_path: Path) -> None:
    run, loaded = captured(FAMILIES["gpt2"](), tmp_path)
    found = substitution_sensitivity(run, loaded, layers=[0, 2], draws=12)
    again = Substitution.from_parts(found.summary(), found.table())
    np.testing.assert_array_equal(again.sensitivity, found.sensitivity)
    rows = delta(run, layers=[0, 2]).with_substitution(again).neurons
    assert len(rows) == 128
    for row in rows:
        place = np.flatnonzero((found.layer == row.layer) & (found.neuron == row.neuron))
        assert row.substitution_sensitivity == tuple(found.sensitivity[place[0]])
    assert rows[0].to_json()["substitution_sensitivity"] == rows[0].substitution_sensitivity


def test_a_model_that_chooses_its_rotary_angles_by_the_length(tmp_path: Path) -> None:
    """Beyond the limit sequences stay whole and go with others of their own length only."""
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1], "long_factor": [2.0, 3.0]}
    model = phi3(rope_parameters={**rope, "original_max_position_embeddings": 8})
    run, loaded = captured(model, tmp_path)
    pairs = draw_pairs(run, 30, 2, 0, limit=8)
    lengths = [len(run.prompt_tokens(i).token_id) for i in range(run.prompts)]
    assert {len(p.token_ids) for p in pairs if len(p.token_ids) > 8} <= set(lengths)
    assert any(len(p.token_ids) <= 8 for p in pairs) and any(len(p.token_ids) > 8 for p in pairs)
    found = substitution_sensitivity(run, loaded, draws=30, seed=2, lags=(0,))
    sums = np.zeros(len(found.layer))
    for pair in pairs:
        whole, other = (plain(model, NAMES["phi3"], list(ids))[0] for ids in pair.sequences())
        steps = [(other["mlp", i][pair.position] - whole["mlp", i][pair.position]).abs() for i in range(3)]
        sums += torch.cat(steps).detach().double().numpy()
    std = run.statistics(skip_first=True).std
    assert (np.abs(found.sensitivity[:, 0] - sums / 30 / std) <= 2 * rounding_of(run, std)).all()


def test_refusals(tmp_path: Path) -> None:
    run, loaded = captured(FAMILIES["gpt2"](), tmp_path)
    with pytest.raises(RequestError, match="captured from another model"):
        substitution_sensitivity(run, in_memory(FAMILIES["opt"](), word_tokenizer()))
    short = nf.capture(loaded.model, word_tokenizer(), ["w5", "w6"], store=tmp_path, run="short")
    with pytest.raises(RequestError, match="prompts of two tokens or more"):
        substitution_sensitivity(short, loaded)

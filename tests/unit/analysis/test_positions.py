"""Positional neurons (methods §6)."""

import json
import math
from itertools import pairwise

import numpy as np
import pytest
from analysis_runs import MakeRun, array_prompt, mlp_layers
from numpy.typing import NDArray

from nfinspect.analyses.positions import PositionAnalysis, positions
from nfinspect.analysis import firing
from nfinspect.analysis.profiles import lasts, mutual_information, profile_strengths, profile_types, windows
from nfinspect_store.errors import RequestError, StoreError
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Layer

S, T = 120, 160
SEEDS = range(3)


def entropy(share: float) -> float:
    return -sum(p * math.log(p) for p in (share, 1 - share) if p)


def run_of(make_run: MakeRun, fired: NDArray[np.bool_], lengths: list[int] | None = None) -> RunFile:
    """One layer. fired: bool[tokens, neurons]."""
    prompts = [array_prompt("a", length) for length in lengths or [T] * (len(fired) // T)]
    return make_run(mlp_layers(1, fired.shape[1], "relu"), prompts, {0: fired.astype(np.float32)})


@pytest.mark.parametrize("k", [1, 8, 40, 80, 159])
def test_on_for_k_of_t_positions(make_run: MakeRun, k: int) -> None:
    fired = np.tile(np.arange(T) < k, S)[:, None]
    found = positions(run_of(make_run, fired))
    expected = entropy(k / T) - 1 / (2 * S)
    assert [row.mutual_information for row in found.neurons] == ([pytest.approx(expected)] if expected > 0.05 else [])
    assert (found.length, found.sequences, found.notes) == (T, S, ())
    assert mutual_information(np.where(np.arange(T) < k, S, 0)[None], S)[0] == pytest.approx(max(0, expected))


def reference_information(fired: NDArray[np.bool_]) -> float:
    """bool[sequences, positions], in plain loops."""
    sequences, length = fired.shape
    f = [sum(column) / sequences for column in fired.T.tolist()]
    overall = sum(f) / length
    total = 0.0
    for at in f:
        if at > 0:
            total += at * math.log(at / overall)
        if at < 1:
            total += (1 - at) * math.log((1 - at) / (1 - overall))
    return max(0.0, total / length - 1 / (2 * sequences))


@pytest.mark.parametrize("seed", SEEDS)
def test_sequences_of_mixed_lengths_against_plain_loops(make_run: MakeRun, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.choice([12, 20, 33], 400).tolist()
    place = np.concatenate([np.arange(length) for length in lengths])
    rates = rng.random((33, 20)) ** rng.choice([0.1, 1, 6], 20)
    fired = rng.random((len(place), 20)) < rates[place]
    run = run_of(make_run, fired, lengths)
    ends = np.cumsum(lengths)
    for length, taken in ((None, 33), (33, 33), (20, 20), (7, 7)):
        chosen = [fired[end - n : end - n + taken] for end, n in zip(ends, lengths, strict=True) if n >= taken]
        stacked = np.stack(chosen)
        found = positions(run, length)
        assert (found.length, found.sequences) == (taken, len(chosen))
        expected = {i: reference_information(stacked[:, :, i]) for i in range(20)}
        by_neuron = {row.neuron: row for row in found.neurons}
        assert set(by_neuron) == {i for i, information in expected.items() if information > 0.05}
        assert by_neuron
        informations = [row.mutual_information for row in found.neurons]
        assert informations == sorted(informations, reverse=True)
        for row, profile in zip(found.neurons, found.profiles, strict=True):
            assert row.mutual_information == pytest.approx(expected[row.neuron], abs=1e-12)
            assert row.firing_rate == pytest.approx(stacked[:, :, row.neuron].mean())
            np.testing.assert_array_equal(profile, stacked[:, :, row.neuron].sum(axis=0) / len(chosen))


def planted(rng: np.random.Generator) -> tuple[NDArray[np.bool_], dict[int, tuple[str, str]]]:
    """bool[tokens, neurons] and the type and strength of each positional one, in random order."""
    place = np.arange(T)
    shapes: list[tuple[tuple[str, str] | None, NDArray[np.float64]]] = [
        (("oscillatory", "strong"), np.where(place // 40 % 2, 1.0, 0.0)),
        (("oscillatory", "weak"), np.where(place // 40 % 2, 0.8, 0.2)),
        (("both extremes", "strong"), np.where(place < 80, 0.0, 1.0)),
        (("both extremes", "strong"), np.where(place < 100, 1.0, 0.0)),
        (("one extreme", "strong"), np.where(place < 70, 0.0, 0.4)),
        (("one extreme", "strong"), np.where(place < 60, 1.0, 0.65)),
        (("other", "weak"), np.linspace(0.15, 0.85, T)),
        (("other", "strong"), np.where(place < 12, 1.0, 0.3)),  # at an extreme, and not for long enough
        *((None, np.full(T, rate)) for rate in (0.0, 0.03, 0.3, 0.5, 0.97, 1.0)),
        (None, np.where(place < 80, 0.45, 0.55)),  # it depends on the position, and too little
    ]
    order = rng.permutation(len(shapes))
    rates = np.stack([shapes[i][1] for i in order], axis=1)
    fired = rng.random((S, T, len(shapes))) < rates
    # Weak ones never reach 0 or 1 by chance: two sequences fire everywhere, two nowhere.
    weak = [n for n, i in enumerate(order) if (shapes[i][0] or ("", ""))[1] == "weak"]
    fired[:2, :, weak], fired[2:4, :, weak] = True, False
    expected = {n: kind for n, i in enumerate(order) if (kind := shapes[i][0]) is not None}
    return fired.reshape(S * T, -1), expected


@pytest.mark.parametrize("seed", SEEDS)
def test_planted_positional_neurons_are_found_exactly(make_run: MakeRun, seed: int) -> None:
    fired, expected = planted(np.random.default_rng(seed))
    found = positions(run_of(make_run, fired))
    assert {row.neuron: (row.type, row.strength) for row in found.neurons} == expected
    layer = found.layers[0]
    assert (layer.positional, layer.strong) == (8, 6)
    assert layer.types == {"oscillatory": 2, "both extremes": 2, "one extreme": 2, "other": 2}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_correction_takes_the_bias_away(seed: int) -> None:
    """Neurons that fire by chance: without the correction the mean information is 1/(2S)."""
    counts = np.random.default_rng(seed).binomial(S, 0.3, (500, T))
    found = mutual_information(counts, S)
    assert found.max() < 0.003
    assert found.mean() < 0.1 / (2 * S)
    assert (found > 0).mean() == pytest.approx(0.5, abs=0.1)


def test_gates_and_scales_say_what_fires(make_run: MakeRun) -> None:
    fired = np.tile(np.arange(T) < 40, S)[:, None] & np.ones(3, np.bool_)
    rng = np.random.default_rng(0)
    layers = [Layer(0, "mlp", 0, "h.0.mlp", 3, "silu", "gate"), Layer(1, "resid", 0, "h.0", 3, "", "scale")]
    values = {
        0: rng.normal(size=fired.shape).astype(np.float32),
        1: (np.where(fired, 3, 0.001) * rng.choice([-1, 1], fired.shape)).astype(np.float32),
    }
    run = make_run(layers, [array_prompt("a", T)] * S, values, {0: fired})
    for site in ("mlp", "resid"):
        found = positions(run, site=site)
        assert [row.neuron for row in found.neurons] == [0, 1, 2]
        assert found.neurons[0].mutual_information == pytest.approx(entropy(0.25) - 1 / (2 * S))


def counts_of(*parts: tuple[int, float]) -> NDArray[np.int64]:
    """A profile of S sequences: so many positions at such a share, one after the other."""
    return np.concatenate([np.full(n, round(share * S), np.int64) for n, share in parts])


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        (counts_of((64, 0), (64, 1)), "both extremes"),
        (counts_of((64, 0.05), (64, 0.95)), "both extremes"),  # the edges belong to them
        (counts_of((64, 0), (64, 0.9)), "one extreme"),
        (counts_of((64, 0.2), (64, 0.8)), "other"),
        (counts_of((31, 0)), "other"),  # shorter than an extreme has to last
        (counts_of((32, 0)), "one extreme"),
        (counts_of((64, 0), (64, 1), (64, 0)), "both extremes"),  # two crossings
        (counts_of((64, 0), (64, 1), (64, 0), (64, 1)), "oscillatory"),  # three
        (counts_of((64, 0.4), (64, 0.5), (64, 0.4), (64, 0.5), (64, 0.4)), "other"),  # touches one half
        (counts_of((64, 0.4), (64, 0.5), (64, 0.6), (64, 0.5), (64, 0.4), (64, 0.6)), "oscillatory"),
        (np.tile(counts_of((1, 0), (1, 1)), 80), "other"),  # the mean over 32 positions is still
    ],
)
def test_types(profile: NDArray[np.int64], expected: str) -> None:
    assert profile_types(np.stack([np.zeros_like(profile), profile]), S)[1] == expected


@pytest.mark.parametrize("length", [1, 31, 32, 60, 150])
def test_types_of_many_neurons_in_plain_loops(length: int) -> None:
    rng = np.random.default_rng(length)
    steps = rng.choice([0, 0.03, 0.5, 0.97, 1], (300, length // 25 + 2))
    counts = np.repeat(np.round(steps * S).astype(np.int64), 25, axis=1)[:, :length]
    counts = (counts + rng.integers(-2, 3, (300, 1)) * (rng.random((300, 1)) < 0.3)).clip(0, S)
    types = profile_types(counts, S)
    assert types == [type_in_plain_loops(row.tolist()) for row in counts]
    assert length < 100 or len(set(types)) == 4


def type_in_plain_loops(counts: list[int]) -> str:
    smoothed = []
    for i in range(len(counts)):
        part = counts[max(0, i - 16) : i + 16]
        smoothed.append((sum(part), len(part) * S))

    def lasting(extremes: list[bool]) -> bool:
        return any(all(extremes[i : i + 32]) for i in range(len(extremes) - 31))

    sides = [side for fired, of in smoothed if (side := (2 * fired > of) - (2 * fired < of))]
    if sum(a != b for a, b in pairwise(sides)) >= 3:
        return "oscillatory"
    low, high = ([100 * f <= 5 * of for f, of in smoothed], [100 * f >= 95 * of for f, of in smoothed])
    return ("other", "one extreme", "both extremes")[lasting(low) + lasting(high)]


@pytest.mark.parametrize(
    ("lowest", "highest", "expected"),
    [(1, 500, "strong"), (2, 500, "weak"), (2, 999, "strong"), (2, 998, "weak"), (0, 1000, "strong")],
)
def test_strength_of_a_thousand_sequences(lowest: int, highest: int, expected: str) -> None:
    assert profile_strengths(np.array([[300, lowest, highest], [300, 300, 300]]), 1000) == [expected, "weak"]


@pytest.mark.parametrize("length", [1, 5, 31, 32, 33, 100])
def test_the_smoothed_profile_in_plain_loops(length: int) -> None:
    counts = np.random.default_rng(length).integers(0, S, length)
    sums, width = windows(counts[None])
    for i in range(length):
        part = [counts[j] for j in range(length) if i - 16 <= j < i + 16]
        assert (sums[0, i], width[i]) == (sum(part), len(part))


@pytest.mark.parametrize(("before", "held", "after"), [(0, 32, 0), (0, 31, 1), (5, 31, 4), (5, 32, 4), (0, 3, 0)])
def test_what_lasts_32_positions(before: int, held: int, after: int) -> None:
    row = np.array([False] * before + [True] * held + [False] * after)
    assert lasts(np.stack([row, np.zeros_like(row)])).tolist() == [held >= 32, False]


def test_too_few_sequences_are_said(make_run: MakeRun) -> None:
    lengths = [30] * 99 + [10] * 51
    fired = np.concatenate([np.arange(n) < 5 for n in lengths])[:, None]
    found = positions(run_of(make_run, fired, lengths))
    assert (found.length, found.sequences) == (30, 99)
    assert found.neurons == () and found.profiles.shape == (0, 30)
    assert (found.layers[0].would_pass, found.layers[0].positional, sum(found.layers[0].types.values())) == (1, 0, 0)
    (note,) = found.notes
    assert "99 of 150" in note and "--length 10" in note and "1 of 1 neurons would pass" in note and "chance" in note
    assert found.to_json()["notes"] == list(found.notes)
    allowed = positions(run_of(make_run, fired, lengths), allow_few=True)
    assert len(allowed.neurons) == allowed.layers[0].positional == 1
    assert "99 of 150" in allowed.notes[0] and "may be chance" in allowed.notes[0]
    enough = positions(run_of(make_run, fired, lengths), length=10)
    assert enough.notes == () and enough.layers[0].would_pass == enough.layers[0].positional == len(enough.neurons)


@pytest.mark.parametrize("seed", SEEDS)
def test_chance_in_a_few_sequences_is_listed_nowhere(make_run: MakeRun, seed: int) -> None:
    """Neurons that know nothing of the position: in 4 sequences some of them would pass."""
    fired = np.random.default_rng(seed).random((4 * 40, 200)) < 0.3
    run = run_of(make_run, fired, [40] * 4)
    found = positions(run)
    assert found.neurons == () and found.layers[0].would_pass > 0
    assert positions(run, allow_few=True).layers[0].positional == found.layers[0].would_pass


def test_the_same_to_the_last_digit_whatever_the_chunks(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    fired, _ = planted(np.random.default_rng(3))
    run = run_of(make_run, fired)
    first = positions(run)
    monkeypatch.setattr(firing, "FEWEST", 4)
    monkeypatch.setattr(firing, "CHUNK_BYTES", 1)
    again = positions(run)
    assert json.dumps(again.to_json()) == json.dumps(first.to_json())
    assert again.profiles.tobytes() == first.profiles.tobytes()


@pytest.mark.parametrize("some", [True, False])
def test_a_kept_document_and_its_table_give_the_analysis_back(make_run: MakeRun, some: bool) -> None:
    fired, _ = planted(np.random.default_rng(4))
    found = positions(run_of(make_run, fired & some))
    assert bool(found.neurons) is some
    table = found.profile_table()
    assert table.column_names == ["site", "layer", "neuron", "position", "rate"]
    assert table.num_rows == len(found.neurons) * T
    back = PositionAnalysis.from_json(json.loads(json.dumps(found.to_json())), table)
    np.testing.assert_array_equal(back.profiles, found.profiles)
    assert back.to_json() == found.to_json()


def test_wrong_requests(make_run: MakeRun) -> None:
    layers, prompts, values = mlp_layers(1, 2, "relu"), [array_prompt("a", 5)] * 3, {0: np.ones((15, 2), np.float32)}
    run = make_run(layers, prompts, values)
    for wrong in ({"length": 6}, {"length": 0}, {"site": "attn"}, {"layers": [1]}):
        with pytest.raises(RequestError):
            positions(run, **wrong)
    with pytest.raises(StoreError, match="statistics only"):
        positions(make_run(layers, prompts, values, keep="stats"))

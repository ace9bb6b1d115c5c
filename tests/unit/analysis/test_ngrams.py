"""Neurons that detect tokens, bigrams and trigrams (methods §5)."""

import json
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from analysis_runs import MakeRun, mlp_layers
from planted_ngrams import PROMPTS, Planted, Reference, planted_text, reference, text_prompts

from nfinspect.analysis import firing, triggers
from nfinspect.analysis.ngram_ids import index_ngrams
from nfinspect.analysis.ngrams import NgramAnalysis, ngrams
from nfinspect.analysis.triggers import BUCKETS, bucket_counts, fewest_triggers, find_triggers
from nfinspect.capturing.arrays import ArrayPrompt
from nfinspect_store.errors import RequestError, StoreError
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Layer

SEEDS = range(3)


def planted_run(make_run: MakeRun, seed: int) -> tuple[RunFile, Planted]:
    planted = planted_text(seed)
    values = np.where(planted.fired, np.random.default_rng(seed).uniform(0.1, 5, planted.fired.shape), 0)
    layer = mlp_layers(1, planted.fired.shape[1], "relu")
    return make_run(layer, planted.prompts, {0: values.astype(np.float32)}), planted


@pytest.fixture(scope="module")
def planted_of(make_shared_run: MakeRun) -> Callable[[int], tuple[RunFile, Planted]]:
    """planted_of(seed) -> an open run, and what is planted in it."""
    return cache(lambda seed: planted_run(make_shared_run, seed))


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_planted_detectors_are_found_exactly(
    seed: int, n: int, planted_of: Callable[[int], tuple[RunFile, Planted]]
) -> None:
    run, planted = planted_of(seed)
    found = ngrams(run, n)
    grams = {d.neuron: {ngram.token_ids for ngram in d.ngrams} for d in found.detectors}
    assert grams == planted.detectors[n]
    assert found.positions == PROMPTS * (30 - max(1, n - 1))
    for detector in found.detectors:
        for ngram in detector.ngrams:
            assert ngram.tokens == tuple(f"t{i}" for i in ngram.token_ids)
            assert ngram.activations == ngram.occurrences >= 8
        assert detector.coverage >= 0.95
        assert detector.suppression is None
    layer = found.layers[0]
    everything = set().union(*planted.detectors[n].values())
    assert layer.detectors == len(found.detectors)
    assert layer.covered == layer.cumulative == layer.new_overall == layer.new_vs_previous == len(everything)


def random_case(seed: int) -> tuple[list[list[int]], dict[int, np.ndarray]]:
    """Prompts of 1 to 14 tokens out of 4; three layers of neurons that fire on some n-grams, and a little elsewhere."""
    rng = np.random.default_rng(seed)
    rows = [rng.integers(0, 4, rng.integers(1, 15)).tolist() for _ in range(200)]
    fired = {}
    for layer in range(3):
        columns = []
        for neuron in range(24):
            size = neuron % 3 + 1
            chosen = {tuple(rng.integers(0, 4, size)) for _ in range(rng.integers(1, 4))}
            column = [tuple(row[max(0, k - size + 1) : k + 1]) in chosen for row in rows for k in range(len(row))]
            flips = rng.random(len(column)) < rng.choice([0, 0.002, 0.02])
            columns.append(np.array(column) ^ flips)
        fired[layer] = np.stack(columns, axis=1)
    return rows, fired


RandomCase = tuple[RunFile, list[list[int]], dict[int, np.ndarray]]


@pytest.fixture(scope="module")
def random_of(make_shared_run: MakeRun) -> Callable[[int], RandomCase]:
    """random_of(seed) -> an open run of a random case, and the case."""

    @cache
    def made(seed: int) -> RandomCase:
        rows, fired = random_case(seed)
        values = {i: one.astype(np.float32) for i, one in fired.items()}
        return make_shared_run(mlp_layers(3, 24, "relu"), text_prompts(rows), values), rows, fired

    return made


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_figure_agrees_with_plain_loops(seed: int, n: int, random_of: Callable[[int], RandomCase]) -> None:
    run, rows, fired = random_of(seed)
    found = ngrams(run, n)
    expected = {layer: reference(rows, f, n) for layer, f in fired.items()}
    detecting = {(i, j): x for i, layer in expected.items() for j, x in enumerate(layer) if x.detects}
    assert len(detecting) > 5
    assert [(d.layer, d.neuron) for d in found.detectors] == list(detecting)
    for detector in found.detectors:
        x = detecting[detector.layer, detector.neuron]
        assert detector.k == x.k
        assert detector.coverage == x.coverage[0] / x.coverage[1]
        assert detector.activations == x.coverage[1]
        listed = [(ngram.token_ids, ngram.activations) for ngram in detector.ngrams]
        assert listed == sorted(x.covered.items(), key=lambda item: (-item[1], item[0]))  # ties by token ids
    covered = [set().union(*(x.covered for x in layer if x.detects)) for layer in expected.values()]
    together = [set().union(*covered[:i]) for i in range(4)]
    for i, layer in enumerate(found.layers):
        assert (layer.layer, layer.neurons) == (i, 24)
        assert layer.active == sum(x.k > 0 for x in expected[i])
        assert layer.detectors == sum(x.detects for x in expected[i])
        assert layer.covered == len(covered[i])
        assert layer.cumulative == len(together[i + 1])
        assert layer.new_overall == len(covered[i] - together[i])
        assert layer.new_vs_previous == len(covered[i] - (covered[i - 1] if i else set()))
        assert layer.buckets == reference_buckets(expected[i])


def reference_buckets(neurons: list[Reference]) -> dict[str, int]:
    edges = [0, 5, 10, 20, 50, 200, 1000, 2000, 5000, 10**9]
    return {
        name: sum(low < x.k <= high for x in neurons)
        for name, (low, high) in zip(BUCKETS, pairwise(edges), strict=True)
    }


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        *(([], 0), ([0, 0], 0), ([7], 1), ([95, 5], 1), ([94, 6], 2), ([6, 94], 2), ([1] * 20, 19), ([1] * 19, 19)),
        *(([9, 1], 2), ([19, 1], 1), ([5, 1, 1, 1], 4), ([57, 1, 1, 1], 1), ([56, 1, 1, 1, 1], 2), ([0, 1], 1)),
    ],
)
def test_fewest_triggers_that_hold_95_percent(counts: list[int], expected: int) -> None:
    """However many of those that fired once are counted apart, as n-grams that were seen once are."""
    for apart in range(counts.count(1) + 1):
        rest = counts.copy()
        for _ in range(apart):
            rest.remove(1)
        rows = np.array([rest, [0] * len(rest), rest], np.int64)
        once = np.array([apart, 0, apart])
        assert fewest_triggers(rows, once).tolist() == [expected, 0, expected]


def test_edges_of_the_buckets() -> None:
    k = np.array([0, 1, 5, 6, 10, 11, 20, 21, 50, 51, 200, 201, 1000, 1001, 2000, 2001, 5000, 5001, 10**6])
    assert bucket_counts(k) == dict.fromkeys(BUCKETS, 2)
    assert list(BUCKETS) == ["1-5", "6-10", "11-20", "21-50", "51-200", "201-1k", "1k-2k", "2k-5k", ">5k"]


@pytest.mark.parametrize(
    ("seen", "active", "covered"), [(20, 19, True), (100, 94, False), (5, 5, True), (4, 4, False), (5, 4, False)]
)
def test_edges_of_being_covered(seen: int, active: int, covered: bool) -> None:
    """One token 7 after another, once or `seen` times; `active` of them fire."""
    ids = np.full(seen + 1, 7)
    index = index_ngrams(ids, np.arange(seen + 1), 1)
    fired = np.arange(seen + 1) <= active  # position 0 fires, and does not count
    _, detectors = find_triggers(fired[None], index)
    assert [one.activations for one in detectors] == [active] * covered
    assert [one.covered.tolist() for one in detectors] == [[0]] * covered


@pytest.mark.parametrize(("n", "grams", "k"), [(1, 5, 5), (1, 6, 6), (2, 52, 50), (2, 53, 51)])
def test_the_largest_k_of_a_detector(n: int, grams: int, k: int) -> None:
    """A neuron that fires on so many n-grams, on each of them ten times: a token, or a token behind 999."""
    words = np.tile(np.arange(grams), 10)
    ids = np.append(999, words) if n == 1 else np.column_stack([np.full(len(words), 999), words]).ravel()
    index = index_ngrams(ids, np.arange(len(ids)), n)
    found, detectors = find_triggers(np.stack([ids != 999, ids < 0]), index)
    assert found.tolist() == [k, 0]
    detects = k in (5, 50)
    assert [(one.neuron, one.activations, one.k, len(one.covered)) for one in detectors] == [
        (0, 10 * grams, k, grams)
    ] * detects


@pytest.mark.parametrize("cells", [1, 100, 1 << 18])
def test_triggers_of_many_neurons_are_those_of_each(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted together, some at a time or alone; n-grams that were seen once among them."""
    rng = np.random.default_rng(3)
    ids = np.minimum(rng.zipf(1.3, 400), 300)
    index = index_ngrams(ids, np.arange(400) % 25, 1)
    assert 1 < (index.seen == 1).sum() < index.distinct - 5
    fired = rng.random((60, 400)) < rng.choice([0, 0.01, 0.2, 0.9], (60, 1))
    common = np.flatnonzero(np.bincount(ids) > 5)
    fired[:20] |= ids == rng.choice(common, (20, 1))
    alone = [find_triggers(row[None], index) for row in fired]
    monkeypatch.setattr(triggers, "CELLS", cells)
    k, detectors = find_triggers(fired, index)
    assert k.tolist() == [int(one[0]) for one, _ in alone]
    expected = [(i, one) for i, (_, found) in enumerate(alone) for one in found]
    assert len(expected) > 3
    for found, (neuron, one) in zip(detectors, expected, strict=True):
        assert (found.neuron, found.activations, found.k) == (neuron, one.activations, one.k)
        assert found.covered.tolist() == one.covered.tolist()
        assert found.counts.tolist() == one.counts.tolist()


def test_ngrams_stay_within_prompts_and_leave_out_what_starts_them() -> None:
    ids = np.array([5, 6, 7, 5, 6, 8, 9])
    positions = np.array([0, 1, 2, 0, 1, 0, 0])
    one, two, three = (index_ngrams(ids, positions, n) for n in (1, 2, 3))
    assert one.token_ids.tolist() == [[6], [7]]  # 5, 8 and 9 stand at position 0 only
    assert one.ids.tolist() == [2, 0, 1, 2, 0, 2, 2]
    assert one.seen.tolist() == [2, 1]
    assert two.token_ids.tolist() == [[5, 6], [6, 7]]  # (7, 5) and (6, 8) would reach across
    assert two.ids.tolist() == [2, 0, 1, 2, 0, 2, 2]
    assert three.token_ids.tolist() == [[5, 6, 7]]  # it contains the first token, and counts
    assert three.ids.tolist() == [1, 1, 0, 1, 1, 1, 1]


def test_firing_only_where_nothing_counts_is_no_activation(make_run: MakeRun) -> None:
    rows = [[1, 2, 3, 4]] * 20
    first = np.tile(np.arange(4), 20)
    values = np.stack([first == 0, first == 1], axis=1).astype(np.float32)
    run = make_run(mlp_layers(1, 2, "relu"), text_prompts(rows), {0: values})
    assert [d.neuron for d in ngrams(run, 1).detectors] == [1]
    assert [(d.neuron, d.ngrams[0].token_ids) for d in ngrams(run, 2).detectors] == [(1, (1, 2))]
    three = ngrams(run, 3)
    assert (three.detectors, three.layers[0].active, sum(three.layers[0].buckets.values())) == ((), 0, 0)


def test_a_gated_layer_fires_by_its_gate_and_a_site_without_gate_by_its_scale(make_run: MakeRun) -> None:
    planted = planted_text(7)
    rng = np.random.default_rng(7)
    fired = planted.fired
    signs = rng.choice([-1, 1], fired.shape)
    gated = rng.normal(size=fired.shape).astype(np.float32)
    scaled = (np.where(fired, 5, 0.001) * signs).astype(np.float32)
    layers = [
        Layer(0, "mlp", 0, "h.0.mlp", fired.shape[1], "silu", "gate"),
        Layer(1, "resid", 0, "h.0", fired.shape[1], "", "scale"),
    ]
    run = make_run(layers, planted.prompts, {0: gated, 1: scaled}, {0: fired})
    for site in ("mlp", "resid"):
        found = ngrams(run, 1, site)
        assert {d.neuron for d in found.detectors} == set(planted.detectors[1])
        assert {d.site for d in found.detectors} == {site}


def test_the_same_to_the_last_digit_whatever_the_chunks(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, fired = random_case(5)
    run = make_run(mlp_layers(3, 24, "relu"), text_prompts(rows), {i: f.astype(np.float32) for i, f in fired.items()})
    first = json.dumps(ngrams(run, 2).to_json())
    assert json.dumps(ngrams(run, 2).to_json()) == first
    monkeypatch.setattr(firing, "FEWEST", 7)
    monkeypatch.setattr(firing, "CHUNK_BYTES", 1)
    ticks: list[tuple[int, int]] = []
    assert json.dumps(ngrams(run, 2, tick=lambda *t: ticks.append(t)).to_json()) == first
    assert ticks == [(done, 72) for done in range(1, 73)]  # seven are read at a time, one is handed out
    for given, sizes in ((1, [1] * 24), (5 * run.tokens, [5, 5, 5, 5, 4])):
        monkeypatch.setattr(firing, "CHUNK_BYTES", given)
        assert [len(chunk.fired) for chunk in firing.fired_chunks(run, run.layers[0])] == sizes


def test_a_kept_document_gives_the_analysis_back(make_run: MakeRun) -> None:
    run, _ = planted_run(make_run, 0)
    found = ngrams(run, 2)
    assert NgramAnalysis.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_layers_can_be_chosen(make_run: MakeRun) -> None:
    rows, fired = random_case(1)
    run = make_run(mlp_layers(3, 24, "relu"), text_prompts(rows), {i: f.astype(np.float32) for i, f in fired.items()})
    whole, part = ngrams(run), ngrams(run, layers=[2, 0])
    assert [d for d in whole.detectors if d.layer != 1] == list(part.detectors)
    assert [layer.layer for layer in part.layers] == [0, 2]


def test_wrong_requests(make_run: MakeRun) -> None:
    layers, prompts = mlp_layers(2, 3, "relu"), text_prompts([[1, 2]] * 4)
    values = {i: np.ones((8, 3), np.float32) for i in range(2)}
    run = make_run(layers, prompts, values)
    for wrong in ({"n": 0}, {"n": 4}, {"site": "resid"}, {"layers": [5]}, {"layers": []}, {"n": 3}):
        with pytest.raises(RequestError):
            ngrams(run, **wrong)
    with pytest.raises(StoreError, match="statistics only"):
        ngrams(make_run(layers, prompts, values, keep="stats"))


def test_where_none_is_a_detector_the_nearest_are_named(make_run: MakeRun) -> None:
    """Of 20 tokens in turn neuron 0 fires on every 7 and on a few others, neuron 1 on as many others as 3s, neuron 2
    always; in the second run only those that fire on many tokens are there.
    """
    ids = np.tile(np.arange(20), 30)
    prompts = [ArrayPrompt("a", "text", part.tolist(), [f" t{i}" for i in part], 100) for part in ids.reshape(6, 100)]
    values = np.zeros((600, 4), np.float32)
    values[:, 0] = ids == 7
    values[np.flatnonzero(ids == 9)[2:12], 0] = 1  # a third of its occurrences: not covered
    values[:, 1] = ids == 3
    values[np.flatnonzero(ids == 9)[1:29], 1] = 1
    values[:, 2] = 1
    run = make_run(mlp_layers(1, 4, "relu"), prompts, {0: values})
    found = ngrams(run)
    assert found.detectors == ()
    fired = [(values[:, i][np.arange(600) % 100 > 0] > 0).sum() for i in range(2)]
    assert [(one.neuron, one.k, one.activations) for one in found.nearest] == [(0, 2, fired[0]), (1, 2, fired[1])]
    covered = [(values[:, i] * (ids == of))[np.arange(600) % 100 > 0].sum() for i, of in ((0, 7), (1, 3))]
    assert [one.coverage for one in found.nearest] == [c / f for c, f in zip(covered, fired, strict=True)]
    note = next(one for one in found.notes if "a detector has" in one)
    assert "k <= 5 and 95 % of its activations" in note and "L0/N0 with k = 2 and 75 %; L0/N1 with k = 2 and" in note
    assert NgramAnalysis.from_json(json.loads(json.dumps(found.to_json()))) == found
    values[:, :2] = 0
    always = ngrams(make_run(mlp_layers(1, 4, "relu"), prompts, {0: values}))
    assert [(one.neuron, one.k) for one in always.nearest] == [(2, 19)]  # 95 % of 20 tokens
    silent = ngrams(make_run(mlp_layers(1, 4, "relu"), prompts, {0: values * 0}))
    assert silent.nearest == () and any("no neuron fired" in one for one in silent.notes)
    values[:, 0] = ids == 7
    detected = ngrams(make_run(mlp_layers(1, 4, "relu"), prompts, {0: values}))
    assert [one.neuron for one in detected.detectors] == [0] and detected.nearest == ()

"""Statistics of a chunk are those of its values, and any split of the tokens gives the same answer."""

from collections.abc import Sequence
from dataclasses import fields
from decimal import Decimal
from functools import reduce

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from nfinspect.capturing.batch import PromptRows
from nfinspect.capturing.statistics import HistogramCounter, LayerStatistics, chunk_statistics
from nfinspect.capturing.tensor_statistics import count_tensor
from nfinspect_store import kernels
from nfinspect_store.histogram import BINS, EDGES, MIDDLE, bin_of
from nfinspect_store.statistics import UNKNOWN, ConceptStatistics, NeuronStatistics
from nfinspect_store.types import Prompt

NEURONS = 12


def sample(tokens: int, seed: int = 0) -> NDArray[np.float32]:
    """Neurons of all kinds: tiny, large, far from zero, skewed, sparse, constant."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(tokens, NEURONS))
    values[:, 1] *= 1e-6
    values[:, 2] *= 1e6
    values[:, 3] += 1000.0
    values[:, 4] = np.maximum(values[:, 4] - 1.0, 0.0)
    values[:, 5] = np.exp(3 * values[:, 5])
    values[:, 6] = 0.1
    values[:, 7] = 0.0
    values[:, 8] = -1e30
    return values.astype(np.float32)


def assert_close(found: NeuronStatistics, values: NDArray[np.float32], tolerance: float = 1e-12) -> None:
    """`found` are the statistics of `values`, by numpy in float64 with nothing clever about it."""
    exact = values.astype(np.float64)
    constant = (values == values[0]).all(axis=0)
    mean = np.where(constant, exact[0], exact.mean(axis=0))
    deviation = exact - mean
    np.testing.assert_array_equal(found.n, np.full(values.shape[1], len(values)))
    np.testing.assert_array_equal(found.minimum, values.min(axis=0))
    np.testing.assert_array_equal(found.maximum, values.max(axis=0))
    assert (np.abs(found.mean - mean) <= tolerance * np.abs(exact).max(axis=0)).all()
    np.testing.assert_allclose(found.sum_abs, np.abs(exact).sum(axis=0), rtol=tolerance)
    for power, moment in ((2, found.m2), (3, found.m3), (4, found.m4)):
        # A third moment may cancel: what rounding does to it goes with the sizes of what was added.
        size = (np.abs(deviation) ** power).sum(axis=0)
        assert (np.abs(moment - (deviation**power).sum(axis=0)) <= tolerance * size).all(), power


@pytest.mark.parametrize("tokens", [1, 2, 31, 32, 33, 500])
@pytest.mark.parametrize("loops", ["compiled", "numpy"])
def test_a_chunk_has_the_statistics_of_its_values(tokens: int, loops: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if loops == "numpy":
        monkeypatch.setattr(kernels, "_kernels", None)
    values = sample(tokens, seed=tokens)
    found = chunk_statistics(values, None, "positive")
    assert_close(found, values)
    np.testing.assert_array_equal(found.fired, (values > 0).sum(axis=0))


def test_derived_figures_are_those_of_numpy_and_scipy() -> None:
    values = sample(400)
    found = chunk_statistics(values, None, "positive")
    exact = values.astype(np.float64)
    varied = found.maximum > found.minimum
    np.testing.assert_allclose(found.variance[varied], exact.var(axis=0, ddof=1)[varied], rtol=1e-11)
    np.testing.assert_allclose(found.std[varied], exact.std(axis=0, ddof=1)[varied], rtol=1e-11)
    np.testing.assert_allclose(found.skewness[varied], stats.skew(exact[:, varied]), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.excess_kurtosis[varied], stats.kurtosis(exact[:, varied]), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(found.mean_abs, np.abs(exact).mean(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(found.firing_rate, (values > 0).mean(axis=0))
    # Undefined is NaN, never 0: no shape without variance, no variance of one token, no mean of none.
    assert np.isnan(found.skewness[~varied]).all() and np.isnan(found.excess_kurtosis[~varied]).all()
    assert (found.variance[~varied] == 0).all()
    assert np.isnan(chunk_statistics(values[:1], None, "positive").std).all()
    assert np.isnan(NeuronStatistics.empty(3).mean_abs).all() and np.isnan(NeuronStatistics.empty(3).firing_rate).all()


def test_what_fires_follows_the_layer() -> None:
    values = np.array([[1.0, -1.0], [2.0, 0.0], [-0.0, 3.0]], np.float32)
    gate = np.array([[False, True], [False, True], [True, True]])
    assert chunk_statistics(values, None, "positive").fired.tolist() == [2, 1]
    assert chunk_statistics(values, gate, "gate").fired.tolist() == [1, 3]
    unknown = chunk_statistics(values, None, "scale")
    assert unknown.fired.tolist() == [UNKNOWN, UNKNOWN] and np.isnan(unknown.firing_rate).all()
    known = chunk_statistics(values, None, "positive")
    assert known.merge(unknown).fired.tolist() == [UNKNOWN, UNKNOWN]


def split(values: NDArray[np.float32], cuts: Sequence[int]) -> list[NeuronStatistics]:
    """Statistics of the parts between the cuts; two equal cuts give an empty part."""
    edges = [0, *cuts, len(values)]
    return [
        chunk_statistics(values[a:b], None, "positive") if b > a else NeuronStatistics.empty(values.shape[1])
        for a, b in zip(edges[:-1], edges[1:], strict=True)
    ]


def merged(parts: Sequence[NeuronStatistics]) -> NeuronStatistics:
    return reduce(NeuronStatistics.merge, parts)


@pytest.mark.parametrize("seed", range(10))
def test_any_split_of_the_tokens_merges_to_the_same(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = sample(600, seed)
    parts = split(values, sorted(rng.integers(0, 601, rng.integers(1, 40)).tolist()))
    in_order = merged(parts)
    assert_close(in_order, values)
    np.testing.assert_array_equal(in_order.fired, (values > 0).sum(axis=0))
    shuffled = merged([parts[i] for i in rng.permutation(len(parts))])
    assert_close(shuffled, values)
    half = len(parts) // 2
    as_a_tree = merged([NeuronStatistics.empty(NEURONS), *parts[:half]]).merge(
        merged([*parts[half:], NeuronStatistics.empty(NEURONS)])
    )
    assert_close(as_a_tree, values)


def test_one_token_chunks_merge_to_the_whole() -> None:
    values = sample(300, seed=2)
    assert_close(merged(split(values, range(1, 300))), values)


def test_constant_neurons_stay_constant_in_any_split() -> None:
    values = np.full((97, 3), [0.1, -7.3e-5, 1e30], np.float32)
    for cuts in ([], [1], [50, 50, 60], range(1, 97)):
        found = merged(split(values, cuts))
        np.testing.assert_array_equal(found.mean, values[0].astype(np.float64))
        assert not found.m2.any() and not found.m3.any() and not found.m4.any()


def test_merging_with_nothing_changes_nothing() -> None:
    found = chunk_statistics(sample(40), None, "positive")
    nothing = NeuronStatistics.empty(NEURONS)
    for whole in (found.merge(nothing), nothing.merge(found)):
        for field in fields(NeuronStatistics):
            np.testing.assert_array_equal(getattr(whole, field.name), getattr(found, field.name), field.name)


def test_counts_go_beyond_float32_and_int32() -> None:
    """A float32 counter stops at 16,777,216, an int32 one at 2,147,483,647."""
    one = chunk_statistics(np.ones((1, 1), np.float32), None, "positive")
    for many in (2**24, 2**31 - 1, 2**53):
        crowd = NeuronStatistics(
            **{f.name: getattr(one, f.name) for f in fields(NeuronStatistics)}
            | {"n": np.array([many]), "fired": np.array([many])}
        )
        total = crowd.merge(one)
        assert total.n.dtype == total.fired.dtype == np.int64
        assert total.n.tolist() == total.fired.tolist() == [many + 1]


# Histograms


def brute_bin(value: float) -> int:
    """By the edges alone: a magnitude that equals an edge belongs to the bin farther from zero."""
    magnitude = abs(value)
    k = sum(magnitude >= edge for edge in EDGES if 0 < edge < np.inf)
    return MIDDLE + (-k if value < 0 else k)


def awkward_values() -> NDArray[np.float32]:
    edges = EDGES[1:-1].astype(np.float32)
    rng = np.random.default_rng(1)
    random = rng.choice([-1, 1], 2000) * np.exp(rng.uniform(-25, 20, 2000))
    extremes = [0.0, -0.0, 1e-45, -1e-45, 1.17e-38, -1.17e-38, 3.4028235e38, -3.4028235e38, 1024.0, 1023.9999]
    return np.concatenate(
        [
            edges,
            np.nextafter(edges, np.float32(np.inf)),
            np.nextafter(edges, np.float32(-np.inf)),
            np.array(extremes, np.float32),
            random.astype(np.float32),
        ]
    )


def test_edges_are_signed_log_and_exact_in_float32() -> None:
    assert len(EDGES) == BINS + 1
    inner = EDGES[1:-1]
    np.testing.assert_array_equal(inner, inner.astype(np.float32))
    np.testing.assert_array_equal(inner, -inner[::-1])
    assert (np.diff(EDGES) > 0).all()


def test_the_bin_of_a_value_is_that_of_the_edges() -> None:
    values = awkward_values()
    assert bin_of(values).tolist() == [brute_bin(v) for v in values.tolist()]


@pytest.mark.parametrize("layout", ["rows", "columns", "reversed"])
def test_both_counters_count_by_the_same_bins(layout: str) -> None:
    tokens, neurons = 41, 150  # more neurons than one stripe
    rng = np.random.default_rng(3)
    values = rng.choice(awkward_values(), (tokens, neurons)).astype(np.float32)
    values = {"rows": values, "columns": np.asfortranarray(values), "reversed": values[::-1]}[layout]
    expected = np.zeros((neurons, BINS), np.int64)
    for column in range(neurons):
        for value in values[:, column].tolist():
            expected[column, brute_bin(value)] += 1
    counter = HistogramCounter(neurons)
    counter.add(values[:20])
    counter.add(values[20:])
    np.testing.assert_array_equal(counter.fetch(), expected)
    on_device = torch.zeros((neurons, BINS), dtype=torch.int64)
    given = torch.from_numpy(values.copy())
    for part in (given[:20], given[20:], given, given):
        count_tensor(on_device, part)
    count_tensor(on_device, given, -2)
    np.testing.assert_array_equal(on_device.numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_of_fewer_bits_are_counted_as_what_they_are(dtype: torch.dtype) -> None:
    given = torch.from_numpy(awkward_values()).to(dtype)
    counts = torch.zeros((1, BINS), dtype=torch.int64)
    count_tensor(counts, given[:, None])
    finite = given.float().numpy()
    np.testing.assert_array_equal(counts[0].numpy(), np.bincount(bin_of(finite), minlength=BINS))


def rows_of(sizes: Sequence[int], concepts: Sequence[str], offset: int = 0) -> PromptRows:
    """Prompts of these sizes, all of them read."""
    firsts = offset + np.cumsum([0, *sizes[:-1]])
    prompts = [
        Prompt(i, concept, "", int(first), size, size)
        for i, (size, concept, first) in enumerate(zip(sizes, concepts, firsts, strict=True))
    ]
    return PromptRows.of(prompts, [True] * len(prompts), offset)


def test_layer_statistics_keep_concepts_and_position_zero_apart_and_go_on_where_they_were() -> None:
    sizes, concepts = [41, 1, 28, 20], ["a", "b", "a", "b"]
    values = sample(90)
    whole, begun, resumed = (LayerStatistics(NEURONS, "positive") for _ in range(3))
    whole.add(rows_of(sizes, concepts), values, None)
    begun.add(rows_of(sizes[:2], concepts[:2]), values[:42], None)
    resumed.restore(begun.groups(), begun.concepts(), begun.histograms())
    resumed.add(rows_of(sizes[2:], concepts[2:], 42), values[42:], None)
    first = np.isin(np.arange(90), [0, 41, 42, 70])
    assert_close(whole.groups()[False], values[~first])
    assert_close(whole.groups()[True], values[first])
    for concept, part in (("a", np.concatenate([values[:41], values[42:70]])), ("b", values[[41, *range(70, 90)]])):
        told = whole.concepts()[concept]
        np.testing.assert_allclose(told.mean, part.mean(axis=0, dtype=np.float64), rtol=1e-12)
        assert told.n.tolist() == [len(part)] * NEURONS and told.maximum.tolist() == part.max(axis=0).tolist()
        assert told.fired.tolist() == (part > 0).sum(axis=0).tolist()
        for field in fields(ConceptStatistics):
            np.testing.assert_array_equal(getattr(told, field.name), getattr(resumed.concepts()[concept], field.name))
    for key, group in whole.groups().items():
        for field in fields(NeuronStatistics):
            np.testing.assert_array_equal(getattr(group, field.name), getattr(resumed.groups()[key], field.name))
    for at_start, counts in whole.histograms().items():
        np.testing.assert_array_equal(counts, resumed.histograms()[at_start])
    assert whole.histograms()[True].sum() == NEURONS * 4


def test_there_are_no_statistics_of_tokens_that_did_not_come() -> None:
    layer = LayerStatistics(NEURONS, "positive")
    assert layer.groups() == {} and layer.concepts() == {}
    means = layer.add(rows_of([1, 1], ["a", "b"]), sample(2), None)
    assert list(layer.groups()) == [True] and list(layer.concepts()) == ["a", "b"] and means.shape == (0, NEURONS)


def test_a_layer_that_keeps_nothing_by_concept_gives_nothing_back_by_concept() -> None:
    """A migrated run tells its concepts as of then; what is not added to any more must not be written again."""
    values = sample(40)
    chunk = chunk_statistics(values, None, "positive")
    layer = LayerStatistics(NEURONS, "positive", apart=False)
    layer.restore({False: chunk}, {"tulip": ConceptStatistics.of(chunk)}, {})
    layer.add(rows_of([40], ["tulip"]), values, None)
    assert layer.concepts() == {} and layer.extremes is None
    apart = LayerStatistics(NEURONS, "positive")
    apart.restore({False: chunk}, {"tulip": ConceptStatistics.of(chunk)}, {})
    apart.add(rows_of([40], ["tulip"]), values, None)
    assert (apart.concepts()["tulip"].n == 2 * len(values)).all()


def test_percentiles_and_a_resumed_run_are_those_of_arrays_wherever_the_values_are() -> None:
    sizes, concepts, values = [41, 1, 28, 20], ["a", "b", "a", "b"], sample(90)
    arrays, tensors, resumed = (LayerStatistics(NEURONS, "positive") for _ in range(3))
    arrays.add(rows_of(sizes, concepts), values, None)
    tensors.add(rows_of(sizes, concepts), torch.from_numpy(values), None)
    limit = arrays.limits(Decimal("90"))
    np.testing.assert_array_equal(np.asarray(tensors.limits(Decimal("90"))), np.asarray(limit))
    resumed.restore({}, {}, tensors.histograms())
    resumed.add(rows_of(sizes, concepts, 90), torch.from_numpy(values), None)
    for at_start, counts in resumed.histograms().items():
        np.testing.assert_array_equal(counts, 2 * arrays.histograms()[at_start])


def test_many_concepts_find_room() -> None:
    names = [f"concept {i}" for i in range(40)]
    values = sample(80)
    layer = LayerStatistics(NEURONS, "positive")
    for start in range(0, 40, 5):
        rows = slice(2 * start, 2 * start + 10)
        layer.add(rows_of([2] * 5, names[start : start + 5], 2 * start), values[rows], None)
    assert list(layer.concepts()) == names
    for i, told in enumerate(layer.concepts().values()):
        np.testing.assert_array_equal(told.maximum, values[2 * i : 2 * i + 2].max(axis=0))
        assert (told.n == 2).all()

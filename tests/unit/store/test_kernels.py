"""The compiled loops against numpy's way, bit by bit, and what they refuse."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from nfinspect.capturing.batch import PromptRows
from nfinspect.capturing.statistics import HistogramCounter, LayerStatistics, chunk_statistics
from nfinspect_store import kernels
from nfinspect_store.blocks import BlockBuffer
from nfinspect_store.digests import values_digest
from nfinspect_store.schema import BLOCK
from nfinspect_store.statistics import ConceptStatistics, NeuronStatistics, merged_moments
from nfinspect_store.types import Layer, Prompt

_kernels = pytest.importorskip("nfinspect_store._kernels", reason="built only where there is a C compiler")

SHAPES = [(1, 2), (1, 70), (2, 64), (31, 16), (33, 65), (40, 150), (300, 129)]
AWKWARD = [0.0, -0.0, 1e-45, -1e-40, 2.0**-14, 1.0, -1.5, 3e38, -3e38, 65504.0]
NOT_FINITE = [np.inf, -np.inf, np.nan]


@pytest.fixture
def without() -> Iterator[pytest.MonkeyPatch]:
    """Where the loops were not built, once `setattr` has been called."""
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def same_bits(a: NDArray[np.generic], b: NDArray[np.generic]) -> bool:
    """Whatever the sign and the payload of a NaN."""
    return a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def sample(tokens: int, neurons: int, extra: list[float] | None = None) -> NDArray[np.float32]:
    rng = np.random.default_rng(tokens * 1000 + neurons)
    values = rng.normal(size=(tokens, neurons)).astype(np.float32)
    values[:, ::3] = np.maximum(values[:, ::3], 0)
    values[:, 1::7] = values[0, 1::7]  # these never vary
    if extra:
        places = rng.random(values.shape) < 0.05
        values[places] = rng.choice(np.array(extra, np.float32), int(places.sum()))
    return values


def both_ways(values: NDArray[np.float32], fired: NDArray[np.bool_] | None, fires: str, patch: pytest.MonkeyPatch):
    found = []
    for loops in (_kernels, None):
        patch.setattr(kernels, "_kernels", loops)
        counter = HistogramCounter(values.shape[1])
        with np.errstate(all="ignore"):
            found.append((chunk_statistics(values, fired, fires, counter), counter.fetch()))
    return found


def is_same(one: NeuronStatistics, other: NeuronStatistics) -> bool:
    return all(same_bits(getattr(one, name), getattr(other, name)) for name in NeuronStatistics.__dataclass_fields__)


@pytest.mark.parametrize("extra", [[], AWKWARD, [*AWKWARD, *NOT_FINITE]], ids=["plain", "awkward", "not finite"])
@pytest.mark.parametrize(("tokens", "neurons"), SHAPES)
def test_a_chunk_has_the_same_statistics_to_the_last_bit(
    tokens: int, neurons: int, extra: list[float], without: pytest.MonkeyPatch
) -> None:
    (one, counted), (other, counted_so) = both_ways(sample(tokens, neurons, extra), None, "positive", without)
    assert is_same(one, other)
    assert same_bits(counted, counted_so)
    assert (counted.sum(1) == tokens).all()


@pytest.mark.parametrize("fires", ["gate", "scale"])
def test_a_gate_says_what_fired(fires: str, without: pytest.MonkeyPatch) -> None:
    values = sample(50, 70)
    fired = np.random.default_rng(1).random(values.shape) < 0.3
    for given in (fired, np.asfortranarray(fired)):
        (one, _), (other, _) = both_ways(values, given, fires, without)
        assert is_same(one, other)
        assert (one.fired == (fired.sum(0) if fires == "gate" else -1)).all()


def test_the_layout_in_memory_does_not_matter() -> None:
    values = sample(41, 67)
    wide = np.zeros((82, 90), np.float32)
    wide[::2, 5:72] = values
    expected = chunk_statistics(values, None, "positive")
    for given in (np.asfortranarray(values), wide[::2, 5:72], values[::-1][::-1]):
        assert is_same(chunk_statistics(given, None, "positive"), expected)
    backwards = chunk_statistics(values[::-1], None, "positive")
    np.testing.assert_allclose(backwards.m4, expected.m4, rtol=1e-12)
    assert same_bits(backwards.maximum, expected.maximum)


def test_parts_merge_to_the_same_bits() -> None:
    rng = np.random.default_rng(5)
    n, other_n = rng.integers(0, 4, (2, 200))
    parts, others = rng.normal(size=(2, 4, 200)) * 10.0 ** rng.integers(-20, 20, (2, 4, 200))
    parts[:, n == 0] = others[:, other_n == 0] = 0.0
    parts[0, :3] = np.inf, -np.inf, np.nan
    with np.errstate(all="ignore"):
        expected = merged_moments(n, tuple(parts), other_n, tuple(others))
    for found, wanted in zip(kernels.merge(n, tuple(parts), other_n, tuple(others)), expected, strict=True):
        assert same_bits(found, wanted)


@pytest.mark.parametrize("fires", ["positive", "gate", "scale"])
@pytest.mark.parametrize("extra", [[], AWKWARD, [*AWKWARD, *NOT_FINITE]], ids=["plain", "awkward", "not finite"])
@pytest.mark.parametrize("neurons", [2, 64, 150])
def test_batches_of_prompts_are_recorded_to_the_same_bits(
    neurons: int, extra: list[float], fires: str, without: pytest.MonkeyPatch
) -> None:
    """All that is kept of them, from prompts with and without position 0, of one token, of a block's and longer."""
    sizes = [1, 1, 4, 2, 40, 3, 200, 1, 17, 1, 5, 129, *[1, 2] * 9]
    values = sample(sum(sizes), neurons, extra)
    small = np.abs(values) < 9
    values[small] = np.round(values[small], 1)  # many tie
    fired = np.random.default_rng(1).random(values.shape) < 0.3 if fires == "gate" else None
    firsts = np.cumsum([0, *sizes[:-1]]).tolist()
    told = [
        Prompt(i, f"concept {i % 11}", "", 70 + first, max(0, size - i % 4), size)
        for i, (first, size) in enumerate(zip(firsts, sizes, strict=True))
    ]
    at_start = [i % 5 != 2 for i in range(len(sizes))]
    found = []
    for loops, step in ((_kernels, len(told)), (_kernels, 4), (None, 7)):
        without.setattr(kernels, "_kernels", loops)
        layer, means = LayerStatistics(neurons, fires), []
        for i in range(0, len(told), step):
            part, begin = told[i : i + step], told[i].first_token
            rows = slice(begin - 70, part[-1].first_token + part[-1].tokens - 70)
            prompts = PromptRows.of(part, at_start[i : i + step], begin)
            with np.errstate(all="ignore"):
                means.append(layer.add(prompts, values[rows], None if fired is None else fired[rows]))
            assert len(means[-1]) == len(prompts.means()[1])
        assert layer.extremes is not None
        found.append((np.concatenate(means), layer))
    for (means, one), (other_means, other) in zip(found[:-1], found[1:], strict=True):
        assert same_bits(means, other_means)
        assert is_same(one.groups()[False], other.groups()[False]) and is_same(one.groups()[True], other.groups()[True])
        assert list(one.concepts()) == list(other.concepts())
        for name, concept in one.concepts().items():
            for field in ConceptStatistics.__dataclass_fields__:
                assert same_bits(getattr(concept, field), getattr(other.concepts()[name], field))
        for kind in ("top", "min"):
            for a, b in zip(one.extremes.get(kind), other.extremes.get(kind), strict=True):
                assert same_bits(a, b)
        for first, counted in one.histograms().items():
            assert same_bits(counted, other.histograms()[first])


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("neurons", [1, 16, 37])
def test_blocks_and_their_digest_are_the_same(neurons: int, gate: bool, without: pytest.MonkeyPatch) -> None:
    layer = Layer(3, "mlp", 3, "x", neurons, "silu", "gate" if gate else "positive")
    values = sample(2 * BLOCK + 77, neurons, [*AWKWARD, *NOT_FINITE])
    fired = np.random.default_rng(2).random(values.shape) < 0.3 if gate else None
    found = []
    for loops, laid in ((_kernels, np.asarray), (None, np.asarray), (_kernels, np.ascontiguousarray)):
        without.setattr(kernels, "_kernels", loops)
        buffer, start, batches = BlockBuffer(layer, 11), 0, []
        for size in (1, 40, 16, BLOCK, 0, len(values) - BLOCK - 57):
            part = slice(start, start + size)
            batches += buffer.add(laid(values[part].T), None if fired is None else laid(fired[part].T))
            start += size
        batches += buffer.rest(final=False)
        found.append((batches, buffer.digest))
    assert found[0] == found[1] == found[2]
    whole = values_digest(3, np.arange(neurons, dtype=np.int32), 11, values.T, None if fired is None else fired.T)
    assert found[0][1] == whole
    stored = b"".join(found[0][0][i].column("values")[0].as_py() for i in range(len(found[0][0])))
    assert stored == values[:, 0].astype(">f4").tobytes()


@pytest.mark.parametrize(("tokens", "neurons"), [*SHAPES, (BLOCK, 3)])
def test_rows_are_summed_as_their_digest_defines_it(tokens: int, neurons: int, without: pytest.MonkeyPatch) -> None:
    """In whole numbers of Python, of arrays with and without gaps."""
    rng = np.random.default_rng(tokens)
    wide = np.repeat(sample(tokens, neurons, [*AWKWARD, *NOT_FINITE]).T, 2, axis=0)
    values, fired = wide[::2], rng.random(wide.shape)[::2] < 0.3
    of_token, of_firing = rng.integers(0, 2**64, (2, tokens), np.uint64)
    bits = values.view(np.uint32).tolist()
    for flags in (None, fired, np.asfortranarray(fired)):
        expected = [
            sum(
                bit * number + (0 if flags is None or not flags[i, t] else int(of_firing[t]))
                for t, (bit, number) in enumerate(zip(row, of_token.tolist(), strict=True))
            )
            % 2**64
            for i, row in enumerate(bits)
        ]
        assert kernels.row_sums(values, flags, of_token, of_firing).tolist() == expected
    neuron, digests = np.arange(neurons, dtype=np.int32), []
    for loops in (_kernels, None):
        without.setattr(kernels, "_kernels", loops)
        digests.append(values_digest(2, neuron, 9, values, fired))
    assert digests[0] == digests[1]


WRONG = {
    "tokens": lambda a: a["values"][:0],
    "one axis": lambda a: a["values"][0],
    "float64": lambda a: a["values"].astype(np.float64),
    "columns": lambda a: np.asfortranarray(a["values"]),
    "fewer neurons": lambda a: np.ascontiguousarray(a["values"][:, :-1]),
    "no array": lambda a: None,
}


@pytest.mark.parametrize("wrong", list(WRONG))
def test_a_wrong_array_is_refused_and_nothing_is_read(wrong: str) -> None:
    values = sample(4, 20)
    given = WRONG[wrong]({"values": values})
    sums, low, count = np.zeros((5, 20)), np.zeros(20, np.float32), np.zeros(20, np.int64)
    with pytest.raises((ValueError, TypeError)):
        _kernels.chunk(given, None, sums, low, low.copy(), count, None, kernels.BIN_OF_KEY, 32)
    assert not sums.any()


def test_outputs_and_keys_have_to_fit() -> None:
    values = sample(4, 20)
    sums, low, count = np.zeros((5, 20)), np.zeros(20, np.float32), np.zeros(20, np.int64)
    counts = np.zeros((20, 99), np.int64)
    keys = kernels.BIN_OF_KEY
    right = [values, None, sums, low, low.copy(), count, counts, keys, 32]
    _kernels.chunk(*right)
    for place, wrong in (
        (1, np.zeros((4, 19), np.uint8)),
        (2, np.zeros((4, 20))),
        (2, np.zeros((5, 40))[:, ::2]),
        (3, np.zeros(19, np.float32)),
        (5, np.zeros(20, np.int32)),
        (6, np.zeros((19, 99), np.int64)),
        (6, np.zeros((20, 98), np.int64)),  # a key's bin lies beyond it
        (7, keys[:-1]),
        (7, keys - 1),
        (8, 0),
    ):
        with pytest.raises(ValueError):
            _kernels.chunk(*right[:place], wrong, *right[place + 1 :])
    frozen = sums.copy()
    frozen.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        _kernels.chunk(values, None, frozen, *right[3:])
    with pytest.raises(ValueError):
        _kernels.lay_out(values, np.zeros((20, 5), np.uint32), np.zeros(4, np.uint64), np.zeros(20, np.uint64))
    of_token, of_row = np.zeros(20, np.uint64), np.zeros(4, np.uint64)
    _kernels.sum_rows(values, of_token, of_row)
    for given in (
        (values.astype(np.float64), of_token, of_row),
        (values, of_token[:-1], of_row),
        (values, of_token, of_row[:-1]),
        (values, of_token, of_row.astype(np.uint32)),
        (np.asfortranarray(values), of_token, of_row),
    ):
        with pytest.raises(ValueError):
            _kernels.sum_rows(*given)
    with pytest.raises(ValueError):
        _kernels.sum_flags(values, of_token, of_row)
    with pytest.raises(ValueError):
        _kernels.merge(count, count, *[np.zeros(20)] * 7, np.zeros(19), np.zeros((4, 20)))


def test_prompts_outside_the_arrays_are_refused() -> None:
    values, neurons, kept = sample(6, 20), 20, 3
    right = {
        "values": values,
        "fired": None,
        "prompts": np.array([[0, 1, 4, 3, 0, 1, 0], [4, 4, 6, 6, 3, 0, 4]]),
        "moments": np.zeros((10, neurons)),
        "extremes": np.zeros((4, neurons), np.float32),
        "tallies": np.zeros((4, neurons), np.int64),
        "counts": np.zeros((neurons, 99), np.int64),
        "counts at position 0": np.zeros((neurons, 99), np.int64),
        "keys": kernels.BIN_OF_KEY,
        "means": np.zeros((5, neurons), np.float32),
        "tallies of concepts": np.zeros((4, neurons), np.int64),
        "means of concepts": np.zeros((2, neurons)),
        "maxima of concepts": np.zeros((2, neurons), np.float32),
        "examples": np.zeros((2 * neurons, kept), np.int64),
        "scores": np.zeros((2 * neurons, kept), np.float32),
        "rows": 32,
    }
    _kernels.prompts(*right.values())
    assert (right["tallies"][[0, 2]] == [[5], [1]]).all()
    for column, wrong in (
        (0, -1),
        (0, 4),
        (1, 2),
        (1, 7),
        (2, 7),
        (2, 0),
        (3, 5),
        (3, 0),
        (4, -1),
        (4, 3),
        (5, 2),
        (5, -1),
    ):
        rows = right["prompts"].copy()
        rows[0, column] = wrong
        with pytest.raises(ValueError, match="row 0 does not fit"):
            _kernels.prompts(*{**right, "prompts": rows}.values())
    for name, array in right.items():
        if isinstance(array, np.ndarray) and name != "keys":
            for wrong in (array[:, :-1], array.astype(np.float16), array[0], np.repeat(array, 2, axis=1)[:, ::2]):
                if name == "values" and wrong.shape == array.shape[:1]:
                    continue
                with pytest.raises(ValueError):
                    _kernels.prompts(*{**right, name: wrong}.values())
    with pytest.raises(ValueError):
        _kernels.prompts(*{**right, "rows": 0}.values())
    with pytest.raises(TypeError):
        _kernels.prompts(*list(right.values())[:-1])


def test_parts_that_do_not_fit_the_prompts_are_refused() -> None:
    neurons, kept = 20, 3
    right = {
        "first": sample(1, neurons),
        "first fired": np.zeros((1, neurons), np.uint8),
        "moments of parts": np.ones((2 * 5, neurons)),
        "extremes of parts": np.ones((2 * 2, neurons), np.float32),
        "places": np.zeros((2 * 2, neurons), np.int32),
        "fired": np.zeros((2, neurons), np.int32),
        "prompts": np.array([[0, 1, 4, 3, 0, 1, 0], [4, 4, 6, 6, 3, 0, 4]]),
        "moments": np.zeros((10, neurons)),
        "extremes": np.zeros((4, neurons), np.float32),
        "tallies": np.zeros((4, neurons), np.int64),
        "tallies of concepts": np.zeros((4, neurons), np.int64),
        "means of concepts": np.zeros((2, neurons)),
        "maxima of concepts": np.zeros((2, neurons), np.float32),
        "examples": np.zeros((2 * neurons, kept), np.int64),
        "scores": np.zeros((2 * neurons, kept), np.float32),
    }
    _kernels.parts(*right.values())
    assert (right["tallies"][[0, 2]] == [[5], [1]]).all()
    for column, wrong in ((0, -1), (0, 4), (1, 2), (1, 7), (2, 0), (2, 1 << 31), (5, 2), (5, -1)):
        rows = right["prompts"].copy()
        rows[0, column] = wrong
        with pytest.raises(ValueError, match="row 0 does not fit"):
            _kernels.parts(*{**right, "prompts": rows}.values())
    for rows in (
        right["prompts"][:1],
        right["prompts"][[0, 0]],
        np.array([[0, 1, 1, 1, 0, 0, 0], [4, 4, 6, 6, 3, 0, 4]]),
    ):
        with pytest.raises(ValueError, match="not as many"):
            _kernels.parts(*{**right, "prompts": rows}.values())
    with pytest.raises(ValueError, match="places"):
        _kernels.parts(*{**right, "places": None}.values())
    for name, array in right.items():
        for wrong in (
            array[:, :-1],
            array.astype(np.float16),
            array[0],
            np.repeat(array, 2, axis=1)[:, ::2],
            array[:-1],
        ):
            if name == "prompts" and wrong is array:
                continue
            with pytest.raises(ValueError):
                _kernels.parts(*{**right, name: wrong}.values())
    with pytest.raises(TypeError):
        _kernels.parts(*list(right.values())[:-1])

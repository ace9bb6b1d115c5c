"""Statistics of tensors, as on a GPU: those of the CPU's loops, each prompt's its own, with few operations and room."""

import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nfinspect.capturing import tensor_statistics
from nfinspect.capturing.batch import PromptRows
from nfinspect.capturing.statistics import LayerStatistics
from nfinspect.capturing.tensor_statistics import Parts, begin
from nfinspect_store import kernels
from nfinspect_store.histogram import BINS
from nfinspect_store.statistics import ConceptStatistics, NeuronStatistics
from nfinspect_store.types import Prompt
from tests.waits import Waits

SIZES = (41, 1, 28, 2, 33, 300, 1, 64, 65, 3)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(params=[None, 2**13], ids=["in one piece", "in many"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is not None:
        monkeypatch.setattr(tensor_statistics, "PIECE", request.param)


def rows_of(sizes: Sequence[int], first: int = 0, token: int = 0) -> PromptRows:
    """Prompts of all kinds from the first one's number on: read, written, half of each; some without position 0."""
    starts = token + np.cumsum([0, *sizes[:-1]])
    told = [
        Prompt(i, f"concept {i % 3}", "", int(start), (size, 0, size // 2, max(1, size - 3))[i % 4], size)
        for i, (size, start) in enumerate(zip(sizes, starts, strict=True), first)
    ]
    return PromptRows.of(told, [i % 5 != 2 for i in range(first, first + len(sizes))], token)


def sample(tokens: int, neurons: int, seed: int = 0) -> NDArray[np.float32]:
    """Neurons of all kinds: tiny, large, far from zero, sparse, constant; with ties."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(tokens, neurons)) * np.geomspace(1e-6, 1e3, neurons)
    values[:, 1::7] = np.maximum(values[:, 1::7], 0)
    values[:, 2::7] = 1000.0 + rng.normal(size=values[:, 2::7].shape)
    values[:, 3::7] = -0.1
    values[:, 4::7] = np.round(rng.normal(size=values[:, 4::7].shape), 1)
    values[:, 5::7] = 0.0
    return values.astype(np.float32)


def parts_of(prompts: PromptRows, values: Tensor, fired: Tensor | None = None) -> tuple[Parts, list[Tensor]]:
    counts = [torch.zeros((values.shape[1], BINS), dtype=torch.int64) for _ in range(2)]
    return begin(prompts, values, fired, (counts[0], counts[1]), counts_firing=True, finds=True)(), counts


@pytest.mark.parametrize("fires", ["positive", "gate", "scale"])
@pytest.mark.parametrize("dtype", list(DTYPES))
@pytest.mark.parametrize("neurons", [7, 300])
def test_tensors_have_the_statistics_of_arrays(neurons: int, dtype: str, fires: str, pieces: None) -> None:
    given = torch.from_numpy(sample(sum(SIZES), neurons)).to(DTYPES[dtype])
    values = given.float().numpy()
    fired = np.random.default_rng(1).random(values.shape) < 0.3 if fires == "gate" else None
    arrays, tensors = (LayerStatistics(neurons, fires) for _ in range(2))
    prompts = rows_of(SIZES)
    means = arrays.add(prompts, values, fired)
    found = tensors.add(prompts, given, None if fired is None else torch.from_numpy(fired))
    size = np.abs(values).max(0)
    assert (np.abs(found - means) <= 2e-7 * size).all() and found.shape == means.shape
    for first, counted in arrays.histograms().items():
        np.testing.assert_array_equal(tensors.histograms()[first], counted)
    for first, group in arrays.groups().items():
        told = tensors.groups()[first]
        for name in ("n", "fired", "minimum", "maximum"):
            np.testing.assert_array_equal(getattr(told, name), getattr(group, name), name)
        assert (np.abs(told.mean - group.mean) <= 1e-14 * size).all()
        np.testing.assert_allclose(told.sum_abs, group.sum_abs, rtol=1e-13)
        assert_alike(told, group, 1e-12)
    assert arrays.extremes is not None and tensors.extremes is not None
    np.testing.assert_array_equal(tensors.extremes.token_idx, arrays.extremes.token_idx)
    np.testing.assert_array_equal(tensors.extremes.scores, arrays.extremes.scores)
    for name, concept in arrays.concepts().items():
        told_of = tensors.concepts()[name]
        for field in ("n", "fired", "maximum"):
            np.testing.assert_array_equal(getattr(told_of, field), getattr(concept, field))
        assert (np.abs(told_of.mean - concept.mean) <= 1e-14 * size).all()


def assert_alike(one: NeuronStatistics, other: NeuronStatistics, tolerance: float) -> None:
    """Their moments. A third one may cancel: what rounding does to it goes with the others' sizes."""
    np.testing.assert_allclose(one.m2, other.m2, rtol=tolerance)
    np.testing.assert_allclose(one.m4, other.m4, rtol=tolerance)
    assert (np.abs(one.m3 - other.m3) <= tolerance * np.sqrt(other.m2 * other.m4)).all()


HARD = {
    "far from zero": lambda rng, n: 1e3 + 1e-3 * rng.standard_normal(n),
    "the first far from the others": lambda rng, n: np.append(1e4, 1.0 + 1e-2 * rng.standard_normal(n - 1)),
    "one far from the others": lambda rng, n: np.append(rng.standard_normal(n - 1), -1e6),
    "tiny": lambda rng, n: 1e-20 * rng.standard_normal(n),
    "huge": lambda rng, n: 1e30 * rng.standard_normal(n),
    "heavy tails": lambda rng, n: rng.standard_cauchy(n),
    "rare": lambda rng, n: np.where(rng.random(n) < 0.01, rng.standard_normal(n), 0.0),
}


@pytest.mark.parametrize("tokens", [2, 31, 33, 576, 5000])
def test_moments_are_right_to_rounding_wherever_the_values_are(tokens: int) -> None:
    """Against 64 bits of mantissa: n roundings of the sums are allowed, and of the mean some of the largest value."""
    rng = np.random.default_rng(tokens)
    values = np.stack([draw(rng, tokens) for draw in HARD.values()], 1).astype(np.float32)
    prompts = PromptRows.of([Prompt(0, "c", "", 0, tokens, tokens)], [False], 0)
    mean, m2, m3, m4, sum_abs = parts_of(prompts, torch.from_numpy(values))[0].moments[0]
    exact = values.astype(np.longdouble)
    apart = exact - exact[0]
    deviation = apart - apart.mean(0)
    epsilon = np.finfo(np.float64).eps
    allowed = epsilon * (tokens + 2)
    assert (np.abs(mean - exact.mean(0)) <= 4 * epsilon * np.abs(exact).max(0)).all()
    np.testing.assert_allclose(sum_abs, np.abs(exact).sum(0).astype(np.float64), rtol=allowed)
    for power, found in ((2, m2), (3, m3), (4, m4)):
        size = (np.abs(deviation) ** power).sum(0)
        assert (np.abs(found - (deviation**power).sum(0)) <= 16 * allowed * size).all(), power
        assert (found >= 0).all() or power == 3


def test_a_neuron_that_never_varies_has_its_value_as_mean_and_no_variance() -> None:
    values = torch.tensor([0.1, -7.3e-5, 1e30, 0.0]).expand(200, 4).contiguous()
    parts, _ = parts_of(rows_of([100, 97, 3]), values)
    for moments in parts.moments:
        np.testing.assert_array_equal(moments[0], values[0].double().numpy())
        assert not moments[1:4].any()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("neurons", [5, 300])
def test_a_prompt_has_the_same_statistics_whatever_else_is_in_its_batch(
    neurons: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit: of the same prompts alone, in batches, and in pieces of other sizes."""
    values = torch.from_numpy(sample(sum(SIZES), neurons, 3)).to(DTYPES[dtype])
    fired = torch.from_numpy(np.random.default_rng(2).random(values.shape) < 0.3)
    found = []
    for step, piece in ((len(SIZES), 2**22), (len(SIZES), 2**12), (3, 2**22), (1, 2**22), (1, 2**14)):
        monkeypatch.setattr(tensor_statistics, "PIECE", piece)
        layer, means = LayerStatistics(neurons, "gate"), []
        for i in range(0, len(SIZES), step):
            before, size = sum(SIZES[:i]), sum(SIZES[i : i + step])
            rows = slice(before, before + size)
            means.append(layer.add(rows_of(SIZES[i : i + step], i, before), values[rows], fired[rows]))
        found.append((np.concatenate(means), layer))
    (means, one), *others = found
    for other_means, other in others:
        np.testing.assert_array_equal(means, other_means)
        assert_same(one, other)


def assert_same(one: LayerStatistics, other: LayerStatistics) -> None:
    for first, group in one.groups().items():
        for field in NeuronStatistics.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(group, field), getattr(other.groups()[first], field), field)
        np.testing.assert_array_equal(one.histograms()[first], other.histograms()[first])
    assert list(one.concepts()) == list(other.concepts())
    for name, concept in one.concepts().items():
        for field in ConceptStatistics.__dataclass_fields__:
            np.testing.assert_array_equal(getattr(concept, field), getattr(other.concepts()[name], field), field)
    assert one.extremes is not None and other.extremes is not None
    np.testing.assert_array_equal(one.extremes.token_idx, other.extremes.token_idx)
    np.testing.assert_array_equal(one.extremes.scores, other.extremes.scores)


@pytest.mark.skipif(not kernels.compiled(), reason="built only where there is a C compiler")
@pytest.mark.parametrize("fires", ["positive", "gate", "scale"])
@pytest.mark.parametrize("neurons", [2, 64, 150])
def test_prompts_are_merged_to_the_same_bits_with_and_without_the_compiled_loops(
    neurons: int, fires: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.from_numpy(sample(2 * sum(SIZES), neurons, 5))
    fired = torch.from_numpy(np.random.default_rng(2).random(values.shape) < 0.3) if fires == "gate" else None
    found = []
    for loops in (kernels._kernels, None):
        monkeypatch.setattr(kernels, "_kernels", loops)
        layer = LayerStatistics(neurons, fires)
        for i in range(2):
            rows = slice(i * sum(SIZES), (i + 1) * sum(SIZES))
            prompts = rows_of(SIZES, 10 * i, i * sum(SIZES))
            layer.add(prompts, values[rows], None if fired is None else fired[rows])
        found.append(layer)
    assert_same(*found)


class Operations(TorchDispatchMode):
    """A context manager that counts what a GPU would be asked to do, and the most bytes that are held at once."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.held = self.most = 0
        self._users: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        alias = func._schema.returns[0].alias_info if func._schema.returns else None
        if alias is None or alias.is_write:  # no view
            self.names[func.overloadpacket.__name__] += 1
        for tensor in tensors_in(out):
            self._hold(tensor, made=alias is None)
        return out

    def _hold(self, tensor: Tensor, *, made: bool) -> None:
        storage = tensor.untyped_storage()
        place, size = storage.data_ptr(), storage.nbytes()
        if not made and not self._users[place]:  # a view of what was there before
            return
        self.held += size * (not self._users[place])
        self.most = max(self.most, self.held)
        self._users[place] += 1
        weakref.finalize(tensor, self._let_go, place, size)

    def _let_go(self, place: int, size: int) -> None:
        self._users[place] -= 1
        self.held -= size * (not self._users[place])


def tensors_in(out: Any) -> Iterator[Tensor]:
    if isinstance(out, Tensor):
        yield out
    elif isinstance(out, tuple | list):
        for one in out:
            yield from tensors_in(one)


def asked(sizes: Sequence[int], neurons: int = 8) -> tuple[Counter[str], Counter[str]]:
    """The operations and the waits of one batch."""
    layer = LayerStatistics(neurons, "gate")
    values, fired = torch.randn(sum(sizes), neurons), torch.rand(sum(sizes), neurons) < 0.3
    prompts = rows_of(sizes)
    with Operations() as operations:
        layer.begin(prompts, values, fired)
    with Waits() as waits:
        layer.add(rows_of(sizes, token=sum(sizes)), values, fired)
    return operations.names, +waits.count


def test_a_gpu_is_asked_for_as_few_things_however_many_prompts_there_are() -> None:
    asked([5, 5])  # what is made once
    few, waits = asked([70, 9])
    many, waits_of_many = asked([3 + (17 * i) % 90 for i in range(32)])
    assert many == few and many.total() < 90
    # One transfer to the host; where the prompts are is sent from pinned memory on a GPU, and not waited for.
    assert waits == waits_of_many == {"cpu": 1, "numpy": 1, "to": 1}


@pytest.mark.parametrize("sizes", [[4000], [400] * 10, [20] * 200], ids=["one", "ten", "short"])
def test_memory_beyond_the_values_and_results_is_that_of_a_piece(
    sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_statistics, "PIECE", 2**19)
    neurons, layer = 512, LayerStatistics(512, "gate")
    values = torch.randn(sum(sizes), neurons)
    fired = values > 0.5
    results = len(sizes) * neurons * 140
    layer.add(rows_of(sizes), values, fired)  # what is made once
    with Operations() as operations:
        layer.add(rows_of(sizes), values, fired)
    assert operations.most < 20 * 2**19 + results
    assert operations.held == 0

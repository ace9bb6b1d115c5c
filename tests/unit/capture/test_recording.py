"""What a run holds depends on its prompts and values alone: not on batches, and not on when segments ended."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from recorded import LAYERS, make_arrays, record_arrays
from test_examples import by_definition

from nfinspect.analysis.neuron import neuron_detail
from nfinspect.capturing.arrays import array_info
from nfinspect.capturing.recorder import ON_THE_WAY, LayerValues, RecordedPrompt, Recorder
from nfinspect.capturing.transfer import Array, start_copy
from nfinspect_store import kernels
from nfinspect_store.addresses import Address
from nfinspect_store.histogram import BINS, bin_of
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Keep, Layer, Precision, utc_now
from nfinspect_store.writer import RunWriter

RNG = np.random.default_rng(6)
ARRAYS = make_arrays([1, *RNG.integers(1, 40, 22).tolist(), 1], seed=2)  # 24 prompts; the first and last of one token
CONTENTS = ("layers", "prompts", "tokens", "activations", "histograms", "examples", "prompt_means", "statistics")
CONTENTS += ("concept_statistics", "neurons", "layer_health")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_arrays(tmp_path_factory.mktemp("whole") / "run.duckdb", ARRAYS, batch=len(ARRAYS.prompts))


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, of which only statistics are kept."""
    path = tmp_path_factory.mktemp("statistics") / "run.duckdb"
    return record_arrays(path, ARRAYS, batch=len(ARRAYS.prompts), keep="stats")


@pytest.mark.parametrize("keep", ["all", "stats"])
@pytest.mark.parametrize(
    ("batch", "segment"),
    [
        (1, None),
        (7, 2),
        (5, 3),
        *(pytest.param(batch, segment, marks=pytest.mark.slow) for batch, segment in ((1, 1), (3, None), (24, None))),
    ],
)
def test_batches_and_segments_change_nothing(
    batch: int, segment: int | None, keep: Keep, whole: Path, statistics: Path, tmp_path: Path
) -> None:
    path = record_arrays(tmp_path / "run.duckdb", ARRAYS, batch=batch, segment=segment, keep=keep)
    with RunFile.open(whole if keep == "all" else statistics) as a, RunFile.open(path) as b:
        assert_same_contents(a, b)


@pytest.mark.parametrize("keep", ["all", "stats"])
def test_a_run_written_without_compiled_loops_is_the_same(
    keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not kernels.compiled():
        pytest.skip("the loops were not built: no C compiler")
    path = record_arrays(tmp_path / "compiled.duckdb", ARRAYS, keep=keep)
    monkeypatch.setattr(kernels, "_kernels", None)
    without = record_arrays(tmp_path / "without.duckdb", ARRAYS, keep=keep)
    assert_identical(path, without)


@pytest.mark.parametrize(("keep", "precision"), [("all", "float32"), ("all", "int8"), ("stats", "float32")])
def test_any_number_of_writers_gives_the_same_run(keep: Keep, precision: Precision, tmp_path: Path) -> None:
    one, several = (
        record_arrays(tmp_path / f"{n}.duckdb", ARRAYS, keep=keep, precision=precision, segment=2, writers=n)
        for n in (1, 3)
    )
    assert_identical(one, several)


@pytest.mark.parametrize(
    ("dtype", "writers", "keep"),
    [
        (torch.float32, 1, "all"),
        (torch.float32, 3, "stats"),
        (torch.bfloat16, 1, "stats"),
        (torch.bfloat16, 3, "all"),
        pytest.param(torch.float32, 1, "stats", marks=pytest.mark.slow),
        pytest.param(torch.float32, 3, "all", marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, 1, "all", marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, 3, "stats", marks=pytest.mark.slow),
    ],
)
def test_tensors_as_on_a_gpu_give_the_run_of_their_values(
    keep: Keep, writers: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    values = [{k: torch.from_numpy(v).to(dtype).float().numpy() for k, v in one.items()} for one in ARRAYS.values]
    arrays = replace(ARRAYS, values=values)
    plain = record_arrays(tmp_path / "plain.duckdb", arrays, keep=keep, segment=2)
    gpu = record_arrays(tmp_path / "gpu.duckdb", arrays, keep=keep, segment=2, writers=writers, dtype=dtype)
    with RunFile.open(plain) as a, RunFile.open(gpu) as b:
        for table in ("layers", "prompts", "tokens", "activations", "histograms", "examples"):
            rows = f"SELECT * FROM {table} ORDER BY ALL"
            assert a.sql(rows).fetchall() == b.sql(rows).fetchall(), table
        rows = "SELECT min, max, firing_rate, class, mean, std FROM neurons ORDER BY site, layer, neuron"
        for one, other in zip(a.sql(rows).fetchall(), b.sql(rows).fetchall(), strict=True):
            assert one[:4] == other[:4] and one[4:] == pytest.approx(other[4:], rel=1e-9, abs=1e-12, nan_ok=True)


def test_a_disk_that_is_slower_than_the_gpu_slows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are copied only as fast as they are written, ON_THE_WAY at a time, and none is lost."""
    layers = [Layer(i, "mlp", i, f"h.{i}.mlp", 4, "relu", "positive") for i in range(4 * ON_THE_WAY)]
    writer = RunWriter.create(tmp_path / "run.duckdb", array_info("run", 0), layers, writers=2)
    begun, written, most = 0, 0, 0
    enough = threading.Event()

    def begin(array: Array) -> Callable[[], NDArray[np.float32]]:
        nonlocal begun, most
        begun += 1
        most = max(most, begun - written)
        if begun == ON_THE_WAY:
            enough.set()
        return start_copy(array)

    def put(*args: object) -> None:
        nonlocal written
        assert enough.wait(60)
        original(*args)
        written += 1

    original = writer.put
    monkeypatch.setattr("nfinspect.capturing.recorder.start_copy", begin)
    monkeypatch.setattr(writer, "put", put)
    recorder = Recorder(writer, 0, torch.device("cuda"), writers=1)
    sizes = ARRAYS.prompts[1].token_ids
    values = torch.arange(len(sizes) * 4 * len(layers)).reshape(len(layers), -1, 4).float()
    recorder.add([ARRAYS.prompts[1]], {x.layer_id: LayerValues(values[x.layer_id], None) for x in layers})
    recorder.commit({"status": "complete", "finished_at": utc_now()}, final=True)
    writer.close()
    assert most == ON_THE_WAY and written == begun == len(layers)
    with RunFile.open(tmp_path / "run.duckdb") as run:
        total = run.sql("SELECT sum(value) FROM activations").fetchall()[0][0]
    assert total == values.double().sum().item()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_what_goes_wrong_in_one_of_several_writers_ends_the_recording(device: str, tmp_path: Path) -> None:
    writer = RunWriter.create(tmp_path / "run.duckdb", array_info("run", 0), LAYERS, writers=2)
    recorder = Recorder(writer, 0, torch.device(device), writers=2)
    values = {k: LayerValues(v, ARRAYS.fired[0].get(k)) for k, v in ARRAYS.values[0].items()}
    broken = {**values, LAYERS[-1].layer_id: LayerValues(np.zeros((3, 1), np.float32), None)}
    with pytest.raises(ValueError, match="shape|broadcast|size"):
        recorder.add([ARRAYS.prompts[0]], broken)
    writer.discard()
    assert not list(tmp_path.iterdir())


def assert_identical(one: Path, other: Path) -> None:
    """To the last bit, in every table and its digest."""
    with RunFile.open(one) as a, RunFile.open(other) as b:
        for table in (*CONTENTS, "blocks"):
            rows = f"SELECT * FROM {table} ORDER BY ALL"
            assert a.sql(rows).fetchall() == b.sql(rows).fetchall(), table
        digests = "SELECT * FROM digests WHERE part != 'run' ORDER BY ALL"
        assert a.sql(digests).fetchall() == b.sql(digests).fetchall()


def assert_same_contents(a: RunFile, b: RunFile) -> None:
    for table in CONTENTS:
        rows = f"SELECT * FROM {table} ORDER BY ALL"
        assert a.sql(rows).fetchall() == b.sql(rows).fetchall(), table
    if a.has_values:
        fired = [np.zeros((run.tokens, LAYERS[1].neurons), bool) for run in (a, b)]
        for run, array in zip((a, b), fired, strict=True):
            for rows in run.blocks(LAYERS[1], fired=True):
                assert rows.fired is not None
                array[rows.tokens, rows.neuron] = rows.fired.T
        np.testing.assert_array_equal(*fired)


def test_reopening_in_the_middle_changes_nothing(whole: Path, tmp_path: Path) -> None:
    """What a segment left is all that a new process needs."""
    path = tmp_path / "run.duckdb"
    writer = RunWriter.create(path, array_info("run", 0), LAYERS)
    for i, prompt in enumerate(ARRAYS.prompts):
        if i % 11 == 10:
            writer.close()
            writer = RunWriter.reopen(path)
        if i % 11 in (0, 10):
            recorder = Recorder(writer, 0, torch.device("cpu"))
        assert recorder.prompts == i
        gates = ARRAYS.fired[i]
        recorder.add([prompt], {k: LayerValues(v.copy(), gates.get(k)) for k, v in ARRAYS.values[i].items()})
        if i % 11 in (9, 10):
            recorder.commit({"status": "capturing"}, final=False)
    recorder.commit({"status": "complete", "finished_at": utc_now()}, final=True)
    writer.close()
    with RunFile.open(whole) as a, RunFile.open(path) as b:
        assert_same_contents(a, b)


def test_examples_are_those_of_the_definition(whole: Path) -> None:
    with RunFile.open(whole) as run:
        random = set()
        for layer in LAYERS:
            values = [prompt[layer.layer_id] for prompt in ARRAYS.values]
            every = ARRAYS.layer(layer.layer_id)
            for neuron in range(layer.neurons):
                examples = run.examples(layer.site, layer.layer, neuron)
                for kind, sign in (("top", 1), ("min", -1)):
                    found = [(e.token_idx, e.value) for e in examples if e.kind == kind]
                    assert found == by_definition(values, neuron, sign)
                drawn = [(e.token_idx, e.value) for e in examples if e.kind == "random"]
                assert [value for _, value in drawn] == [every[token, neuron] for token, _ in drawn]
                random.add(tuple(token for token, _ in drawn))
        assert len(random) == 1  # one sample for all neurons


def test_statistics_and_histograms_are_those_of_the_values(whole: Path) -> None:
    fired_by_gate = np.concatenate([f[1] for f in ARRAYS.fired])
    with RunFile.open(whole) as run:
        for layer in LAYERS:
            values = ARRAYS.layer(layer.layer_id)
            for skip_first in (False, True):
                chosen = ~ARRAYS.first if skip_first else np.ones(len(values), bool)
                part = values[chosen].astype(np.float64)
                found = run.statistics(layer.site, skip_first=skip_first, layer=layer.layer)
                assert found.n.tolist() == [len(part)] * layer.neurons
                np.testing.assert_allclose(found.mean, part.mean(axis=0), rtol=1e-12, atol=1e-14)
                np.testing.assert_allclose(found.std, part.std(axis=0, ddof=1), rtol=1e-12)
                np.testing.assert_allclose(found.mean_abs, np.abs(part).mean(axis=0), rtol=1e-12)
                assert found.minimum.tolist() == part.min(axis=0).tolist()
                assert found.maximum.tolist() == part.max(axis=0).tolist()
                if layer.fires == "scale":
                    assert np.isnan(found.firing_rate).all()
                else:
                    fires = fired_by_gate[chosen] if layer.fires == "gate" else part > 0
                    assert found.fired.tolist() == fires.sum(axis=0).tolist()
                counts = np.stack(
                    [np.bincount(bin_of(values[chosen, j]), minlength=BINS) for j in range(layer.neurons)]
                )
                stored = run.histograms(layer.site, layer.layer, skip_first=skip_first)
                np.testing.assert_array_equal(stored, counts)
                one = run.histogram(layer.site, layer.layer, 2, skip_first=skip_first)
                np.testing.assert_array_equal(one, counts[2])
        whole_site = run.statistics("mlp")
        assert whole_site.mean.shape == (12,)
        np.testing.assert_array_equal(whole_site.mean[5:], run.statistics("mlp", layer=1).mean)


def test_concepts_are_told_alike_with_values_and_without(whole: Path, tmp_path: Path) -> None:
    """A run of all values stores nothing by concept: its values tell it."""
    fired_by_gate = np.concatenate([f[1] for f in ARRAYS.fired])
    stats = record_arrays(tmp_path / "stats.duckdb", ARRAYS, keep="stats")
    with RunFile.open(whole) as kept, RunFile.open(stats) as run:
        assert kept.sql("SELECT count(*) FROM concept_statistics").fetchall() == [(0,)]
        for layer in LAYERS:
            values = ARRAYS.layer(layer.layer_id)
            for neuron in range(layer.neurons):
                by_values, by_table = (
                    neuron_detail(x, Address(layer.layer, neuron, layer.site)).concepts for x in (kept, run)
                )
                for told, stored in zip(by_values, by_table, strict=True):
                    part = values[ARRAYS.concept == told.concept, neuron]
                    np.testing.assert_allclose([told.mean, stored.mean], part.mean(dtype=np.float64), rtol=1e-12)
                    assert (told.concept, told.prompts, told.tokens) == (stored.concept, stored.prompts, stored.tokens)
                    assert told.tokens == len(part) and told.max == stored.max == part.max()
                    if layer.fires == "scale":
                        assert told.firing_rate is not None and stored.firing_rate is None
                    else:
                        gates = fired_by_gate[ARRAYS.concept == told.concept, neuron % 7]
                        rate = gates.mean() if layer.fires == "gate" else (part > 0).mean()
                        assert told.firing_rate == stored.firing_rate == rate


def test_prompt_means_are_those_of_the_selected_tokens(whole: Path) -> None:
    with RunFile.open(whole) as run:
        for selection in ("last", "generated", "all"):
            expected: list[list[np.ndarray]] = []
            indices = []
            for i, prompt in enumerate(ARRAYS.prompts):
                tokens = np.arange(len(prompt.token_ids))
                of = {"all": tokens >= 1, "last": tokens == tokens[-1], "generated": tokens >= prompt.prompt_tokens}[
                    selection
                ]
                of = of & (tokens > 0)  # position 0 never counts
                if of.any():
                    indices.append(i)
                    expected.append([ARRAYS.values[i][k][of].astype(np.float64).mean(axis=0) for k in (0, 1)])
            means = run.prompt_means(selection, "mlp")  # type: ignore[arg-type]
            assert means.prompt_idx.tolist() == indices and len(indices) < len(ARRAYS.prompts)
            assert means.concept.tolist() == [ARRAYS.prompts[i].concept for i in indices]
            wanted = np.stack([np.concatenate(layers) for layers in expected]).astype(np.float32)
            np.testing.assert_allclose(means.values, wanted, rtol=1e-6, atol=1e-7)
            some = run.prompt_means(selection, "mlp", ["tulip"])  # type: ignore[arg-type]
            np.testing.assert_array_equal(some.values, means.values[means.concept == "tulip"])


def test_another_seed_draws_other_examples_and_nothing_else(tmp_path: Path) -> None:
    one = record_arrays(tmp_path / "one.duckdb", ARRAYS, batch=len(ARRAYS.prompts), keep="stats")
    path = record_arrays(tmp_path / "run.duckdb", ARRAYS, batch=len(ARRAYS.prompts), seed=1, keep="stats")
    with RunFile.open(one) as a, RunFile.open(path) as b:
        random = "SELECT * FROM examples WHERE kind = 'random' ORDER BY ALL"
        others = "SELECT * FROM examples WHERE kind <> 'random' ORDER BY ALL"
        assert a.sql(random).fetchall() != b.sql(random).fetchall()
        assert a.sql(others).fetchall() == b.sql(others).fetchall()


def test_many_segments_leave_no_hole(tmp_path: Path) -> None:
    """Each segment writes the statistics anew; what stood behind their old place moves into it at the end."""
    rng = np.random.default_rng(4)
    layers = [Layer(i, "mlp", i, f"h.{i}.mlp", 2048, "relu", "positive") for i in range(2)]
    sizes = {}
    for every in (1, 8):
        path = tmp_path / f"{every}.duckdb"
        writer = RunWriter.create(path, array_info("r", 0), layers)
        recorder = Recorder(writer, 0, torch.device("cpu"))
        for number in range(8):
            if number % every == 0 and number:
                recorder.commit({"status": "capturing"}, final=False)
            values = {x.layer_id: LayerValues(rng.normal(size=(40, 2048)).astype(np.float32), None) for x in layers}
            recorder.add([RecordedPrompt("a", "text", list(range(40)), ["t"] * 40, 40)], values)
        recorder.commit({"status": "complete", "finished_at": utc_now()}, final=True)
        writer.close()
        with RunFile.open(path) as run:
            query = (
                "SELECT free_blocks, total_blocks FROM pragma_database_size() WHERE database_name = current_database()"
            )
            free, total = run.sql(query).fetchall()[0]
            assert free <= 0.02 * total, every
        sizes[every] = path.stat().st_size
    assert sizes[1] < 1.1 * sizes[8]

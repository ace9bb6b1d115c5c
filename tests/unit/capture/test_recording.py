"""What a run holds depends on its prompts and values alone: not on batches, and not on when segments ended."""

from pathlib import Path

import numpy as np
import pytest
from recorded import LAYERS, make_arrays, record_arrays
from test_examples import by_definition

from nfinspect_store.histogram import BINS, bin_of
from nfinspect_store.reader import RunFile

RNG = np.random.default_rng(6)
ARRAYS = make_arrays([1, *RNG.integers(1, 40, 38).tolist(), 1], seed=2)  # 40 prompts; the first and last of one token
EXACT = ("layers", "prompts", "tokens", "blocks", "histograms", "examples", "prompt_means")
ROUNDED = ("statistics", "neurons", "layer_health")
"""Sums in float64, whose last digit depends on the order of adding."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record_arrays(tmp_path_factory.mktemp("whole") / "run.duckdb", ARRAYS, batch=len(ARRAYS.prompts))


@pytest.mark.parametrize(("batch", "segment"), [(1, None), (3, None), (1, 1), (7, 2), (40, None), (5, 3)])
def test_batches_and_segments_change_nothing(batch: int, segment: int | None, whole: Path, tmp_path: Path) -> None:
    path = record_arrays(tmp_path / "run.duckdb", ARRAYS, batch=batch, segment=segment)
    with RunFile.open(whole) as a, RunFile.open(path) as b:
        for table in EXACT:
            rows = f"SELECT * FROM {table} ORDER BY ALL"
            assert a.sql(rows).fetchall() == b.sql(rows).fetchall(), table
        for table in ROUNDED:
            key = "layer_id, concept, first, neuron" if table == "statistics" else "ALL"  # the others begin with theirs
            rows = f"SELECT * FROM {table} ORDER BY {key}"
            pairs = zip(a.sql(rows).fetchall(), b.sql(rows).fetchall(), strict=True)
            assert all(alike(x, y) for one, other in pairs for x, y in zip(one, other, strict=True)), table


def alike(a: object, b: object) -> bool:
    """Equal, or floats that differ in their last digits (sums that are nearly 0: by as much as those of 1 do)."""
    if isinstance(a, float) and isinstance(b, float):
        return bool(np.isclose(a, b, rtol=1e-12, atol=1e-12, equal_nan=True))
    return a == b


def test_reopening_in_the_middle_changes_nothing(whole: Path, tmp_path: Path) -> None:
    """What a segment left is all that a new process needs."""
    import torch

    from nfinspect.capturing.arrays import array_info, utc_now
    from nfinspect.capturing.recorder import LayerValues, Recorder
    from nfinspect_store.writer import RunWriter

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
        for table in EXACT:
            rows = f"SELECT * FROM {table} ORDER BY ALL"
            assert a.sql(rows).fetchall() == b.sql(rows).fetchall(), table


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
            for concept in (None, "tulip", "baseline"):
                for skip_first in (False, True):
                    chosen = np.ones(len(values), bool) if concept is None else ARRAYS.concept == concept
                    chosen = chosen & ~ARRAYS.first if skip_first else chosen
                    part = values[chosen].astype(np.float64)
                    found = run.statistics(layer.site, concept=concept, skip_first=skip_first, layer=layer.layer)
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
                    if concept is None:
                        stored = run.histograms(layer.site, layer.layer, skip_first=skip_first)
                        np.testing.assert_array_equal(stored, counts)
                        one = run.histogram(layer.site, layer.layer, 2, skip_first=skip_first)
                        np.testing.assert_array_equal(one, counts[2])
        whole_site = run.statistics("mlp")
        assert whole_site.mean.shape == (12,)
        np.testing.assert_array_equal(whole_site.mean[5:], run.statistics("mlp", layer=1).mean)


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


def test_another_seed_draws_other_examples_and_nothing_else(whole: Path, tmp_path: Path) -> None:
    path = record_arrays(tmp_path / "run.duckdb", ARRAYS, batch=len(ARRAYS.prompts), seed=1)
    with RunFile.open(whole) as a, RunFile.open(path) as b:
        random = "SELECT * FROM examples WHERE kind = 'random' ORDER BY ALL"
        others = "SELECT * FROM examples WHERE kind <> 'random' ORDER BY ALL"
        assert a.sql(random).fetchall() != b.sql(random).fetchall()
        assert a.sql(others).fetchall() == b.sql(others).fetchall()


def test_many_segments_take_little_more_room_than_one(tmp_path: Path) -> None:
    """Each segment replaces the statistics; what it frees is used again."""
    arrays = make_arrays([12] * 30, seed=5)
    one = record_arrays(tmp_path / "one.duckdb", arrays, batch=2)
    many = record_arrays(tmp_path / "many.duckdb", arrays, batch=2, segment=1)
    assert many.stat().st_size < 1.6 * one.stat().st_size

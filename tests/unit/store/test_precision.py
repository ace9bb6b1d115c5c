"""Values in two bytes or one: how far each is off, what stays exact, and that segments leave no trace."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "capture"))

from recorded import LAYERS, Arrays, make_arrays, record_arrays  # noqa: E402

from nfinspect.capturing.arrays import array_info
from nfinspect.capturing.classification import classify_tables
from nfinspect.capturing.recorder import LayerValues, Recorder
from nfinspect_store import kernels
from nfinspect_store.digests import value_numbers
from nfinspect_store.errors import NotARun, RequestError
from nfinspect_store.kernels import _kernels
from nfinspect_store.precision import BYTES, FLOAT32, Reduced, decoded, reduced
from nfinspect_store.reader import RunFile
from nfinspect_store.types import PRECISIONS, Precision, utc_now
from nfinspect_store.verify import verify_run
from nfinspect_store.writer import RunWriter

REDUCED = PRECISIONS[1:]
EXACT = ("tokens", "prompts", "statistics", "histograms", "prompt_means")


def spread(sizes: list[int], seed: int = 3) -> Arrays:
    """Values over many magnitudes, with zeros, a row that is all zero, and one that float16 cannot hold."""
    arrays = make_arrays(sizes, seed)
    rng = np.random.default_rng(seed)
    for values in arrays.values:
        for layer in values.values():
            layer[:] = np.sign(layer) * np.exp(rng.normal(0, 4, layer.shape)).astype(np.float32)
            layer[:, 1] = 0
        values[2][:, 2] *= 1e6
    return arrays


def read_back(values: np.ndarray, precision: Precision) -> tuple[Reduced, np.ndarray]:
    """What is stored of float32[rows, tokens], and what is read back of it."""
    found = reduced(values.astype(FLOAT32), precision, value_numbers(7, values.shape[1]))
    with np.errstate(invalid="ignore"):
        back = decoded(found.stored, BYTES[precision], found.scale)
    return found, np.where(found.held[:, None], back, values)


@pytest.mark.parametrize("precision", REDUCED)
def test_a_value_is_off_by_less_than_its_format_s_step_and_keeps_its_sign(precision: Precision) -> None:
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(50, 256)) * np.exp(rng.normal(0, 3, (50, 1)))).astype(np.float32)
    values[:, ::7] = 0
    values[3] *= 1e-7  # below float16's normal numbers
    values[4, 9] = 1e-30
    found, back = read_back(values, precision)
    assert found.held.all()
    off = np.abs(back - values)
    largest = np.abs(values).max(axis=1, keepdims=True)
    step = largest / 127 if precision == "int8" else np.maximum(np.abs(values) * 2.0**-11, 2.0**-24)
    assert (off <= step * (1 + 1e-6)).all()
    far = np.abs(values) > step  # rounded to the nearest; smaller ones may be rounded away from 0
    assert (off[far] <= (step * np.ones_like(values))[far] / (2 if precision == "int8" else 1) * (1 + 1e-4)).all()
    assert (found.error == off.max(axis=1)).all()
    assert (np.sign(back) == np.sign(values)).all()
    assert (read_back(back, precision)[1] == back).all()


def test_what_a_row_cannot_hold_stays_as_it_is() -> None:
    values = np.ones((5, 4), np.float32)
    values[1, 2], values[2, 0], values[3, 1], values[4] = np.nan, np.inf, 70_000, 1e-45
    for precision, held in (("float16", [1, 0, 0, 0, 1]), ("int8", [1, 0, 0, 1, 0])):
        found, _ = read_back(values, precision)  # type: ignore[arg-type]
        assert found.held.tolist() == [bool(x) for x in held]
        assert np.isfinite(found.error).all() and not found.error[~found.held].any()


@pytest.mark.skipif(_kernels is None, reason="built without a C compiler")
@pytest.mark.parametrize("precision", REDUCED)
def test_the_compiled_loop_gives_the_same_bits(precision: Precision, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    every = np.arange(2**16, dtype=np.uint32)  # each float16, and float32 around each of them
    halves = every.astype(np.uint16).view(np.float16).astype(np.float32).reshape(-1, 256)
    between = (every << 16).view(np.float32).reshape(-1, 256)
    with np.errstate(all="ignore"):
        near = [np.nextafter(halves, np.float32(end)) for end in (np.inf, -np.inf)]
        near.append(halves * np.float32(1 + 2.0**-11))  # half way to the next
    random = (rng.normal(size=(300, 256)) * np.exp(rng.normal(0, 20, (300, 1)))).astype(np.float32)
    odd = np.array([[np.nan, -np.nan, np.inf, 65519.99, 65520, 1e-45, -0.0, 0.0], [0] * 8, [-0.0] * 8, [1e-45] * 8])
    given = [halves, between, *near, random, random[:, :1], random[:, 3:40], odd.astype(np.float32), random[:0]]
    for values in given:
        found = []
        for loops in (_kernels, None):
            monkeypatch.setattr(kernels, "_kernels", loops)
            found.append(read_back(values, precision)[0])
        ours, numpys = found
        held = ours.held
        assert (held == numpys.held).all()
        assert (ours.stored[held] == numpys.stored[held]).all() and (ours.sums == numpys.sums).all()
        assert (ours.error == numpys.error).all() and np.array_equal(ours.scale, numpys.scale, equal_nan=True)


@pytest.mark.parametrize("precision", REDUCED)
def test_values_are_near_and_all_that_is_summed_up_is_exact(precision: Precision, tmp_path: Path) -> None:
    arrays = spread([300, 7, 1, 40, 200])
    whole = record_arrays(tmp_path / "whole.duckdb", arrays)
    path = record_arrays(tmp_path / "less.duckdb", arrays, precision=precision)
    with RunFile.open(path) as run, RunFile.open(whole) as exact:
        for table in EXACT:
            rows = f"SELECT * FROM {table} ORDER BY ALL"
            assert run.sql(rows).fetchall() == exact.sql(rows).fetchall(), table
        worst = run.worst_error
        assert set(worst) == {"mlp", "resid"} and set(exact.worst_error.values()) == {0.0}
        largest = dict.fromkeys(worst, 0.0)
        for layer in LAYERS:
            values, true = run.activations(layer.site, layer.layer), arrays.layer(layer.layer_id)
            assert (np.sign(values) == np.sign(true)).all() and not (values == true).all()
            largest[layer.site] = max(largest[layer.site], float(np.abs(values - true).max()))
            told = np.array(
                run.sql(
                    "SELECT value FROM activations WHERE site = $site AND layer = $layer ORDER BY token_idx, neuron",
                    {"site": layer.site, "layer": layer.layer},
                ).fetchall(),
                np.float32,
            )
            assert (told.reshape(values.shape) == values).all()
            for neuron in range(layer.neurons):
                assert (run.neuron(layer.layer, neuron, layer.site) == values[:, neuron]).all()
            fired = [(rows.fired, rows.tokens, rows.neuron) for rows in run.blocks(layer, fired=True)]
            if layer.fires == "gate":
                gates = np.concatenate(arrays.fired and [f[1] for f in arrays.fired])
                for flags, tokens, neurons in fired:
                    assert flags is not None and (flags == gates[tokens][:, neurons].T).all()
        assert worst == pytest.approx(largest, rel=1e-6)
        for token in (0, 255, 256, 547):
            row = np.concatenate([run.activations("mlp", layer)[token] for layer in (0, 1)])
            assert (run.token_values(token, "mlp") == row).all()
        assert len(run.notes) == 1 and f"stored as {precision}" in run.notes[0] and "at mlp" in run.notes[0]
        assert not exact.notes
        assert run.sql("SELECT bool_and(approximate) FROM neurons WHERE site = 'resid'").fetchall() == [(True,)]
        widths = 'SELECT DISTINCT octet_length("values") // ("last"::INT - "first" + 1) FROM blocks ORDER BY 1'
        expected = [(2,), (4,)] if precision == "float16" else [(1,)]  # a row of float16 may be too large for it
        assert run.sql(widths).fetchall() == expected
    found = verify_run(path, lambda tables, exact: classify_tables(tables, exact=exact))
    assert found.ok, found.problems


@pytest.mark.parametrize("precision", REDUCED)
def test_nothing_depends_on_where_segments_end(precision: Precision, tmp_path: Path) -> None:
    arrays = spread([100, 60, 90, 6, 44, 250, 30, 1])
    rows = 'SELECT * FROM blocks ORDER BY layer_id, neuron, block, "first"'
    digests = "SELECT * FROM digests WHERE part = 'activations'"
    held = []
    for batch, segment in ((8, None), (1, 1), (3, 1)):
        path = record_arrays(
            tmp_path / f"{batch}-{segment}.duckdb", arrays, precision=precision, batch=batch, segment=segment
        )
        with RunFile.open(path) as run:
            held.append((run.sql(rows).fetchall(), run.sql(digests).fetchall(), run.worst_error))
    assert verify_run(path).ok
    assert all(one == held[0] for one in held[1:])


@pytest.mark.parametrize("precision", REDUCED)
def test_a_run_that_was_interrupted_continues_as_if_it_had_not_been(precision: Precision, tmp_path: Path) -> None:
    arrays = spread([100, 60, 90, 250])
    whole = record_arrays(tmp_path / "whole.duckdb", arrays, precision=precision)
    path = tmp_path / "parts.duckdb"
    settings = {"keep": "all", "precision": precision}
    RunWriter.create(path, replace(array_info("parts", 0), settings=settings), LAYERS).close()
    for i, prompt in enumerate(arrays.prompts):
        writer = RunWriter.reopen(path)
        recorder = Recorder(writer, 0, torch.device("cpu"))
        last = i == len(arrays.prompts) - 1
        values = {
            x.layer_id: LayerValues(arrays.values[i][x.layer_id], arrays.fired[i][1] if x.fires == "gate" else None)
            for x in LAYERS
        }
        recorder.add([prompt], values)
        recorder.commit({"status": "complete" if last else "interrupted", "finished_at": utc_now()}, final=True)
        writer.close()
        if i == 1:
            assert verify_run(path).ok
    with RunFile.open(path) as run, RunFile.open(whole) as once:
        rows = 'SELECT * FROM blocks ORDER BY layer_id, neuron, block, "first"'
        assert run.sql(rows).fetchall() == once.sql(rows).fetchall()
        assert run.worst_error == once.worst_error
    assert verify_run(path).ok


def test_a_changed_scale_is_noticed(tmp_path: Path) -> None:
    path = record_arrays(tmp_path / "r.duckdb", make_arrays([300, 7]), precision="int8")
    for change, problem in (
        ("UPDATE blocks SET scale = 2 * scale WHERE layer_id = 0 AND neuron = 1 AND block = 0", "digest differs"),
        ("UPDATE blocks SET scale = NULL WHERE layer_id = 0 AND neuron = 1 AND block = 0", "belong to no neuron"),
    ):
        with duckdb.connect(str(path)) as connection:
            connection.execute(change)
        found = verify_run(path)
        assert not found.ok and any(problem in line for line in found.problems), found.problems


@pytest.mark.parametrize("told", ["'much'", "[1]", '{"mlp": "much"}'])
def test_a_worst_error_that_is_no_number_is_refused(told: str, tmp_path: Path) -> None:
    path = record_arrays(tmp_path / "r.duckdb", make_arrays([5]), precision="int8")
    with duckdb.connect(str(path)) as connection:
        merged = json.dumps({"worst_error": json.loads(told.replace("'", '"'))})
        connection.execute("UPDATE run SET settings = json_merge_patch(settings, ?::JSON)", [merged])
    with RunFile.open(path) as run, pytest.raises(NotARun, match="the worst errors of this run are"):
        run.notes  # noqa: B018


def test_values_that_are_not_kept_have_no_precision(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="stores no values as int8"):
        record_arrays(tmp_path / "r.duckdb", make_arrays([5]), precision="int8", keep="stats")
    assert not list(tmp_path.iterdir())

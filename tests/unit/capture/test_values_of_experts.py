"""A run that keeps every value of a mixture of experts: a neuron has them on the tokens routed to its expert."""

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from experts_by_hand import CHOSEN, EXPERTS, WIDTH, model_of
from numpy.typing import NDArray
from test_runs_of_experts import PROMPTS, Whole
from words import word_tokenizer

import nfinspect as nf
from nfinspect.analysis.firing import fired_chunks
from nfinspect.analysis.neuron import neuron_detail
from nfinspect.analysis.neuron_examples import quantile_examples
from nfinspect.analysis.token_neurons import at_token, site_figures, unusual_tokens
from nfinspect.capturing.arrays import array_info
from nfinspect.capturing.classification import classify_tables
from nfinspect.capturing.errors import CannotResume
from nfinspect.capturing.recorder import LayerValues, RecordedPrompt, Recorder
from nfinspect.capturing.request import CaptureRequest, PromptFile
from nfinspect.capturing.resume import check_same_layers
from nfinspect.capturing.session import capture_run
from nfinspect.cli import main
from nfinspect.tui.walking import Colouring, TokenWalk
from nfinspect_store import verify_values
from nfinspect_store.addresses import Address
from nfinspect_store.errors import NotARun, StoreError
from nfinspect_store.export import export_run
from nfinspect_store.histogram import BINS, bin_of
from nfinspect_store.migrate_run import copy_run
from nfinspect_store.migrations import SCHEMA_VERSION
from nfinspect_store.reader import RunFile
from nfinspect_store.schema import BLOCK
from nfinspect_store.types import Layer, Precision
from nfinspect_store.verify import verify_run
from nfinspect_store.writer import RunWriter

pytestmark = pytest.mark.filterwarnings("ignore:found by structure", "ignore:the neurons of mlp.shared")
NEURONS = EXPERTS * WIDTH


def captured(model: Any, store: Path, name: str = "run", **how: Any) -> nf.Run:
    return nf.capture(model, word_tokenizer(), PROMPTS, store=store, run=name, **how)


def sound(path: Path) -> None:
    found = verify_run(path, lambda tables, exact: classify_tables(tables, exact=exact))
    assert found.problems == () and any(line.startswith("routed: ") for line in found.checked)


def check_values(run: nf.Run, told: Whole, layer: int) -> None:
    """Every way to read a layer says what was computed by hand, and NaN or no row where the token went elsewhere."""
    values = run.activations("mlp", layer)
    there = ~np.isnan(told.values)
    np.testing.assert_array_equal(~np.isnan(values), there)
    np.testing.assert_allclose(values[there], told.values[there], rtol=1e-4, atol=1e-6)
    for neuron in (0, WIDTH, NEURONS - 1):
        np.testing.assert_array_equal(run.neuron(layer, neuron, "mlp"), values[:, neuron])
    columns = run.index("mlp").layer == layer
    for token in (0, 3, run.tokens - 1):
        np.testing.assert_array_equal(run.token_values(token, "mlp")[columns], values[token])
    found = run.sql(
        "SELECT token_idx, neuron, value FROM activations WHERE site = 'mlp' AND layer = ? ORDER BY ALL", [layer]
    ).fetchnumpy()
    rows = np.argwhere(there)
    np.testing.assert_array_equal(np.stack([found["token_idx"], found["neuron"]], axis=1), rows)
    np.testing.assert_array_equal(found["value"], values[there])
    fired = np.zeros(there.shape, np.bool_)
    (of_layer,) = (one for one in run.layers if (one.site, one.layer) == ("mlp", layer))
    for block in run.blocks(of_layer, fired=True, routed=True):
        assert block.fired is not None and block.routed is not None
        fired[block.routed[:, None], block.neuron] = block.fired.T
    np.testing.assert_array_equal(fired, there & (told.gates > 0))


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "deepseek_v3"])
@pytest.mark.parametrize("mode", ["replay", "live"])
def test_values_are_those_computed_by_hand_and_no_others(family: str, mode: Any, tmp_path: Path) -> None:
    """qwen3_moe and deepseek_v3 have dense layers, too."""
    model = model_of(family)
    run = captured(model, tmp_path, generate=3, batch_size=4, sites=("mlp", "resid"), mode=mode)
    assert run.has_values
    mixtures = [one for one in run.layers if one.experts]
    for layer in mixtures:
        check_values(run, Whole(model, run, layer.layer), layer.layer)
    whole = [one for one in run.layers if not one.experts]
    rows = dict(run.sql("SELECT site || layer, count(*) FROM activations GROUP BY ALL").fetchall())
    assert rows == {
        **{f"{one.site}{one.layer}": run.tokens * CHOSEN * WIDTH for one in mixtures},
        **{f"{one.site}{one.layer}": run.tokens * one.neurons for one in whole},
    }
    for layer in whole:
        assert not np.isnan(run.activations(layer.site, layer.layer)).any()
    values = np.concatenate([run.activations("mlp", one.layer) for one in run.site_layers("mlp")], axis=1)
    for token in range(run.tokens):
        np.testing.assert_array_equal(run.token_values(token, "mlp"), values[token])
    sound(run.path)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["mixtral", "olmoe"])
def test_padding_on_either_side_gives_the_same_values(family: str, side: Any, tmp_path: Path) -> None:
    model = model_of(family)
    model.save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    text = tmp_path / "prompts.txt"
    text.write_text("\n".join(prompt for prompts in PROMPTS.values() for prompt in prompts))
    request = CaptureRequest(
        str(tmp_path / "model"), tmp_path, run="run", prompts=(PromptFile(text),), batch_size=6, padding_side=side
    )
    with nf.open_run(capture_run(request)) as run:
        assert run.sites == ("mlp",)
        for layer in run.layers:
            check_values(run, Whole(model, run, layer.layer), layer.layer)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> nf.Run:
    """Layer 0 is dense; no token is routed to the last expert of layer 1."""
    model = model_of("deepseek_v3")
    model.model.layers[1].mlp.gate.e_score_correction_bias[EXPERTS - 1] = -100
    return captured(model, tmp_path_factory.mktemp("store"), generate=2)


def test_statistics_are_those_of_the_values(run: nf.Run) -> None:
    for layer in (one for one in run.layers if one.experts):
        values = run.activations("mlp", layer.layer).astype(np.float64)
        found, there = run.statistics("mlp", layer=layer.layer), ~np.isnan(values)
        np.testing.assert_array_equal(found.n, there.sum(0))
        used = found.n > 0
        assert used.all() == (layer.layer != 1)
        np.testing.assert_array_equal(found.maximum[used], np.nanmax(values[:, used], 0))
        np.testing.assert_array_equal(found.minimum[used], np.nanmin(values[:, used], 0))
        np.testing.assert_allclose(found.mean[used], np.nanmean(values[:, used], 0), rtol=1e-12)
        np.testing.assert_allclose(found.m2[used], np.nanvar(values[:, used], 0) * found.n[used], rtol=1e-9, atol=1e-15)
        bins = bin_of(np.nan_to_num(values).astype(np.float32))
        counted = np.array([np.bincount(bins[c, i], minlength=BINS) for i, c in enumerate(there.T)])
        np.testing.assert_array_equal(run.histograms("mlp", layer.layer), counted)
        for concept in PROMPTS:
            of = np.concatenate([np.full(run.prompt(i).tokens, run.prompt(i).concept == concept) for i in range(6)])
            one, held = run.concept_statistics(layer)[concept], there & of[:, None]
            np.testing.assert_array_equal(one.n, held.sum(0))
    sound(run.path)


def test_the_page_of_a_neuron_knows_no_value_on_other_tokens(run: nf.Run) -> None:
    values = run.neuron(2, 11, "mlp")
    there = ~np.isnan(values)
    assert 0 < there.sum() < run.tokens
    found = neuron_detail(run, "L2/N11")
    assert sum(found.histogram.counts) == there.sum() and found.histogram.linear
    assert found.median == pytest.approx(float(np.median(values[there].astype(np.float64))))
    shown = [token for one in (*found.top_examples, *found.random_examples) for token in one.window]
    assert {token.value is None for token in shown} == {True, False}
    for token in shown:
        assert token.token_idx is not None
        assert token.value == (float(values[token.token_idx]) if there[token.token_idx] else None)
    assert found.top_examples[0].value == np.nanmax(values)
    assert found.gates.keys() >= {one.token_idx for one in found.top_examples}
    told = {one.concept: (one.tokens, one.max) for one in found.concepts}
    for concept, (tokens, most) in told.items():
        of = np.concatenate([np.full(run.prompt(i).tokens, run.prompt(i).concept == concept) for i in range(6)])
        assert (tokens, most) == (int((there & of).sum()), float(np.nanmax(values[of])))
    assert json.loads(json.dumps(found.to_json()))["expert"] == 11 // WIDTH
    fired = quantile_examples(run, "L2/N11")
    assert fired.fired == round(found.row.firing_rate * there.sum())
    assert all(there[one.token_idx] for one in fired.examples)
    absent = neuron_detail(run, f"L1/N{NEURONS - 1}")
    assert absent.median is None and absent.histogram.counts == () and absent.top_examples == ()
    dense = neuron_detail(run, "L0/N3")
    assert all(token.value is not None for one in dense.top_examples for token in one.window)


def test_at_a_token_only_neurons_of_its_experts_are_ranked(run: nf.Run) -> None:
    figures, token = site_figures(run, "mlp"), 4
    here = run.token_values(token, "mlp")
    found = at_token(run, figures, token, top=10**6)
    known = np.flatnonzero(~np.isnan(here))
    assert found.ranked == len(known) == len(found.neurons) < len(here)
    strongest = sorted(known, key=lambda place: (-abs(here[place]), place))
    index = run.index("mlp")
    assert [(n.layer, n.neuron, n.value) for n in found.neurons] == [
        (index.layer[place], index.neuron[place], here[place]) for place in strongest
    ]
    for layer in (0, 1, 2):
        values, of = run.activations("mlp", layer), figures.span(layer)
        with np.errstate(invalid="ignore", divide="ignore"):
            z = (values - figures.mean[of]) / np.where(figures.std[of] > 0, figures.std[of], np.nan)
        expected = np.sqrt(np.nanmean(np.square(z), axis=1))
        told = unusual_tokens(run, figures, layer, 2, run.tokens - 1)
        np.testing.assert_allclose(told, expected[2:-1], rtol=1e-5)
        (same,) = (one.unusual for one in found.layers if one.layer == layer)
        assert same == pytest.approx(expected[token], rel=1e-5)


def test_the_token_walk_colours_no_token_that_was_not_routed(run: nf.Run) -> None:
    walk, values = TokenWalk(run, lambda kind: ()), run.neuron(2, 11, "mlp")
    for prompt in range(run.prompts):
        part = walk.beginning(prompt).parts[0]
        told = walk.strengths(Colouring("neuron", "mlp", 2, Address(2, 11, "mlp")), part)
        expected = [None if np.isnan(values[i]) else float(values[i]) for i in part.rows.token_idx.tolist()]
        assert list(told.values) == expected and told.full == np.nanmax(np.abs(values))
        assert None not in walk.strengths(Colouring("layer", "mlp", 2), part).values


def test_what_counts_every_token_says_why_it_cannot(run: nf.Run, capsys: pytest.CaptureFixture[str]) -> None:
    reason = "found a mixture of experts in mlp layer 1: its neurons have none on tokens that were not routed"
    layer = run.site_layers("mlp")[1]
    for ask in (lambda: list(run.blocks(layer)), lambda: list(fired_chunks(run, layer))):
        with pytest.raises(StoreError, match=reason):
            ask()
    store = ("--store", str(run.path.parent))
    for command in (
        ("ngrams", "run"),
        ("positions", "run", "--allow-few"),
        ("delta", "run"),
        ("similar", "run", "L1/N3"),
    ):
        assert main([*command, *store]) == 1
        assert reason in " ".join(capsys.readouterr().err.split()), command
    assert main(["delta", "run", "--layers", "0", *store]) == 0


def test_other_programs_read_the_values(run: nf.Run, tmp_path: Path) -> None:
    values = run.activations("mlp", 1)
    with duckdb.connect(str(run.path), read_only=True) as connection:
        query = "SELECT count(*), sum(value) FROM activations JOIN experts USING (site, layer) WHERE layer = 1"
        ((count, total),) = connection.execute(query).fetchall()
        assert count == (~np.isnan(values)).sum() and total == pytest.approx(float(np.nansum(values)), rel=1e-4)
        query = "SELECT expert, count(*) FROM routed WHERE layer = 1 GROUP BY ALL ORDER BY ALL"
        n = run.statistics("mlp", layer=1).n[::WIDTH]
        assert connection.execute(query).fetchall() == [(i, count) for i, count in enumerate(n.tolist()) if count]
    said: list[str] = []
    found = export_run(run.path, tmp_path / "out", tell=said.append)
    assert "activations-mlp-L0.safetensors" in found.files and "activations-mlp-L1.safetensors" not in found.files
    assert any("no value on most tokens" in line for line in said) and "routed.parquet" in found.files
    table = pq.read_table(tmp_path / "out" / "activations-mlp-L1.parquet").to_pydict()
    again = np.full(values.shape, np.nan, np.float32)
    again[table["token_idx"], table["neuron"]] = table["value"]
    np.testing.assert_array_equal(again, values)
    assert len(table["value"]) == (~np.isnan(values)).sum()
    copy_run(run.path, tmp_path / "copy.duckdb", SCHEMA_VERSION)
    with RunFile.open(tmp_path / "copy.duckdb") as copy:
        np.testing.assert_array_equal(copy.activations("mlp", 1), values)
    sound(tmp_path / "copy.duckdb")


def test_values_beyond_a_percentile_are_those_of_each_experts_tokens(tmp_path: Path) -> None:
    model = model_of("mixtral")
    run = captured(model, tmp_path, where="beyond=p50", batch_size=1)
    every = captured(model, tmp_path, "every", batch_size=1)
    assert not run.has_values and run.sites == ("mlp",)
    rows = run.sql("SELECT layer, token_idx, neuron, value FROM activations").fetchall()
    values = {layer: every.activations("mlp", layer) for layer in (0, 1, 2)}
    assert rows and all(values[layer][token, neuron] == value for layer, token, neuron, value in rows)
    total = sum(int((~np.isnan(one)).sum()) for one in values.values())
    assert any(f"kept are {len(rows):,} of {total:,} values" in note for note in run.notes)
    # After the last prompt the percentile is of all tokens: what is above it in a higher bin was kept.
    last = run.prompt(run.prompts - 1)
    kept = {(layer, token, neuron) for layer, token, neuron, _ in rows}
    for layer, one in values.items():
        for neuron in range(NEURONS):
            column = one[:, neuron]
            held = np.sort(column[~np.isnan(column)])
            if not len(held):
                continue
            limit = bin_of(held)[int(np.ceil(len(held) / 2)) - 1]
            for token in range(last.first_token, last.first_token + last.tokens):
                if not np.isnan(column[token]):
                    assert ((layer, token, neuron) in kept) == (bin_of(column[token : token + 1])[0] > limit)
    found = verify_run(run.path, lambda tables, exact: classify_tables(tables, exact=exact))
    assert found.problems == ()


@pytest.mark.parametrize("step", [2, WIDTH, 2 * WIDTH + 1])
def test_prompt_means_are_checked_of_every_nth_neuron(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if some experts have no neuron among them."""
    path = recorded(tmp_path / "run.duckdb", given(mixture(), 300), "float32")
    with RunFile.open(path) as run:
        every = 16 * run.prompts * NEURONS
    monkeypatch.setattr(verify_values, "MEANS_BYTES", -(-every // step))
    with RunFile.open(path) as run:
        assert verify_values.means_step(run) == step
    sound(path)
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            'UPDATE prompt_means SET "values" = "values"[5:] || "values"[:4] WHERE layer_id = 0 AND selection = \'all\''
        )
    problems = verify_run(path, lambda tables, exact: classify_tables(tables, exact=exact)).problems
    assert any("prompt_means: mlp layer 0: the mean over all" in one for one in problems), problems


# Captures that are cut, and precision


def mixture(fires: str = "gate") -> tuple[Layer, ...]:
    """A dense layer between two mixtures of experts."""
    return (
        Layer(0, "mlp", 0, "h.0.experts", NEURONS, "silu", fires, EXPERTS),
        Layer(1, "mlp", 1, "h.1.mlp", 6, "silu", fires),
        Layer(2, "mlp", 2, "h.2.experts", NEURONS, "silu", fires, EXPERTS),
    )


Given = list[tuple[RecordedPrompt, dict[int, LayerValues]]]


def given(layers: tuple[Layer, ...], tokens: int, seed: int = 4) -> Given:
    """About so many tokens in prompts of up to 40; expert 0 gets most of them."""
    rng = np.random.default_rng(seed)
    found: Given = []
    while sum(len(prompt.token_ids) for prompt, _ in found) < tokens:
        size = int(rng.integers(1, 41))
        prompt = RecordedPrompt(
            "red" if len(found) % 3 else "blue", "t", list(range(size)), ["t"] * size, max(1, size - 2)
        )
        values = {}
        for layer in layers:
            width = CHOSEN * WIDTH if layer.experts else layer.neurons
            numbers = rng.normal(size=(size, width)).astype(np.float32)
            experts = None
            if layer.experts:
                others = np.stack([rng.permutation(EXPERTS - 1)[: CHOSEN - 1] + 1 for _ in range(size)])
                experts = np.concatenate([np.zeros((size, 1), np.int64), others], axis=1)
                experts[rng.random(size) < 0.2, 0] = -1
            gates = numbers > 0.3 if layer.fires == "gate" else None
            values[layer.layer_id] = LayerValues(numbers, gates, experts=experts)
        found.append((prompt, values))
    return found


def by_hand(parts: Given, layer: Layer) -> NDArray[np.float32]:
    rows = []
    for prompt, of_layers in parts:
        one = of_layers[layer.layer_id]
        values = np.full((len(prompt.token_ids), layer.neurons), np.nan, np.float32)
        for token, chosen in enumerate(np.asarray(one.experts) if layer.experts else ()):
            for place, expert in enumerate(chosen.tolist()):
                if expert >= 0:
                    own = np.asarray(one.values)[token, place * WIDTH : (place + 1) * WIDTH]
                    values[token, expert * WIDTH : (expert + 1) * WIDTH] = own
        rows.append(values if layer.experts else np.asarray(one.values))
    return np.concatenate(rows)


def recorded(path: Path, parts: Given, precision: Precision, cuts: tuple[int, ...] = ()) -> Path:
    """cuts: before which prompts it is killed; what came after the last commit, two prompts before, is lost."""
    info = replace(array_info("run", 7), settings={"keep": "all", "precision": precision})
    writer = RunWriter.create(path, info, mixture())
    recorder = Recorder(writer, 7, torch.device("cpu"), commits=False)
    i, left = 0, list(cuts)
    while i < len(parts):
        if left and i == left[0]:
            left.pop(0)
            writer.abandon()
            writer.close()
            writer = RunWriter.reopen(path)
            recorder = Recorder(writer, 7, torch.device("cpu"), commits=False)
            i = writer.prompts
            continue
        recorder.add([parts[i][0]], parts[i][1])
        i += 1
        if left and i == left[0] - 2:
            recorder.commit({"status": "capturing"}, final=False)
    recorder.commit({"status": "complete"}, final=True)
    writer.close()
    sound(path)
    return path


TABLES = ("statistics", "concept_statistics", "histograms", "examples", "prompt_means", "neurons", "routed", "digests")


def held(path: Path) -> dict[str, list[Any]]:
    with RunFile.open(path) as run:
        found = {name: run.cursor().execute(f"FROM {name} ORDER BY ALL").fetchall() for name in TABLES}
        found["digests"] = [row for row in found["digests"] if row[0] != "run"]  # with the run's id and times
        query = "SELECT layer, neuron, token_idx, value FROM activations ORDER BY ALL"
        return {**found, "activations": run.cursor().execute(query).fetchall()}


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_a_capture_that_was_killed_goes_on_as_if_it_had_not_been(precision: Precision, tmp_path: Path) -> None:
    """Blocks of expert 0 are finished in between; those of others are not."""
    parts = given(mixture(), 700)
    whole = recorded(tmp_path / "whole.duckdb", parts, precision)
    cut = recorded(tmp_path / "cut.duckdb", parts, precision, cuts=(5, 6, 19, len(parts) - 1))
    found, expected = held(cut), held(whole)
    for name in (*TABLES, "activations"):
        assert found[name] == expected[name], name
    with RunFile.open(whole) as run:
        error = run.worst_error["mlp"]
        assert (error > 0) == (precision != "float32") and error < 0.05
        for layer in run.layers:
            values, told = run.activations("mlp", layer.layer), by_hand(parts, layer)
            np.testing.assert_array_equal(np.isnan(values), np.isnan(told))
            assert np.nanmax(np.abs(values - told)) <= error
            if layer.experts:
                assert run.routes(layer).counts[0] > BLOCK > run.routes(layer).counts[1] > 0
            n = run.statistics("mlp", layer=layer.layer).n
            np.testing.assert_array_equal(n, (~np.isnan(told)).sum(0))


def test_two_threads_of_the_writer_write_the_same(tmp_path: Path) -> None:
    model = model_of("mixtral")
    one = captured(model, tmp_path, "one", batch_size=1, writers=1)
    several = captured(model, tmp_path, "several", batch_size=6, writers=2)
    for layer in one.layers:
        np.testing.assert_allclose(
            one.activations("mlp", layer.layer), several.activations("mlp", layer.layer), rtol=1e-4, atol=1e-6
        )


# Damage


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    path = recorded(tmp_path_factory.mktemp("written") / "run.duckdb", given(mixture(), 300), "float32")

    def copy(to: Path) -> Path:
        to.write_bytes(path.read_bytes())
        return to

    return copy


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DELETE FROM routed WHERE layer = 0 AND expert = 1 AND place = 0", "are not counted from 0"),
        (
            "UPDATE routed SET token_idx = token_idx + 1 WHERE layer = 0 AND expert = 1 AND place = "
            "(SELECT max(place) FROM routed WHERE layer = 0 AND expert = 1)",
            "routed: its rows are not those that were written",
        ),
        ("UPDATE routed SET token_idx = 0 WHERE layer = 2 AND expert = 3 AND place = 4", "are not in order"),
        ("UPDATE routed SET expert = 99 WHERE layer = 2 AND expert = 3", "to no expert of the layer"),
        ("DELETE FROM routed WHERE layer = 2 AND expert = 3", "1 experts have other tokens than their neurons count"),
        (
            "DELETE FROM blocks WHERE layer_id = 0 AND neuron = 3 AND block = 0",
            "mlp layer 0: 1 neurons have",
        ),
        (
            'UPDATE blocks SET "values" = "values"[5:] || "values"[1:4] WHERE layer_id = 0 AND neuron = 3',
            "blocks: the values are not those that were written",
        ),
        ("DELETE FROM blocks WHERE layer_id = 1 AND neuron = 3 AND block = 0", "mlp layer 1: 1 neurons have"),
        (
            'UPDATE examples SET "values" = list_transform("values", lambda x: x + 1) '
            "WHERE layer_id = 2 AND neuron = 9 AND kind = 'random'",
            "examples: mlp:L2/N9 random at token",
        ),
        (
            'UPDATE prompt_means SET "values" = "values"[5:] || "values"[1:4] WHERE layer_id = 2',
            "mlp layer 2: the mean over",
        ),
        ("DELETE FROM concept_statistics WHERE layer_id = 2 AND concept = 'red'", "'red' is missing for layer_id 2"),
    ],
)
def test_verify_finds_damage(statement: str, expected: str, written: Callable[[Path], Path], tmp_path: Path) -> None:
    path = written(tmp_path / "run.duckdb")
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute(statement)
    problems = verify_run(path).problems
    assert any(expected in problem for problem in problems), problems


def test_a_file_whose_view_is_another_is_refused(written: Callable[[Path], Path], tmp_path: Path) -> None:
    path = written(tmp_path / "run.duckdb")
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute("DROP VIEW activations; CREATE VIEW activations AS SELECT 1 AS value")
    with pytest.raises(NotARun, match="its view activations is not defined as nfinspect does"):
        RunFile.open(path)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DROP VIEW activations; DROP TABLE routed", "it has no view activations"),
        ("INSERT INTO experts VALUES ('mlp', 1, 0, 1); UPDATE layers SET neurons = 1000000000", "more than a file"),
    ],
)
def test_a_file_that_lies_about_its_experts_is_refused(
    statement: str, expected: str, written: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Layer 1 is dense: a row of `experts` that no mixture has does not excuse its size."""
    path = written(tmp_path / "run.duckdb")
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute(statement)
    with pytest.raises(NotARun, match=expected):
        RunFile.open(path)


def test_values_of_experts_without_their_tokens_are_refused(tmp_path: Path) -> None:
    """A run of statistics has no table of routes; one that says it kept values must have it."""
    path = captured(model_of("mixtral"), tmp_path, keep="stats").path
    with closing(duckdb.connect(str(path))) as connection:
        connection.execute('UPDATE run SET settings = json_merge_patch(settings, \'{"keep": "all"}\')')
    with RunFile.open(path) as run, pytest.raises(NotARun, match="keeps values of experts, and has no table routed"):
        run.site_layers("mlp")


def test_a_run_of_other_layers_is_not_resumed(run: nf.Run, tmp_path: Path) -> None:
    """Without --sites an older version recorded the residual stream of such a model."""
    with captured(model_of("deepseek_v3"), tmp_path, sites=("resid",)) as other:
        check_same_layers(other, other.layers)
        with pytest.raises(CannotResume, match="neurons of 3 layers at resid, and the same command now records"):
            check_same_layers(other, run.layers)


def test_the_tokens_of_one_expert_are_read_alone(run: nf.Run) -> None:
    layer = run.site_layers("mlp")[1]
    every = run.routes(layer)
    with RunFile.open(run.path) as fresh:
        for expert in range(EXPERTS):
            np.testing.assert_array_equal(fresh.routes(layer, [expert]).tokens[expert], every.tokens[expert])
            few = [expert * WIDTH, expert * WIDTH + 2]
            blocks = [rows for rows in fresh.blocks(layer, neurons=few, routed=True)]
            assert sum(rows.values.size for rows in blocks) == 2 * len(every.tokens[expert])

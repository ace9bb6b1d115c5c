"""A run of a mixture of experts: every figure is of the tokens routed to a neuron's expert, and of no others."""

import json
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from experts_by_hand import CHOSEN, EXPERTS, WIDTH, ByHand, by_hand, model_of
from words import word_tokenizer

import nfinspect as nf
from nfinspect.analyses.kind_overlap import overlap_of_kinds
from nfinspect.analyses.neuron_kinds import find_kind
from nfinspect.analysis.dead import dead_by_layer
from nfinspect.analysis.diff import diff
from nfinspect.analysis.neuron import neuron_detail
from nfinspect.analysis.neuron_sets import NeuronSet
from nfinspect.analysis.trace import trace
from nfinspect.capturing.arrays import array_info
from nfinspect.capturing.classification import classify_tables
from nfinspect.capturing.estimation import estimate
from nfinspect.capturing.expert_record import ExpertLayer
from nfinspect.capturing.recorder import LayerValues, RecordedPrompt, Recorder
from nfinspect.capturing.request import CaptureRequest, PromptFile
from nfinspect.cli import main
from nfinspect.experiments.ablation_table import ablate
from nfinspect.experiments.addresses import resolve_addresses
from nfinspect.experiments.controls import control_sets, crowded_layer
from nfinspect.experiments.documents import Corpus
from nfinspect.figures.health import dead_chart, health_chart
from nfinspect.models import UnsupportedModel, find_sites, in_memory
from nfinspect_store import kernels
from nfinspect_store.addresses import Address
from nfinspect_store.errors import RequestError, StoreError
from nfinspect_store.examples import KEPT, drawn, places
from nfinspect_store.histogram import BINS, bin_of
from nfinspect_store.reader import RunFile
from nfinspect_store.types import CLASSES, Layer
from nfinspect_store.verify import verify_run
from nfinspect_store.writer import RunWriter

PROMPTS = {
    "red": ["w5 w6 w7 w8 w9", "w10 w11", "w12 w13 w14 w15"],
    "blue": ["w20", "w21 w22 w23 w24 w25 w26", "w27 w28 w29"],
}
pytestmark = pytest.mark.filterwarnings("ignore:found by structure", "ignore:the neurons of mlp.shared")
NEURONS = EXPERTS * WIDTH


def captured(model: Any, store: Path, name: str = "run", **how: Any) -> nf.Run:
    return nf.capture(model, word_tokenizer(), PROMPTS, store=store, run=name, keep="stats", **how)


class Whole:
    """A layer's values on all tokens of a run, by hand: float64[tokens, neurons], NaN where absent."""

    def __init__(self, model: Any, run: nf.Run, layer: int) -> None:
        self.prompts: list[ByHand] = []
        self.rows = [run.prompt_tokens(i) for i in range(run.prompts)]
        for rows in self.rows:
            self.prompts.append(by_hand(model, rows.token_id.tolist())[layer])
        self.values = torch.cat([one.neurons for one in self.prompts]).double().numpy()
        self.gates = torch.cat([one.gates.flatten(1) for one in self.prompts]).numpy()
        self.position = np.concatenate([rows.position for rows in self.rows])
        self.concept = np.repeat(
            [run.prompt(i).concept for i in range(run.prompts)], [len(r.position) for r in self.rows]
        )


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe", "deepseek_v3"])
@pytest.mark.parametrize("mode", ["replay", "live"])
def test_every_figure_is_of_the_tokens_routed_to_the_expert(family: str, mode: Any, tmp_path: Path) -> None:
    model = model_of(family)
    run = captured(model, tmp_path, generate=3, batch_size=4, sites=("mlp", "resid"), mode=mode)
    assert run.where_notes == () and not run.has_values
    for layer in (one for one in run.layers if one.experts):
        told = Whole(model, run, layer.layer)
        there = ~np.isnan(told.values)
        assert there.sum() == run.tokens * CHOSEN * WIDTH and (layer.experts, layer.width) == (EXPERTS, WIDTH)
        for skip in (False, True):
            counted = there & ((told.position > 0) | (not skip))[:, None]
            values = np.where(counted, told.values, np.nan)
            found = run.statistics("mlp", layer=layer.layer, skip_first=skip)
            np.testing.assert_array_equal(found.n, counted.sum(0))
            used = found.n > 0
            np.testing.assert_array_equal(found.fired, (counted & (told.gates > 0)).sum(0))
            np.testing.assert_allclose(found.mean[used], np.nanmean(values, 0)[used], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(found.maximum[used], np.nanmax(values[:, used], 0), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(found.minimum[used], np.nanmin(values[:, used], 0), rtol=1e-4, atol=1e-6)
            several = found.n > 1
            np.testing.assert_allclose(
                found.std[several], np.nanstd(values[:, several], 0, ddof=1), rtol=1e-3, atol=1e-6
            )
            histograms = run.histograms("mlp", layer.layer, skip_first=skip)
            np.testing.assert_array_equal(histograms.sum(1), found.n)
            bins = bin_of(told.values.astype(np.float32))
            near = np.array([np.bincount(bins[c, i], minlength=BINS) for i, c in enumerate(counted.T)])
            assert np.abs(histograms - near).sum() <= 0.01 * near.sum()  # rounding moves a value over an edge
        for concept, one in run.concept_statistics(layer).items():
            counted = there & (told.concept == concept)[:, None]
            np.testing.assert_array_equal(one.n, counted.sum(0))
            used = one.n > 0
            means = np.nanmean(np.where(counted, told.values, np.nan)[:, used], 0)
            np.testing.assert_allclose(one.mean[used], means, rtol=1e-4, atol=1e-6)
        check_means(run, layer.layer, told)
        check_examples(run, layer.layer, told)
        router = run.health("mlp").layer_analyses[[x.layer for x in run.site_layers("mlp")].index(layer.layer)].router
        assert router is not None
        load = there[:, ::WIDTH].sum(0) / (run.tokens * CHOSEN)
        assert router.load == pytest.approx(load.tolist())
        used = load[load > 0]
        assert router.entropy == pytest.approx(float(-(used * np.log(used)).sum() / np.log(EXPERTS)))
    found = verify_run(run.path, lambda tables, exact: classify_tables(tables, exact=exact))
    assert found.problems == ()


def check_means(run: nf.Run, layer: int, told: Whole) -> None:
    """The prompts' means, past position 0: NaN where none of the chosen tokens was routed to the expert."""
    columns = run.index("mlp").layer == layer
    for selection in ("all", "last", "generated"):
        means = run.prompt_means(selection, "mlp")
        of_prompt = dict(zip(means.prompt_idx.tolist(), means.values[:, columns], strict=True))
        for i, (rows, one) in enumerate(zip(told.rows, told.prompts, strict=True)):
            values, place = one.neurons.double().numpy(), np.arange(len(rows.position))
            chosen = {"all": place > 0, "last": (place > 0) & (place == place[-1]), "generated": rows.generated}[
                selection
            ]
            if not (chosen & (place > 0)).any():
                assert i not in of_prompt
                continue
            taken = values[chosen & (place > 0)]
            has = (~np.isnan(taken)).any(0)
            np.testing.assert_array_equal(~np.isnan(of_prompt[i]), has)
            np.testing.assert_allclose(of_prompt[i][has], np.nanmean(taken[:, has], 0), rtol=1e-4, atol=1e-6)


def check_examples(run: nf.Run, layer: int, told: Whole) -> None:
    prompt_of = np.concatenate([rows.prompt_idx for rows in told.rows])
    for neuron in range(0, NEURONS, 4):
        values = told.values[:, neuron]
        there = np.flatnonzero(~np.isnan(values))
        found = run.examples("mlp", layer, neuron)
        for one in found:
            assert one.value == pytest.approx(float(values[one.token_idx]), rel=1e-3, abs=1e-6)
        top = [one for one in found if one.kind == "top"]
        best = [values[there][prompt_of[there] == p].max() for p in np.unique(prompt_of[there])]
        assert [one.value for one in top] == pytest.approx(sorted(best, reverse=True)[:KEPT], rel=1e-3, abs=1e-6)
        sample = there[np.argsort(drawn(run.info.seed, places(there, *run.starts())), kind="stable")][:KEPT]
        assert [one.token_idx for one in found if one.kind == "random"] == sample.tolist()


@pytest.fixture(scope="module")
def unused(tmp_path_factory: pytest.TempPathFactory) -> nf.Run:
    """A run in which no token is routed to the last expert of layer 1."""
    model = model_of("deepseek_v3")
    model.model.layers[1].mlp.gate.e_score_correction_bias[EXPERTS - 1] = -100
    return captured(model, tmp_path_factory.mktemp("unused"), sites=("mlp",))


def test_an_expert_that_no_token_reached_is_absent_and_not_dead(unused: nf.Run) -> None:
    (layer,) = (layer for layer in unused.health("mlp").layer_analyses if layer.layer == 1)
    assert layer.absent_neurons == WIDTH and layer.router is not None and layer.router.unused == 1
    assert layer.normal_neurons + layer.dead_neurons <= NEURONS - WIDTH
    assert layer.router.load[-1] == 0 and sum(layer.router.load) == pytest.approx(1)
    assert f"{WIDTH} absent, of experts" in unused.health("mlp").summary
    rows = unused.neurons(cls="absent", limit=None).rows
    assert {(row.layer, row.neuron // WIDTH, row.n, row.mean) for row in rows} == {(1, EXPERTS - 1, 0, None)}
    detail = neuron_detail(unused, f"L1/N{NEURONS - 1}")
    assert detail.expert == EXPERTS - 1 and detail.concepts == () and detail.top_examples == ()
    routed, dense = (neuron_detail(unused, address).concepts for address in ("L2/N10", "L0/N3"))
    assert {one.prompts for one in routed} == {None}, "in how many prompts a token was routed to it is not stored"
    assert [one.prompts for one in dense] == [3, 3]
    n = [row.n for row in unused.neurons(cls="normal", site="mlp", limit=None).rows]
    assert any(note.startswith(f"only {min(n)} token") for note in find_kind(unused, "normal", "mlp").notes)
    assert sum(one.dead for one in dead_by_layer(unused)) == sum(
        one.dead_neurons for one in unused.health("mlp").layer_analyses
    )
    lost = {"dead": 1.0, "saturated": 0.75, "missing": 0.5, "weak": 0.25, "sporadic": 0.25}
    score = 1 - sum(weight * layer.count(name) for name, weight in lost.items()) / (NEURONS - WIDTH)
    assert layer.health_score == pytest.approx(score)
    assert unused.sql("SELECT score FROM layer_health WHERE layer = 1").fetchone()[0] == pytest.approx(score)
    found = verify_run(unused.path, lambda tables, exact: classify_tables(tables, exact=exact))
    assert found.problems == () and any("neurons of experts the same number" in line for line in found.checked)


def test_commands_say_the_expert_and_the_load(unused: nf.Run, capsys: pytest.CaptureFixture[str]) -> None:
    store = ["--store", str(unused.path.parent)]

    def output(*arguments: str) -> str:
        capsys.readouterr()
        assert main([*arguments, *store]) == 0
        return capsys.readouterr().out

    assert "Router load" in output("health", "run")
    said = output("health", "run").replace("\n", " ")
    assert "NOTE the neurons of mlp.shared_experts.down_proj, which every token passes, are at" in said
    used = [n for layer in (1, 2) for n in unused.statistics("mlp", layer=layer).n if n]
    assert f"an expert has {min(used)} to {max(used)} of the {unused.tokens} tokens" in said
    layers = json.loads(output("health", "run", "--json"))["layer_analyses"]
    assert "router" not in layers[0] and layers[1]["router"]["experts"] == EXPERTS
    assert f"mlp:L1/N{NEURONS - 1} (expert {EXPERTS - 1})  absent, no token was routed to it" in output(
        "neuron", "run", f"L1/N{NEURONS - 1}"
    )
    assert json.loads(output("neuron", "run", "L2/N10", "--json"))["expert"] == 10 // WIDTH
    query = "SELECT n FROM neurons JOIN experts USING (site, layer) WHERE layer = 1 AND neuron % width = 0"
    loads = output("sql", "run", query)
    assert len(loads.split()) >= EXPERTS
    assert f"; {EXPERTS} experts of {WIDTH} neurons: N is of expert N // {WIDTH}\n" in output("info", "run")


def test_scores_of_attention_say_what_else_can_be_read(unused: nf.Run, capsys: pytest.CaptureFixture[str]) -> None:
    """The run has no other site to choose; nothing is loaded."""
    assert main(["attention", "nowhere", "--from", "run", "--store", str(unused.path.parent)]) == 2
    said = capsys.readouterr().err
    assert "found a mixture of experts at mlp of run: capture with --sites mlp,attn; attention MODEL --prompts" in said


def test_a_walk_without_lengths_of_output_weights_has_no_empty_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = model_of("mixtral")
    captured(model, tmp_path / "store").close()
    model.save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    capsys.readouterr()
    assert main(["walk", "run", "--model", str(tmp_path / "model"), "--store", str(tmp_path / "store")]) == 0
    found = capsys.readouterr()
    assert found.out.startswith("Surprisal of ") and found.out.count("\n") == 1
    assert "lengths of output weights at mlp are left out" in found.err


def test_a_trace_is_of_the_prompts_in_which_a_neuron_has_a_mean(unused: nf.Run) -> None:
    found = trace(unused, "red", "blue", top=8)
    means = unused.prompt_means("all", "mlp")
    index = unused.index("mlp")
    groups = {name: means.values[means.concept == name].astype(np.float64) for name in PROMPTS}
    centre = np.array([c[~np.isnan(c)].mean() if (~np.isnan(c)).any() else np.nan for c in groups["blue"].T])
    occurrences = np.zeros(len(centre), int)
    for prompt in groups["red"]:
        order = np.argsort(-np.where(np.isnan(prompt - centre), -np.inf, prompt - centre), kind="stable")[:8]
        occurrences[order] += 1
    assert len(found.neurons) == 8 and any("routed" in note for note in found.notes)
    for row in found.neurons:
        (column,) = np.flatnonzero((index.layer == row.layer) & (index.neuron == row.neuron))
        one, other = (group[:, column][~np.isnan(group[:, column])] for group in groups.values())
        assert row.occurrences == occurrences[column] and len(one) and len(other)
        assert (row.samples, row.baseline_samples) == (len(one), len(other))
        assert row.percent == pytest.approx(100 * row.occurrences / len(one))
        assert row.concept_mean == pytest.approx(one.mean()) and row.baseline_mean == pytest.approx(other.mean())
        assert row.auroc == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a in one for b in other]))
        if min(len(one), len(other)) < 2:
            assert row.effect_size is None and row.p_value is None
        else:
            pooled = (one.var(ddof=1) * (len(one) - 1) + other.var(ddof=1) * (len(other) - 1)) / (
                len(one) + len(other) - 2
            )
            correction = 1 - 3 / (4 * (len(one) + len(other)) - 9)
            assert row.effect_size == pytest.approx((one.mean() - other.mean()) / pooled**0.5 * correction, rel=1e-4)
    listed = [(row.occurrences, row.difference) for row in found.neurons]
    assert listed == sorted(listed, reverse=True)
    by_auroc = [
        (row.auroc, row.samples * row.baseline_samples, row.difference)
        for row in trace(unused, "red", "blue", rank="auroc", top=NEURONS).neurons
    ]
    assert by_auroc == sorted(by_auroc, reverse=True) and len({pairs for _, pairs, _ in by_auroc}) > 1
    counts = [(~np.isnan(group)).sum(0) for group in groups.values()]
    by_chance = sum(1 / comb(int(n + m), int(n)) for n, m in zip(*counts, strict=True) if n and m)
    (said,) = (note for note in found.notes if "AUROC 1" in note)
    assert f"about {by_chance:,.0f} would" in said


def test_what_two_traces_share_by_chance_is_of_the_neurons_that_both_could_list(unused: nf.Run) -> None:
    means, top = unused.prompt_means("all", "mlp"), 10
    has = [(~np.isnan(means.values[means.concept == name])).any(0) for name in PROMPTS]
    query = "SELECT class NOT IN ('dead', 'absent') FROM neurons WHERE site = 'mlp' ORDER BY layer, neuron"
    live = np.array([row[0] for row in unused.sql(query).fetchall()])
    both = has[0] & has[1] & live
    assert 0 < both.sum() < live.sum()
    index = unused.index("mlp")
    column = {place: i for i, place in enumerate(zip(index.layer.tolist(), index.neuron.tolist(), strict=True))}
    (pair,) = unused.overlap(list(PROMPTS), baseline="", top=top).pairs
    drawn = [
        sum(both[column[row.layer, row.neuron]] for row in trace(unused, name, "", top=top).neurons) for name in PROMPTS
    ]
    assert pair.eligible == both.sum() and pair.expected == pytest.approx(drawn[0] * drawn[1] / both.sum())


def test_figures_are_of_the_neurons_that_have_tokens(unused: nf.Run) -> None:
    table = health_chart(unused.health("mlp"), unused.tokens).table
    classes = np.sum([table.column(name) for name in CLASSES], axis=0)
    assert classes.tolist() == list(table.column("neurons")), "the bars end at 100 %"
    assert sum(table.column("neurons")) == sum(layer.neurons for layer in unused.site_layers("mlp")) - WIDTH
    dead = dead_chart(dead_by_layer(unused))
    assert dead.table.column("neurons") == table.column("neurons")
    assert f"Another {WIDTH} neurons of experts" in dead.findings[0]


def test_a_comparison_counts_the_neurons_that_it_compares(unused: nf.Run, tmp_path: Path) -> None:
    model = model_of("deepseek_v3")
    model.model.layers[1].mlp.gate.e_score_correction_bias[EXPERTS - 1] = -100
    found = diff(unused, captured(model, tmp_path, "again", sites=("mlp",)))
    assert found.compared == sum(layer.neurons for layer in unused.site_layers("mlp")) - WIDTH
    assert any(note.startswith(f"{WIDTH} neurons of experts") for note in found.notes)


def test_absent_neurons_are_in_the_population_of_no_kinds(unused: nf.Run) -> None:
    found = overlap_of_kinds(unused, ["normal", "weak", "dead"], "mlp")
    dead = sum(layer.dead_neurons for layer in unused.health("mlp").layer_analyses)
    total = sum(layer.neurons for layer in unused.site_layers("mlp"))
    assert (found.neurons, found.alive) == (total, total - dead - WIDTH)
    assert found.pair("normal", "weak").eligible == total - dead - WIDTH
    assert found.pair("normal", "dead").eligible == total - WIDTH


def test_what_needs_the_values_is_refused(unused: nf.Run) -> None:
    with pytest.raises(StoreError, match="statistics only"):
        unused.activations("mlp", 1)
    with pytest.raises(RequestError, match="no class 'gone': .*absent"):
        unused.neurons(cls="gone")


def test_an_experiment_takes_no_neuron_of_an_expert_for_one_of_another_site() -> None:
    loaded = in_memory(model_of("deepseek_v3"), word_tokenizer())
    (dense,) = resolve_addresses(loaded, [Address(0, 3, None)])
    assert dense.module.endswith("layers.0.mlp.down_proj")
    with pytest.raises(UnsupportedModel, match="mixture of experts"):
        resolve_addresses(loaded, [Address(1, 3, None)])
    assert [site.site for site in resolve_addresses(loaded, [Address(1, 3, "resid")])] == ["resid"]


def test_neurons_of_experts_are_edited_and_cut_out(tmp_path: Path) -> None:
    """By address or in a set, by every way to edit: on the tokens routed to the neuron's expert."""
    model = model_of("deepseek_v3")
    run = captured(model, tmp_path)
    neuron = int(run.statistics("mlp", layer=1).n[::WIDTH].argmax()) * WIDTH + 3
    add = ("--add", f"L1/N{neuron}", "--add", "L0/N3")
    assert main(["marks", "--run", "run", "--set", "hot", *add, "--store", str(tmp_path)]) == 0
    edited = captured(model, tmp_path, "edited", edits=["clamp @hot=2"])
    assert edited.statistics("mlp", layer=0).minimum[3] == edited.statistics("mlp", layer=0).maximum[3] == 2
    routed = edited.statistics("mlp", layer=1)
    assert 0 < routed.n[neuron] < edited.tokens and routed.minimum[neuron] == routed.maximum[neuron] == 2
    assert not (routed.maximum[np.arange(NEURONS) != neuron] == 2).any()
    told = nf.generate(model, word_tokenizer(), "w5 w6", clamp="@hot=2", new_tokens=2, controls=0, store=tmp_path)
    assert told.comparison is not None and told.comparison.delta_nll != 0
    every = ",".join(
        f"L1/N{n}" for n in range(3, NEURONS, WIDTH)
    )  # one of each expert: they change where they are read
    one = nf.generate(model, word_tokenizer(), "w5 w6", clamp=f"{every}=2", new_tokens=2, controls=0, store=tmp_path)
    assert one.edited is not None and one.comparison is not None
    assert one.comparison.changed_values == len(one.edited.tokens) * model.config.num_experts_per_tok
    with pytest.raises(
        UnsupportedModel, match="found a mixture of experts .*: a token has values of few of its neurons"
    ):
        captured(model, tmp_path, "direction", edits=["direction run:red-blue@mlp:L1=1"])
    loaded = in_memory(model, word_tokenizer())
    text = Corpus("text", np.arange(5, 45, dtype=np.int64), None, "")
    hot = NeuronSet.of("hot", [Address(1, expert * WIDTH + 3, None) for expert in range(EXPERTS)])
    cut = ablate(loaded, text, [hot], controls=0)
    with pytest.raises(RequestError, match="expected --mode zero for neurons of experts, as in layer 1"):
        ablate(loaded, text, [hot], mode="mean", run=run, controls=0)
    with torch.no_grad():
        model.model.layers[1].mlp.experts.down_proj[:, :, 3] = 0
    without = ablate(in_memory(model, word_tokenizer()), text, [], controls=0)
    assert cut.sets[0].nll == pytest.approx(without.baseline_nll, rel=1e-5)
    assert cut.sets[0].nll != cut.baseline_nll


def test_controls_of_neurons_of_experts_are_of_the_same_experts() -> None:
    (site,) = find_sites(model_of("mixtral"), ["mlp"], [1], experts=True)
    taken = [3, 2 * WIDTH + 1, 2 * WIDTH + 4]
    for control in control_sets({site: taken}, 50, seed=1):
        assert (control[site] // WIDTH).tolist() == [0, 2, 2] and not set(control[site].tolist()) & set(taken)
    assert crowded_layer({site: list(range(WIDTH // 2))}) is None
    assert crowded_layer({site: list(range(WIDTH // 2 + 1))}) == site


def test_a_resumed_layer_goes_on_from_what_was_stored(unused: nf.Run) -> None:
    layer = next(one for one in unused.layers if one.experts)
    again = ExpertLayer(layer, unused.info.seed)
    again.restore(unused)
    found = again.snapshot()
    for first, told in unused.statistics_apart(layer).items():
        for name, array in vars(told).items():
            np.testing.assert_array_equal(getattr(found.statistics[first], name), array)
    for concept, one in unused.concept_statistics(layer).items():
        for name, array in vars(one).items():
            np.testing.assert_array_equal(getattr(found.concepts[concept], name), array)
    for kind in ("top", "min", "random"):
        tokens, values = unused.layer_examples(layer, kind, KEPT)
        np.testing.assert_array_equal(found.examples[kind][0], tokens)
        np.testing.assert_array_equal(found.examples[kind][1][tokens >= 0], values[tokens >= 0])
    np.testing.assert_array_equal(
        found.histograms[True] + found.histograms[False], unused.histograms(layer.site, layer.layer)
    )


def test_batches_and_where_change_no_figure(tmp_path: Path) -> None:
    model = model_of("mixtral")
    one = captured(model, tmp_path, "one", batch_size=1)
    several = captured(model, tmp_path, "several", batch_size=6, writers=2)
    assert one.sites == ("mlp",)
    for layer in one.layers:
        a, b = (run.statistics("mlp", layer=layer.layer) for run in (one, several))
        np.testing.assert_array_equal(a.n, b.n)
        np.testing.assert_allclose(a.mean, b.mean, rtol=1e-4, atol=1e-6)
    found = diff(one, several)
    assert (found.died, found.woke, found.moved) == (0, 0, 0)
    some = captured(model, tmp_path, "some", where="tokens=1-2")
    told = Whole(model, one, 0)
    recorded = (told.position == 1) | (told.position == 2)
    np.testing.assert_array_equal(some.statistics("mlp", layer=0).n, (~np.isnan(told.values[recorded])).sum(0))


def test_an_estimate_is_of_the_chosen_experts(tmp_path: Path) -> None:
    model_of("mixtral").save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("w5 w6 w7\nw8 w9")
    request = CaptureRequest(
        str(tmp_path / "model"), tmp_path, prompts=(PromptFile(tmp_path / "prompts.txt"),), keep="stats"
    )
    found = estimate(request)
    assert found.values == found.tokens * 3 * CHOSEN * WIDTH


def test_a_recording_holds_the_same(tmp_path: Path) -> None:
    model, ids = model_of("olmoe"), [[0, 0, 5, 6, 7], [9, 10, 11, 12, 13]]
    with (
        nf.record(model, word_tokenizer(), store=tmp_path, run="r", keep="stats") as recording,
        torch.no_grad(),
    ):
        mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
        model(torch.tensor(ids), attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0))
    run = recording.run
    for layer in run.layers:
        told = Whole(model, run, layer.layer)
        found = run.statistics("mlp", layer=layer.layer)
        np.testing.assert_array_equal(found.n, (~np.isnan(told.values)).sum(0))
        used = found.n > 0
        np.testing.assert_allclose(found.mean[used], np.nanmean(told.values[:, used], 0), rtol=1e-4, atol=1e-6)


def test_a_capture_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it matter whether there are compiled loops."""
    layer = Layer(0, "mlp", 0, "h.0.experts", NEURONS, "silu", "gate", EXPERTS)
    rng = np.random.default_rng(4)
    sizes = rng.integers(1, 9, 12).tolist()
    prompts = [
        RecordedPrompt("red" if i % 3 else "blue", "t", list(range(size)), ["t"] * size, max(1, size - 2))
        for i, size in enumerate(sizes)
    ]
    given = []
    for size in sizes:
        values = rng.normal(size=(size, CHOSEN * WIDTH)).astype(np.float32)
        experts = np.stack([rng.permutation(EXPERTS)[:CHOSEN] for _ in range(size)]).astype(np.int64)
        given.append({0: LayerValues(values, values > 0, experts=experts)})
    info = replace(array_info("run", 7), settings={"keep": "stats"})

    def recorded(path: Path, cut: int) -> RunFile:
        writer = RunWriter.create(path, info, (layer,))
        recorder = Recorder(writer, 7, torch.device("cpu"), commits=False)
        for i, (prompt, values) in enumerate(zip(prompts, given, strict=True)):
            if i == cut:
                recorder.commit({"status": "capturing"}, final=False)
                writer.close()
                writer = RunWriter.reopen(path)
                recorder = Recorder(writer, 7, torch.device("cpu"), commits=False)
            recorder.add([prompt], values)
        recorder.commit({"status": "complete"}, final=True)
        writer.close()
        assert verify_run(path).problems == ()
        return RunFile.open(path)

    tables = ("statistics", "concept_statistics", "histograms", "examples", "prompt_means", "neurons")

    def held(path: Path, cut: int) -> dict[str, list[Any]]:
        with recorded(path, cut) as run:
            return {name: run.cursor().execute(f"FROM {name} ORDER BY ALL").fetchall() for name in tables}

    whole = held(tmp_path / "whole.duckdb", -1)
    assert held(tmp_path / "cut.duckdb", 5) == whole
    monkeypatch.setattr(kernels, "_kernels", None)
    assert held(tmp_path / "numpy.duckdb", -1) == whole

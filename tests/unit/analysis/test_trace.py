"""Traces against methods §3 as plain loops over the prompts' values."""

import json
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest
from analysis_runs import MakeRun, array_prompt, mlp_layers

from nfinspect.analysis.overlap import overlap
from nfinspect.analysis.trace import Trace, top_columns, trace
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Layer

CONCEPTS = ("tulip", "baseline", "vietnam")


class Case:
    """A run of ragged prompts and its values by prompt and layer."""

    def __init__(self, make_run: MakeRun, seed: int, *, generated: bool = True, grid: bool = False):
        rng = np.random.default_rng(seed)
        # A prompt of one token, one that generated nothing, one that read nothing past position 0.
        shapes = [(1, 1), (4, 4), (1, 5)] + [(int(rng.integers(2, 6)), int(rng.integers(6, 12))) for _ in range(21)]
        self.prompts = [
            array_prompt(CONCEPTS[i % 3], total, read if generated else total) for i, (read, total) in enumerate(shapes)
        ]
        layers = [*mlp_layers(3, 7), Layer(3, "resid", 0, "h.0", 5, "", "scale")]
        tokens = sum(len(p.token_ids) for p in self.prompts)
        self.values = {x.layer_id: rng.normal(size=(tokens, x.neurons)).astype(np.float32) for x in layers}
        if grid:
            self.values = {key: np.round(array) for key, array in self.values.items()}
        starts = np.cumsum([0, *(len(p.token_ids) for p in self.prompts)])
        for i, prompt in enumerate(self.prompts):
            if prompt.concept == "tulip":
                self.values[1][starts[i] : starts[i + 1], 4] += 2
                self.values[2][starts[i] : starts[i + 1], :] += 0.2
            for array in self.values.values():
                array[starts[i]] *= 50  # position 0 must not count
        self.starts = starts
        self.run: RunFile = make_run(layers, self.prompts, self.values)

    def means(self, concept: str, tokens: str) -> list[list[float]]:
        """v of every prompt of a concept, over the mlp neurons in order of layer and neuron."""
        rows = []
        for i, prompt in enumerate(self.prompts):
            if prompt.concept != concept:
                continue
            positions = list(range(len(prompt.token_ids)))
            if tokens == "generated":
                positions = [k for k in positions if k >= prompt.prompt_tokens]
            elif tokens == "last":
                positions = positions[-1:]
            positions = [k for k in positions if k > 0]
            if positions:
                where = self.starts[i] + np.array(positions)
                rows.append([float(x) for n in range(3) for x in self.values[n][where].astype(float).mean(axis=0)])
        return rows


def reference(concept: list[list[float]], baseline: list[list[float]] | None, top: int) -> list[tuple[int, int]]:
    """(column, occurrences) of the trace, ordered."""
    neurons = range(len(concept[0]))
    base = [0.0 if baseline is None else sum(row[n] for row in baseline) / len(baseline) for n in neurons]
    occurrences = dict.fromkeys(neurons, 0)
    for row in concept:
        for n in sorted(neurons, key=lambda n, row=row: (-(row[n] - base[n]), n))[:top]:
            occurrences[n] += 1
    difference = {n: sum(row[n] for row in concept) / len(concept) - base[n] for n in neurons}
    order = sorted(neurons, key=lambda n: (-occurrences[n], -difference[n], n))[:top]
    return [(n, occurrences[n]) for n in order]


CaseOf = Callable[..., Case]


@pytest.fixture(scope="module")
def case_of(make_shared_run: MakeRun) -> CaseOf:
    """case_of(seed, generated=…, grid=…) -> a case whose run is open. Not to be changed."""
    return cache(lambda seed, **how: Case(make_shared_run, seed, **how))


def columns(found: Trace) -> list[tuple[int, int]]:
    return [(row.layer * 7 + row.neuron, row.occurrences) for row in found.neurons]


@pytest.mark.parametrize("tokens", ["last", "generated", "all"])
@pytest.mark.parametrize("seed", range(5))
def test_trace_as_plain_loops(case_of: CaseOf, seed: int, tokens: str) -> None:
    case = case_of(seed)
    concept, baseline = case.means("tulip", tokens), case.means("baseline", tokens)
    found = trace(case.run, "tulip", tokens=tokens, top=6)
    assert columns(found) == reference(concept, baseline, 6)
    assert (found.samples, found.baseline_samples) == (len(concept), len(baseline))
    for place, row in enumerate(found.neurons, 1):
        n = row.layer * 7 + row.neuron
        mean, base = np.mean([r[n] for r in concept]), np.mean([r[n] for r in baseline])
        assert row.rank == place
        assert row.concept_mean == pytest.approx(mean, abs=1e-6)
        assert row.baseline_mean == pytest.approx(base, abs=1e-6)
        assert row.difference == pytest.approx(mean - base, abs=1e-6)
        assert row.percent == pytest.approx(100 * row.occurrences / len(concept))
    assert found.neurons[0].address == "L1/N4"


def test_only_prompts_with_such_a_token_past_position_zero_count(case_of: CaseOf) -> None:
    case = case_of(0)
    # Of 8 tulip prompts one has a single token, and of 8 baseline prompts one generated nothing.
    assert trace(case.run, "tulip", tokens="all").samples == 7
    assert trace(case.run, "vietnam", tokens="generated").baseline_samples == 7
    notes = trace(case.run, "tulip", tokens="generated").notes
    assert any("1 of 8 prompts of 'tulip'" in note for note in notes)
    assert any("1 of 8 prompts of 'baseline'" in note for note in notes)
    assert trace(case.run, "vietnam", "tulip", tokens="last").samples == 8


def test_generated_tokens_are_the_default_where_there_are_any(case_of: CaseOf) -> None:
    assert trace(case_of(1).run, "tulip").tokens == "generated"
    read_only = case_of(1, generated=False)
    assert trace(read_only.run, "tulip").tokens == "all"
    with pytest.raises(RequestError, match="no generated tokens"):
        trace(read_only.run, "tulip", tokens="generated")


def test_no_baseline_can_be_asked_for_where_there_is_one(case_of: CaseOf) -> None:
    """As where the run has no concept of that name; left open, that concept is the baseline."""
    run = case_of(0).run
    assert trace(run, "tulip").baseline == "baseline"
    raw = trace(run, "tulip", baseline="", top=5)
    assert raw.baseline is None and {row.difference for row in raw.neurons} == {None}
    assert any("raw values" in note for note in raw.notes)
    assert overlap(run, ["tulip", "vietnam"], baseline="").baseline is None
    with pytest.raises(RequestError, match="needs a baseline"):
        trace(run, "tulip", baseline="", rank="auroc")


@pytest.mark.parametrize("seed", range(5))
def test_without_a_baseline_raw_values_are_ranked_and_said_so(case_of: CaseOf, seed: int) -> None:
    case = case_of(seed)
    found = trace(case.run, "baseline", top=5)
    assert columns(found) == reference(case.means("baseline", "generated"), None, 5)
    assert found.baseline is None
    assert any("outlier" in note for note in found.notes)
    for row in found.neurons:
        undefined = (row.baseline_mean, row.difference, row.effect_size, row.auroc, row.p_value, row.q_value)
        assert undefined == (None,) * 6
    with pytest.raises(RequestError, match="baseline"):
        trace(case.run, "baseline", rank="effect")


def test_ties_go_to_the_earlier_layer_and_neuron(case_of: CaseOf) -> None:
    case = case_of(2, grid=True)
    for tokens in ("last", "all"):
        for top in (1, 3, 10, 21, 50):
            expected = reference(case.means("vietnam", tokens), case.means("tulip", tokens), top)
            assert columns(trace(case.run, "vietnam", "tulip", tokens, top)) == expected


@pytest.mark.parametrize("rank", ["effect", "auroc"])
def test_other_ranks_order_all_neurons_by_their_statistic(case_of: CaseOf, rank: str) -> None:
    case = case_of(3)
    whole = trace(case.run, "tulip", top=21)
    field = "effect_size" if rank == "effect" else "auroc"
    value = {(row.layer, row.neuron): (getattr(row, field), row.difference) for row in whole.neurons}
    found = trace(case.run, "tulip", top=4, rank=rank)
    expected = sorted(value, key=lambda n: (-value[n][0], -value[n][1], n))[:4]
    assert [(row.layer, row.neuron) for row in found.neurons] == expected


def test_q_values_run_over_all_neurons_not_only_those_shown(case_of: CaseOf) -> None:
    case = case_of(4)
    everything = {(r.layer, r.neuron): r.q_value for r in trace(case.run, "tulip", top=21).neurons}
    for row in trace(case.run, "tulip", top=3).neurons:
        assert row.q_value == everything[row.layer, row.neuron]


def test_statistics_of_a_row(case_of: CaseOf) -> None:
    from scipy import stats

    case = case_of(5)
    concept, baseline = np.array(case.means("tulip", "all")), np.array(case.means("baseline", "all"))
    every = stats.ttest_ind(concept, baseline, equal_var=False)
    q = stats.false_discovery_control(every.pvalue)
    for row in trace(case.run, "tulip", tokens="all").neurons:
        n = row.layer * 7 + row.neuron
        u = stats.mannwhitneyu(concept[:, n], baseline[:, n]).statistic
        assert row.t == pytest.approx(every.statistic[n], rel=1e-4)
        assert row.p_value == pytest.approx(every.pvalue[n], rel=1e-4)
        assert row.q_value == pytest.approx(q[n], rel=1e-4)
        assert row.auroc == pytest.approx(u / len(concept) / len(baseline))


def test_dead_neurons_have_no_p_and_do_not_count_in_q(make_run: MakeRun) -> None:
    prompts = [array_prompt(("tulip", "baseline")[i % 2], 5) for i in range(8)]
    values = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    values[:, 3:] = 0
    found = trace(make_run(mlp_layers(1, 6), prompts, {0: values}), "tulip", top=6).neurons
    p = sorted(row.p_value for row in found if row.p_value is not None)
    assert len(p) == 3
    dead = [row for row in found if row.neuron >= 3]
    assert [(r.effect_size, r.t, r.p_value, r.q_value) for r in dead] == [(None,) * 4] * 3
    assert [row.auroc for row in dead] == [0.5] * 3
    worst = max((row for row in found if row.p_value is not None), key=lambda row: row.p_value or 0)
    assert worst.q_value == pytest.approx(worst.p_value)


def test_a_single_prompt_of_each_side_has_a_trace_without_tests(make_run: MakeRun) -> None:
    prompts = [array_prompt("tulip", 3), array_prompt("baseline", 3)]
    values = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    found = trace(make_run(mlp_layers(1, 4), prompts, {0: values}), "tulip", top=2)
    assert len(found.neurons) == 2
    assert all(row.effect_size is None and row.p_value is None for row in found.neurons)
    json.dumps(found.to_json(), allow_nan=False)


def test_sites_are_never_mixed(case_of: CaseOf) -> None:
    case = case_of(6)
    found = trace(case.run, "tulip", site="resid", top=50)
    assert {row.site for row in found.neurons} == {"resid"}
    assert len(found.neurons) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"concept": "rose"}, "rose.*tulip, baseline, vietnam"),
        ({"concept": "tulip", "baseline": "rose"}, "rose.*tulip"),
        ({"concept": "tulip", "baseline": "tulip"}, "compared with itself.*baseline, vietnam"),
        ({"concept": "tulip", "tokens": "first"}, "last, generated, all"),
        ({"concept": "tulip", "rank": "size"}, "difference, effect, auroc"),
        ({"concept": "tulip", "top": 0}, "from 1 up"),
        ({"concept": "tulip", "site": "attn"}, "mlp, resid"),
    ],
)
def test_wrong_requests_name_what_there_is(case_of: CaseOf, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        trace(case_of(0).run, **arguments)  # type: ignore[arg-type]


def test_a_concept_without_a_token_to_take_is_refused(make_run: MakeRun) -> None:
    prompts = [array_prompt("tulip", 1), array_prompt("baseline", 4)]
    run = make_run(mlp_layers(1, 3), prompts, {0: np.ones((5, 3), np.float32)})
    with pytest.raises(RequestError, match="'tulip' has a token past position 0"):
        trace(run, "tulip")
    with pytest.raises(RequestError, match="'tulip'"):
        trace(run, "baseline", "tulip")


def test_json_has_the_fields_of_the_contract(case_of: CaseOf) -> None:
    document = json.loads(json.dumps(trace(case_of(0).run, "tulip").to_json(), allow_nan=False))
    assert set(document) >= {"concept", "baseline", "tokens", "samples", "neurons"}
    assert set(document["neurons"][0]) >= {
        "rank",
        "site",
        "layer",
        "neuron",
        "occurrences",
        "samples",
        "percent",
        "concept_mean",
        "baseline_mean",
        "difference",
        "effect_size",
        "auroc",
        "p_value",
        "q_value",
    }


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("neurons", [30, 500])
def test_top_columns_are_a_stable_sort(seed: int, neurons: int) -> None:
    rng = np.random.default_rng(seed)
    values = np.round(3 * rng.normal(size=(6, neurons)))
    values[0, 5:] = -np.inf  # what has no statistic comes last
    for top in (1, 5, 29, 30, 40):
        for row in values:
            expected: Sequence[int] = sorted(range(neurons), key=lambda n, row=row: (-row[n], n))[:top]
            assert top_columns(row, top).tolist() == expected

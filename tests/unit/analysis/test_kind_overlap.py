"""What kinds of neurons share, against chance: planted sets and the hypergeometric law (methods §4)."""

import json
from math import comb

import numpy as np
import pytest
from analysis_runs import MakeRun, array_prompt, mlp_layers
from kept_kinds import Places, keep_attention, keep_kind

from nfinspect.analyses.kind_overlap import overlap_of_kinds
from nfinspect.analyses.neuron_kinds import NoKeptResult
from nfinspect.analysis.enough import few_tokens
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile

LAYERS, NEURONS, DEAD = 2, 30, 6
TOTAL, ALIVE = LAYERS * NEURONS, LAYERS * (NEURONS - DEAD)


def case(make_run: MakeRun) -> RunFile:
    """Two layers of 30 ReLU neurons, the first 6 of each dead."""
    rng = np.random.default_rng(1)
    values = {n: np.maximum(rng.normal(size=(60, NEURONS)), 0).astype(np.float32) for n in range(LAYERS)}
    for layer in values.values():
        layer[:, :DEAD] = 0
    return make_run(mlp_layers(LAYERS, NEURONS, "relu"), [array_prompt("a", 6) for _ in range(10)], values)


def tail(shared: int, a: int, b: int, of: int) -> float:
    """P(X >= shared) by counting draws."""
    return sum(comb(a, k) * comb(of - a, b - k) for k in range(shared, min(a, b) + 1)) / comb(of, b)


POSITIONAL: Places = [(0, n) for n in range(10, 20)]
DELTA: Places = [(0, n) for n in range(16, 24)] + [(1, 9), (1, 10)]
DETECTORS: Places = [(0, 19), (1, 9), (1, 29)]


@pytest.fixture(scope="module")
def planted(make_shared_run: MakeRun) -> RunFile:
    """A run beside which these kinds are kept. Not to be changed."""
    run = case(make_shared_run)
    keep_kind(run, "positions", POSITIONAL)
    keep_kind(run, "delta", DELTA)
    keep_kind(run, "ngrams", DETECTORS, n=1)
    return run


def test_planted_sets_against_chance(planted: RunFile) -> None:
    found = overlap_of_kinds(planted, ["dead", "positional", "delta", "ngrams1"])
    assert (found.neurons, found.alive, found.site) == (TOTAL, ALIVE, "mlp")
    assert {one.kind: one.neurons for one in found.sets} == {"dead": 12, "positional": 10, "delta": 10, "ngrams1": 3}
    assert len(found.pairs) == 6
    for (a, b), shared in {
        ("positional", "delta"): [(0, 16), (0, 17), (0, 18), (0, 19)],
        ("positional", "ngrams1"): [(0, 19)],
        ("delta", "ngrams1"): [(0, 19), (1, 9)],
    }.items():
        pair = found.pair(b, a)
        assert (pair.a, pair.b, pair.eligible) == (a, b, ALIVE)
        assert [(one.layer, one.neuron) for one in pair.shared] == shared
        assert pair.overlap == len(shared)
        assert pair.jaccard == pytest.approx(len(shared) / (pair.neurons_a + pair.neurons_b - len(shared)))
        assert pair.expected == pytest.approx(pair.neurons_a * pair.neurons_b / ALIVE)
        assert pair.p_value == pytest.approx(tail(len(shared), pair.neurons_a, pair.neurons_b, ALIVE))


def test_a_pair_with_dead_is_counted_among_all_neurons(planted: RunFile) -> None:
    found = overlap_of_kinds(planted, ["positional", "dead"])
    (pair,) = found.pairs
    assert (pair.eligible, pair.overlap, pair.neurons_b) == (TOTAL, 0, 12)
    assert pair.expected == pytest.approx(10 * 12 / TOTAL)
    assert pair.p_value == 1


def test_dead_neurons_are_left_out_of_other_pairs(make_run: MakeRun) -> None:
    run = case(make_run)
    keep_kind(run, "positions", [(0, 0), (0, 1), (0, 10)])
    keep_kind(run, "delta", [(0, 0), (0, 10), (0, 11)])
    found = overlap_of_kinds(run, ["positional", "delta"])
    assert [(one.neurons, one.dead) for one in found.sets] == [(3, 2), (3, 1)]
    (pair,) = found.pairs
    assert (pair.neurons_a, pair.neurons_b, pair.overlap) == (1, 2, 1)
    assert pair.p_value == pytest.approx(tail(1, 1, 2, ALIVE))


def test_joined_kinds_are_sets_of_their_own(planted: RunFile) -> None:
    found = overlap_of_kinds(planted, ["dead+positional", "delta"])
    (pair,) = found.pairs
    assert (pair.neurons_a, pair.overlap, pair.eligible) == (22, 4, TOTAL)
    assert pair.p_value == pytest.approx(tail(4, 22, 10, TOTAL))


def test_empty_kinds_are_undefined_and_no_error(make_run: MakeRun) -> None:
    run = case(make_run)
    for n in (1, 2):
        keep_kind(run, "ngrams", [], n=n)
    keep_kind(run, "positions", [(0, 10)])
    found = overlap_of_kinds(run, ["ngrams1", "ngrams2", "positional"])
    nothing = found.pair("ngrams1", "ngrams2")
    assert (nothing.overlap, nothing.jaccard, nothing.expected, nothing.p_value) == (0, None, None, None)
    one = found.pair("ngrams1", "positional")
    assert (one.overlap, one.jaccard, one.expected, one.p_value) == (0, 0, 0, 1)


def test_fewer_than_two_different_kinds_are_refused(planted: RunFile) -> None:
    for kinds in (["dead"], [], ["dead", "dead"], ["dead+positional", "positional+dead"]):
        with pytest.raises(RequestError, match="two or more different kinds"):
            overlap_of_kinds(planted, kinds)
    with pytest.raises(NoKeptResult, match="nfinspect ngrams .* --n 3"):
        overlap_of_kinds(planted, ["dead", "ngrams3"])


def test_the_document_says_where_the_kinds_come_from(planted: RunFile) -> None:
    found = json.loads(json.dumps(overlap_of_kinds(planted, ["dead", "ngrams1"]).to_json(), allow_nan=False))
    assert found["kinds"] == ["dead", "ngrams1"]
    assert [one["results"] for one in found["sets"]] == [
        [],
        [{"kind": "ngrams", "settings": {"site": "mlp", "n": 1}, "not_of_run": None}],
    ]
    assert set(found["pairs"][0]) == {
        *("a", "b", "neurons_a", "neurons_b", "eligible", "overlap", "jaccard", "expected", "p_value", "shared"),
    }


def test_what_a_kind_rests_on_is_said_of_every_kind(make_run: MakeRun) -> None:
    """60 tokens tell little of a health class; what a kept result says of itself stands in its document."""
    run = case(make_run)
    kinds = {"positions": "positional", "delta": "delta", "ngrams": "ngrams1"}
    for kind, name in kinds.items():
        keep_kind(run, kind, [(0, 20)], notes=(f"only a little of {name}",), n=1)
    keep_attention(run, [(0, 21)])
    found = overlap_of_kinds(run, ["dead", "normal", *kinds.values(), "attention"]).notes
    for name in kinds.values():
        assert f"{name}: only a little of {name}" in found
    assert "attention: only 3 prompts" in found
    assert [note for note in found if "dead on all of them" in note] == [few_tokens(60)]
    none = overlap_of_kinds(run, ["saturated", "delta"]).notes
    assert not any("come alive" in note for note in none), "there is nothing to beware of where a class is empty"


def test_kinds_that_exclude_each_other_are_named(make_run: MakeRun) -> None:
    """Sharing nothing is no finding there. A joined kind excludes another only if all its parts do."""
    run = case(make_run)
    keep_kind(run, "positions", [(0, 20)])
    said = overlap_of_kinds(run, ["dead", "normal", "positional", "dead+positional", "saturated"]).notes
    (note,) = [one for one in said if "by definition" in one]
    expected = ["dead and normal", "dead and positional", "dead and saturated", "normal and saturated"]
    assert note == f"these kinds exclude each other by definition: {', '.join(expected)}"
    assert not any("by definition" in one for one in overlap_of_kinds(run, ["normal", "positional"]).notes)

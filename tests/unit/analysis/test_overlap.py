"""Overlap of traces against chance (methods §4)."""

import json
from math import comb

import numpy as np
import pytest
from analysis_runs import MakeRun, array_prompt, mlp_layers
from scipy import stats

from nfinspect.analysis.overlap import against_chance, count_alive, overlap
from nfinspect.analysis.trace import trace
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile

CONCEPTS = ("baseline", "tulip", "vietnam", "hanoi")


@pytest.fixture(scope="module")
def run(make_shared_run: MakeRun) -> RunFile:
    """Not to be changed."""
    rng = np.random.default_rng(0)
    prompts = [array_prompt(CONCEPTS[i % 4], 5, 3) for i in range(24)]
    values = {n: rng.normal(size=(120, 20)).astype(np.float32) for n in range(3)}
    for i in range(24):
        place = slice(5 * i, 5 * i + 5)
        values[0][place, :2] += 3 * (i % 4 in (2, 3))  # vietnam and hanoi share two neurons
        values[1][place, 5] += 3 * (i % 4 == 1)
    values[2][:, :15] = 0
    return make_shared_run(mlp_layers(3, 20, "relu"), prompts, values)


def test_fixture() -> None:
    chance = against_chance(3, 50, 50, 3072)
    assert chance.expected == pytest.approx(0.8138, abs=5e-5)
    assert chance.p_value == pytest.approx(0.04657, abs=5e-6)
    assert against_chance(5, 50, 50, 3072).p_value == pytest.approx(0.001137, abs=5e-7)
    assert chance.jaccard == pytest.approx(3 / 97)


@pytest.mark.parametrize(("shared", "a", "b", "n"), [(0, 3, 4, 20), (2, 3, 4, 20), (3, 3, 4, 20), (4, 4, 4, 4)])
def test_chance_by_counting_draws(shared: int, a: int, b: int, n: int) -> None:
    tail = sum(comb(a, k) * comb(n - a, b - k) for k in range(shared, min(a, b) + 1)) / comb(n, b)
    assert against_chance(shared, a, b, n).p_value == pytest.approx(tail)


def test_p_values_are_those_of_scipy_from_one_to_next_to_nothing() -> None:
    rng = np.random.default_rng(5)
    for draw in range(200):
        eligible = int(rng.integers(1, 50_000 if draw % 2 else 12))
        a, b = (int(rng.integers(1, eligible + 1)) for _ in "ab")
        lowest, highest = max(0, a + b - eligible), min(a, b)
        for shared in {lowest, highest, (lowest + highest) // 2, min(a * b // eligible + 3, highest)}:
            expected = stats.hypergeom.sf(shared - 1, eligible, a, b)
            found = against_chance(shared, a, b, eligible).p_value
            assert found == pytest.approx(expected, rel=1e-12, abs=1e-280), (shared, a, b, eligible)


def test_empty_sets_are_undefined() -> None:
    nothing = against_chance(0, 0, 0, 100)
    assert (nothing.jaccard, nothing.expected, nothing.p_value) == (None, None, None)
    assert against_chance(0, 0, 5, 100).jaccard == 0
    assert against_chance(0, 0, 5, 100).expected == 0


def test_sets_larger_than_what_is_eligible_have_no_p() -> None:
    chance = against_chance(3, 10, 10, 8)
    assert chance.p_value is None
    assert against_chance(0, 1, 1, 0).expected is None


def test_pairs_are_the_intersections_of_the_traces(run: RunFile) -> None:
    found = overlap(run, ["tulip", "vietnam", "hanoi"], top=6)
    assert [(p.a, p.b) for p in found.pairs] == [
        ("tulip", "vietnam"),
        ("tulip", "hanoi"),
        ("vietnam", "hanoi"),
    ]
    ranks = {
        concept: {(r.layer, r.neuron): r.rank for r in trace(run, concept, top=6).neurons} for concept in found.concepts
    }
    for pair in found.pairs:
        both = ranks[pair.a].keys() & ranks[pair.b].keys()
        assert {(s.layer, s.neuron) for s in pair.shared} == both
        assert pair.overlap == len(both)
        assert pair.jaccard == len(both) / (12 - len(both))
        assert pair.expected == 36 / found.eligible
        for shared in pair.shared:
            place = (shared.layer, shared.neuron)
            assert (shared.rank_a, shared.rank_b) == (ranks[pair.a][place], ranks[pair.b][place])
            assert shared.address == f"L{shared.layer}/N{shared.neuron}"
        assert [s.rank_a for s in pair.shared] == sorted(s.rank_a for s in pair.shared)
    assert {"L0/N0", "L0/N1"} <= {s.address for s in found.pair("hanoi", "vietnam").shared}


def test_only_alive_neurons_of_the_site_are_eligible(run: RunFile) -> None:
    assert overlap(run, ["tulip", "vietnam"]).eligible == 60 - 15
    assert count_alive(run, "mlp") == 45


def test_notes_and_options_are_those_of_the_traces(run: RunFile) -> None:
    assert overlap(run, ["tulip", "vietnam"]).baseline == "baseline"
    assert overlap(run, ["tulip", "vietnam"], "hanoi", "last", 3, "auroc").rank == "auroc"
    assert any("baseline" in note for note in overlap(run, ["tulip", "vietnam"]).notes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"concepts": ["tulip"]}, "two or more"),
        ({"concepts": ["tulip", "tulip"]}, "two or more different"),
        ({"concepts": ["tulip", "rose"]}, "rose"),
        ({"concepts": ["tulip", "baseline"]}, "is the baseline"),
        ({"concepts": ["tulip", "hanoi"], "baseline": "hanoi"}, "is the baseline"),
    ],
)
def test_wrong_requests(run: RunFile, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        overlap(run, **arguments)  # type: ignore[arg-type]


def test_json_has_the_fields_of_the_contract(run: RunFile) -> None:
    document = json.loads(json.dumps(overlap(run, ["tulip", "hanoi"]).to_json(), allow_nan=False))
    assert set(document) >= {"concepts", "top", "pairs"}
    assert set(document["pairs"][0]) >= {"a", "b", "overlap", "jaccard", "expected", "p_value", "shared"}
